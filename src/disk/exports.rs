//! What a server offers: disks that are opened anew for each client.
//!
//! A front end gets [`Exports`]. One that makes a device is a server with one guest that stays, and asks
//! for [`Exports::resident`], once. For each client of a server the order of the calls is nbdkit's:
//! [`Exports::welcome`] when it has connected, [`Guest::list`] and [`Guest::open`] as it asks, the
//! guest dropped when it is gone.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Errno, Error, OpenDisk, Result};

/// Opens disks for clients; called by many threads at the same time.
pub trait Exports: Debug + Send + Sync {
    /// A client has connected and not said anything yet.
    ///
    /// # Errors
    /// The client is not wanted: its connection is closed without a word.
    fn welcome(&self, client: Arc<Client>) -> Result<Box<dyn Guest>>;

    /// The default export, open for a guest that stays: every thread may use it.
    ///
    /// # Errors
    /// Only clients are served.
    fn resident(&self) -> Result<Arc<dyn OpenDisk>> {
        Err(Error::new(Errno::NOTSUP, "only clients are served"))
    }
}

/// What is offered to one guest that stays: a disk that is open.
#[derive(Debug)]
pub struct Resident(Arc<dyn OpenDisk>);

impl Resident {
    /// Offer `disk`.
    #[must_use]
    pub fn new(disk: Arc<dyn OpenDisk>) -> Self {
        Self(disk)
    }
}

impl Exports for Resident {
    fn welcome(&self, _client: Arc<Client>) -> Result<Box<dyn Guest>> {
        Err(Error::new(Errno::NOTSUP, "no clients are served"))
    }

    fn resident(&self) -> Result<Arc<dyn OpenDisk>> {
        Ok(Arc::clone(&self.0))
    }
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
    fn disk(&self) -> &Arc<dyn OpenDisk>;

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

/// Who is at the other end of a connection: shared by the front end that talks to it and the disks
/// that it has open.
pub struct Client {
    /// Counts from 1 in each process.
    pub number: u64,
    /// Where it comes from.
    pub peer: Peer,
    certificate: OnceLock<Certificate>,
    leaving: AtomicBool,
    cut_off: AtomicBool,
    hang_up: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Client {
    /// A client that has just connected.
    #[must_use]
    pub fn new(number: u64, peer: Peer) -> Self {
        Self {
            number,
            peer,
            certificate: OnceLock::new(),
            leaving: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            hang_up: OnceLock::new(),
        }
    }

    /// What it showed of itself when the connection was encrypted, if anything.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.get()
    }

    /// For the front end: the client showed this certificate, and it is valid.
    pub fn set_certificate(&self, certificate: Certificate) {
        self.certificate.get_or_init(|| certificate);
    }

    /// For the front end: `hang_up` closes the connection at once, from any thread, also while
    /// requests of the client are under way. It does not wait for them.
    pub fn set_hang_up(&self, hang_up: Box<dyn Fn() + Send + Sync>) {
        self.hang_up.get_or_init(|| hang_up);
    }

    /// For the disk: send the client away, at once and without an answer if `force`, else when what
    /// is under way is answered.
    pub fn disconnect(&self, force: bool) {
        self.leaving.store(true, Ordering::Release);
        if !force {
            return;
        }
        self.cut_off.store(true, Ordering::Release);
        if let Some(hang_up) = self.hang_up.get() {
            hang_up();
        }
    }

    /// Whether it was sent away. The front end serves no further request of it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Whether it was sent away without an answer to what is under way.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Acquire)
    }
}

impl Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("number", &self.number)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The names in a client's certificate, as RFC 4514 writes them (`CN=Ann,O=Example`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who vouches for that.
    pub issuer: String,
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
