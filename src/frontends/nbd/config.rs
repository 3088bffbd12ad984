//! What the user says about a server besides its address: plain values, for those who start one and do not serve.

use std::net::IpAddr;
use std::path::PathBuf;
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

/// Which addresses of a host are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// Those of IPv4.
    V4,
    /// Those of IPv6.
    V6,
}

impl Family {
    /// Whether it has this address.
    pub(super) fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What the user wants of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSetup {
    /// Whether clients may or must encrypt.
    pub mode: TlsMode,
    /// The folder with `server-cert.pem`, `server-key.pem` and `ca-cert.pem`, as other NBD servers
    /// have it; a `ca-crl.pem` there names certificates of clients that are not valid any more.
    pub certificates: Option<PathBuf>,
    /// Whether clients have to show a certificate that `ca-cert.pem` has signed.
    pub verify_peer: bool,
}

/// Whether clients may or must encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// They cannot.
    #[default]
    Off,
    /// They may.
    Allowed,
    /// They must.
    Required,
}

/// What a server is told besides its address.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServerOptions {
    /// What clients may ask for, but for `requests`.
    pub bounds: Bounds,
    /// Requests of one client at the same time; none is for the plugin's kind to decide.
    pub requests: Option<u16>,
    /// Whether they encrypt.
    pub tls: TlsSetup,
    /// How much of the protocol they find.
    pub dialect: Dialect,
    /// Which addresses of the host it listens on.
    pub family: Family,
    /// The SELinux label of its sockets, if it is not the process's own.
    pub label: Option<String>,
}
