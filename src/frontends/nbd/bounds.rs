//! What a client may ask of the server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a client may ask of the server; whoever asks for more gets an error, not a hang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Bytes in one read or write, 4096 and more. nbdkit takes 64 MiB; NBD's own advice for those who
    /// were not told is 32 MiB.
    pub payload: u32,
    /// Bytes in one option of the negotiation.
    pub option: u32,
    /// Requests of one client that are served at the same time, where the disk is parallel.
    pub requests: u16,
    /// Clients that have an export open.
    pub clients: u32,
    /// From the connection to the end of the negotiation, the plugin's own time not counted.
    pub handshake: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            payload: 64 << 20,
            option: 64 << 10,
            requests: 16,
            clients: 256,
            handshake: Duration::from_secs(10),
        }
    }
}
