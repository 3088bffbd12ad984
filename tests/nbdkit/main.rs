//! What nbdkit does with the same plugins, parameters and command lines, and pydisk in its place.

#![allow(clippy::unwrap_used, reason = "test code")]

mod attacked;
mod command;
mod differential;
mod places;
mod random;
mod rights;
mod server;
mod shown;
mod styles;
mod vectors;
