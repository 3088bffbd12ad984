//! Write a disk in Python, mount it: the library behind the `pydisk` command.
//!
//! `docs/architecture.md` shows how a request travels through these modules.
#![deny(unsafe_code)]

pub mod agent;
pub mod attachment;
pub mod bench;
#[cfg(test)]
mod chance;
pub mod check;
pub mod cli;
pub mod disk;
mod escape;
pub mod frontends;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod interrupt;
pub mod layers;
mod logging;
pub mod params;
mod progress;
pub mod python;
mod refusal;
mod sync;
pub mod worker;

pub use refusal::{Cause, Kind, Refusal, ResultExt};
