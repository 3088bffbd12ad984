//! The ublk part against the kernel: each test makes devices of its own and removes them.
//!
//! Skipped, with the reason, where the kernel has no ublk.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they skip"
)]

mod buffers;
mod data;
mod ends;
mod errors;
mod flags;
mod life;
mod peer;
mod support;
