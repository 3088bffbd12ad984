//! The Python host without any front end. Each test needs a process of its own: an interpreter is loaded
//! with one plugin for life.

#![allow(clippy::unwrap_used, reason = "test code")]

mod conformance;
mod coroutine_ends;
mod coroutines;
mod exports;
mod host;
mod layers;
mod lint;
mod module;
