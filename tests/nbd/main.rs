//! NBD servers of the real command, and the programs that are their clients.

#![allow(clippy::unwrap_used, reason = "test code")]

mod clients;
mod exports;
mod flags;
mod hostile;
mod patience;
mod qemu;
mod server;
mod tls;
