//! The NBD part against the kernel: each test makes devices of its own and removes them.
//!
//! Skipped, with the reason, where the kernel has no NBD client.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod life;
mod support;
