//! The NBD server: exports for any NBD client, on sockets, and the transmission loop of `/dev/nbdN`.
//!
//! One idea a file: `address` says where the server listens, `listening` accepts clients there,
//! `found` knows what it may call itself then, `place` is the front end in the table,
//! `server` has a thread for each of them, `link` is the connection to one client over a `stream`
//! (`secure` when it is encrypted, with the certificates of `tls`), `negotiation` is the first
//! phase of the conversation and `transmission` the second, `wire` has the numbers and layouts of
//! both. The protocol is <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

mod address;
mod client;
mod config;
mod conversation;
mod ending;
mod found;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod label;
mod link;
mod listening;
mod negotiation;
mod place;
mod registry;
mod secure;
mod server;
mod service;
#[cfg(any(test, feature = "fuzzing"))]
mod shelf;
mod spelled;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod transmission;
mod unnegotiated;
mod wire;

pub use address::{Address, DEFAULT_PORT, Place};
pub use client::Client as LoadClient;
pub use config::{Bounds, Dialect, Family, ServerOptions, TlsMode, TlsSetup};
pub use found::may_be_at;
pub(super) use place::ROW;
pub use registry::Connected;
pub use server::{Bound, Server, Setup};
pub(super) use unnegotiated::Unnegotiated;
