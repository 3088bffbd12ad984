//! The command: attachments, their processes, their ends, and what is said about plugins.

#![allow(clippy::unwrap_used, reason = "test code")]

mod attach;
mod bench;
mod check;
mod cli;
mod crashed;
mod examples;
mod log;
mod module;
mod nasty;
mod processes;
mod progress;
mod refusals;
mod saying;
mod steady;
