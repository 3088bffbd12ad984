//! How much of the protocol a server speaks: all of it, unless somebody tests a client against an
//! older or a poorer server.

use serde::{Deserialize, Serialize};

/// How much of the protocol a server speaks. The default is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// Which of the handshake's flags may be offered; without the first one a client can only name
    /// an export and go.
    pub handshake: u16,
    /// Structured replies and extended headers are offered to clients.
    pub structured: bool,
    /// Clients are told when they may use several connections for one disk.
    pub several_connections: bool,
    /// There is no negotiation: whoever connects is served the default export.
    pub oldstyle: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            handshake: u16::MAX,
            structured: true,
            several_connections: true,
            oldstyle: false,
        }
    }
}
