//! The NBD server: exports for any NBD client, on sockets, and the transmission loop of `/dev/nbdN`.
//!
//! One idea a file: `address` says where the server listens, `listening` accepts clients there,
//! `link` is the connection to one client (`tls` when it is encrypted), `negotiation` is the first
//! phase of the conversation and `transmission` the second (`unnegotiated` has nothing else), `wire`
//! has the numbers and layouts of both. The protocol is <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>.

mod address;
mod bounds;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "its first user is being written")
)]
mod conversation;
mod ending;
mod link;
mod negotiation;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "its first user is being written")
)]
mod service;
#[cfg(test)]
mod tests;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "its first user is being written")
)]
mod tls;
mod transmission;
mod unnegotiated;
mod wire;

pub use address::{Address, Place};
pub use bounds::Bounds;
pub(super) use unnegotiated::Unnegotiated;
