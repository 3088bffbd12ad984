//! NBD servers of the real command, and the programs that are their clients.

#![allow(clippy::unwrap_used, reason = "test code")]

mod clients;
mod exports;
mod hostile;
mod layers;
mod patience;
mod qemu;
mod semantics;
mod server;
mod tls;
