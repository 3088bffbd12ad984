//! Where an NBD server listens: what the user wrote, parsed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Where an NBD server listens, and the export that its URI names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Where.
    pub place: Place,
    /// The export that the server's URI names; empty for the default one.
    pub export: String,
    /// Whether the URI says that TLS must be used (`nbds:`).
    pub tls: bool,
}

/// Where an NBD server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A TCP port; 0 for a free one.
    Tcp {
        /// A name or an address; none for the loopback addresses.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// A Unix socket; none for one in the attachment's folder.
    Unix(Option<PathBuf>),
    /// A vsock port on every context identifier of this machine.
    Vsock(u32),
    /// One client on standard input and output.
    Stdio,
    /// The sockets that systemd passed to this process.
    Activation,
}

impl FromStr for Address {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Err(Refusal::new(format!(
            "target `{text}`: NBD is not served yet"
        )))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nbd:")
    }
}
