//! The disk interface without Python and without a kernel: every disk keeps the same promises.

#![allow(clippy::unwrap_used, reason = "test code")]

mod conformance;
mod model;
mod serial;
mod star;
