//! What a server offers: disks that are opened anew for each client.
//!
//! A front end that serves one disk for good gets a [`Disk`]; one that serves clients gets
//! [`Exports`]. The order of the calls for one client is nbdkit's: [`Exports::welcome`] when it has
//! connected, [`Guest::list`] and [`Guest::open`] as it asks, the guest dropped when it is gone.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::{Disk, Result};

/// Opens disks for clients; called by many threads at the same time.
pub trait Exports: Debug + Send + Sync {
    /// A client has connected and not said anything yet.
    ///
    /// # Errors
    /// The client is not wanted: its connection is closed without a word.
    fn welcome(&self, client: Arc<Client>) -> Result<Box<dyn Guest>>;
}

/// One connected client, from the first byte to the last. All calls come from one thread.
pub trait Guest: Debug {
    /// The exports that the client may ask for; `tls` tells whether the connection is encrypted.
    ///
    /// # Errors
    /// The cause is for the client as well.
    fn list(&mut self, tls: bool) -> Result<Vec<Listed>>;

    /// Wait for `patience` until the disk may be opened, where it takes one client at a time; whether
    /// it may. The place is then this client's, until what it opens is dropped. Who asks again and
    /// again can look after the connection in between.
    fn admit(&mut self, _patience: Duration) -> bool {
        true
    }

    /// Open an export. An empty name stands for the default one. Waits until the disk may be opened,
    /// unless [`Guest::admit`] has.
    ///
    /// # Errors
    /// The cause is for the client as well.
    fn open(&mut self, name: &str, tls: bool) -> Result<Box<dyn Export>>;
}

/// An export that a client has opened. Dropping it, and every clone of its disk, closes the disk.
pub trait Export: Debug {
    /// The disk; the lanes of a client share it.
    fn disk(&self) -> &Arc<dyn Disk>;

    /// The name that it was opened by, with the default one filled in.
    fn name(&self) -> &str;

    /// A text for people, if there is one. Asked only when the client wants it.
    ///
    /// # Errors
    /// The client gets none then.
    fn description(&self) -> Result<Option<String>>;
}

/// An export as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What a client asks for.
    pub name: String,
    /// A text for people.
    pub description: Option<String>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Counts from 1 in each process.
    pub number: u64,
    /// Where it comes from.
    pub peer: Peer,
}

/// The address of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Tcp(std::net::SocketAddr),
    /// A Unix socket, with what the kernel says of the process behind it.
    Unix {
        /// Process.
        pid: i32,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A virtual machine, by its context identifier and port.
    Vsock {
        /// Context identifier.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// Whatever is at the other end of standard input and output.
    Stdio,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { pid, uid, .. } => write!(f, "process {pid} of user {uid}"),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            Self::Stdio => f.write_str("standard input"),
        }
    }
}
