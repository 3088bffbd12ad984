//! The server: one thread that accepts, and one for each client.
//!
//! Whoever is connected stands in the [`Registry`]; stopping is done through it.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use pydisk_kernel::threads;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::address::Address;
use super::config::Bounds;
use super::config::Dialect;
use super::config::Family;
use super::config::{TlsMode, TlsSetup};
use super::conversation;
use super::label::Labelled;
use super::link::Link;
use super::listening::{Given, Listening, accept};
use super::registry::{Connected, Connection, Entry, Registry};
use super::service::{Seats, Service};
use super::stream::Stream;
use super::tls::Tls;
use crate::disk::{Client, Exports, Peer};
use crate::frontends::{Ended, Endpoint};
use crate::logging::Limiter;
use crate::refusal::words;
use crate::{Refusal, ResultExt};

/// What the user wants of a server.
#[derive(Debug)]
pub struct Setup {
    /// Where it listens.
    pub address: Address,
    /// Which addresses of the host.
    pub family: Family,
    /// The SELinux label of the sockets, if it is not the process's own.
    pub label: Option<String>,
    /// The attachment's folder, for a Unix socket without a path.
    pub folder: PathBuf,
    /// What a client may ask.
    pub bounds: Bounds,
    /// How much of the protocol is spoken.
    pub dialect: Dialect,
    /// Whether connections are encrypted; an address that requires it overrules this.
    pub tls: TlsSetup,
    /// For [`super::Place::Stdio`] the two descriptors, input first; for
    /// [`super::Place::Activation`] the listening sockets; nothing otherwise.
    pub passed: Vec<OwnedFd>,
}

/// A server that listens, and whose clients have to wait until it is told what to serve.
#[derive(Debug)]
pub struct Bound {
    listening: Listening,
    bounds: Bounds,
    dialect: Dialect,
    tls: Tls,
    /// What the user called the address.
    named: Address,
    negotiating: usize,
}

impl Bound {
    /// Listen. All that takes a right or reads a secret is done here.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub fn at(mut setup: Setup) -> Result<Self, Refusal> {
        if setup.address.tls {
            setup.tls.mode = TlsMode::Required;
        }
        let tls = Tls::load(&setup.tls)?;
        let labelled = setup.label.as_deref().map(Labelled::set).transpose()?;
        let listening = Listening::at(&setup.address, setup.family, &setup.folder, setup.passed)?;
        drop(labelled);
        let negotiating = usize::try_from(setup.bounds.clients)
            .map_or(usize::MAX, |clients| clients.saturating_mul(4))
            .max(2048);
        Ok(Self {
            negotiating: make_room(u64::from(setup.bounds.clients), negotiating),
            listening,
            bounds: setup.bounds,
            dialect: setup.dialect,
            tls,
            named: setup.address,
        })
    }

    /// Serve clients from here on. `ended` is told if the server ends by itself, which only one on
    /// standard input and output does: see [`Server::left`].
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub fn serve(self, exports: Arc<dyn Exports>, ended: Ended) -> Result<Server, Refusal> {
        let about = format!("target `{}`", self.named);
        let shared = Arc::new(Shared {
            service: Service {
                exports,
                seats: Seats::new(self.bounds.clients),
                bounds: self.bounds,
                dialect: self.dialect,
                tls: self.tls,
            },
            clients: Registry::default(),
            negotiating: self.negotiating,
            stopping: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC).refuse(&about)?,
            left: AtomicBool::new(false),
        });
        let endpoint = Endpoint::Server {
            uri: self.listening.address.to_string(),
            unix_socket: self.listening.unix_socket().map(Path::to_owned),
        };
        let address = self.listening.address.clone();
        let serving = Arc::clone(&shared);
        let accepting = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || serving.run_to_the_end(self.listening, &ended))
            .refuse(&about)?;
        Ok(Server {
            shared,
            address,
            endpoint,
            accepting: Some(accepting),
        })
    }
}

/// A server that clients can reach, until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: Address,
    endpoint: Endpoint,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    service: Service,
    clients: Registry,
    /// Connections that may negotiate at the same time.
    negotiating: usize,
    stopping: AtomicBool,
    /// Wakes the accepting thread.
    wake: OwnedFd,
    /// Whether the only client there was ever to be has left.
    left: AtomicBool,
}

/// How long the last bytes to a client may be on their way.
const LINGER: Duration = Duration::from_millis(500);

/// How long the accepting thread rests when there are not enough descriptors, threads or memory.
const REST: Duration = Duration::from_millis(100);

/// Descriptors that the process needs besides those of clients.
const OTHERS: u64 = 128;

impl Server {
    /// [`Bound::at`] and [`Bound::serve`] in one.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub fn start(setup: Setup, exports: Arc<dyn Exports>, ended: Ended) -> Result<Self, Refusal> {
        Bound::at(setup)?.serve(exports, ended)
    }

    /// What clients take to connect.
    #[must_use]
    pub fn uri(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens, with the port or path that was found.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The Unix socket that clients find, if it is one.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&Path> {
        self.endpoint.unix_socket()
    }

    /// Where clients find it.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Who is connected, in the order of connecting.
    #[must_use]
    pub fn clients(&self) -> Vec<Connected> {
        self.shared.clients.connected()
    }

    /// Whether the only client there was ever to be, on standard input and output, has left: the
    /// server has done its work.
    #[must_use]
    pub fn left(&self) -> bool {
        self.shared.left.load(Ordering::Acquire)
    }

    /// Take no more clients, answer what is under way, and end the connections. No disk is called any
    /// more once this returns. A client that does not read its replies is waited for at most 2 s; a
    /// disk that does not come back, as long as it takes.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Err(error) = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes()) {
            log::error!("the accepting thread cannot be woken: {error}");
        }
        self.shared.clients.notify();
        if let Some(accepting) = self.accepting.take()
            && accepting.join().is_err()
        {
            log::error!("the accepting thread panicked");
        }
        self.shared.clients.end();
    }
}

impl Shared {
    /// Whatever happens to it, nobody takes a server for alive that accepts no one.
    fn run_to_the_end(self: Arc<Self>, listening: Listening, ended: &Ended) {
        let ran = catch_unwind(AssertUnwindSafe(|| self.run(listening, ended)));
        if ran.is_err() {
            ended.send("internal error".into()).unwrap_or_default();
        }
    }

    fn run(self: &Arc<Self>, mut listening: Listening, ended: &Ended) {
        if let Some(given) = listening.given.take() {
            self.serve_given(given, ended);
            return;
        }
        while !self.stopping.load(Ordering::Acquire) {
            let rest = self.accept_from(&listening.sockets);
            if rest {
                self.rest();
            }
        }
    }

    /// Serve the one client that is there already, on a thread of its own like all.
    fn serve_given(self: &Arc<Self>, (given, peer): Given, ended: &Ended) {
        if let Err(error) = self.serve(given, peer) {
            ended
                .send(format!("standard input and output: {}", words(&error)))
                .unwrap_or_default();
            return;
        }
        let stopping = || self.stopping.load(Ordering::Acquire);
        self.clients.wait_until_none_is_left(None, stopping);
        if !stopping() {
            self.left.store(true, Ordering::Release);
            ended.send("its client has left".into()).unwrap_or_default();
        }
    }

    /// Wait for clients and serve them. Tells whether a rest is in order.
    fn accept_from(self: &Arc<Self>, sockets: &[OwnedFd]) -> bool {
        let mut polled: Vec<PollFd<'_>> = sockets
            .iter()
            .chain([&self.wake])
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        if let Err(error) = poll(&mut polled, None) {
            return error != Errno::INTR && self.cannot("wait for clients", &error);
        }
        for (socket, polled) in sockets.iter().zip(&polled) {
            if polled.revents().is_empty() {
                continue;
            }
            match accept(socket) {
                Ok((socket, peer)) => {
                    self.clients.keep_negotiating(self.negotiating);
                    if let Err(error) = self.serve(Stream::socket(socket), peer) {
                        return self.cannot("serve a client", &error);
                    }
                }
                Err(error) if is_of_the_client(error) => {}
                Err(error) => {
                    // Whoever says nothing gives way to who may have something to say.
                    self.clients
                        .keep_negotiating(self.clients.negotiating().saturating_sub(1));
                    return self.cannot("accept a client", &error);
                }
            }
        }
        false
    }

    /// Say that something does not work; always true.
    #[expect(clippy::unused_self, reason = "reads as what the server cannot do")]
    fn cannot(&self, what: &str, error: &dyn std::fmt::Display) -> bool {
        static SAID: Mutex<Limiter> = Mutex::new(Limiter::new(1, Duration::from_secs(10)));
        if SAID.lock().admit().is_some() {
            log::warn!("NBD server: cannot {what}: {error}");
        }
        true
    }

    /// Until something may have changed, or the server stops.
    fn rest(&self) {
        let mut polled = [PollFd::new(&self.wake, PollFlags::IN)];
        let rest = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(REST.subsec_nanos()),
        };
        if let Err(error) = poll(&mut polled, Some(&rest)) {
            log::debug!("a rest was cut short: {error}");
        }
    }

    /// Serve a client on a thread of its own.
    fn serve(self: &Arc<Self>, stream: Stream, peer: Peer) -> io::Result<()> {
        static CLIENTS: AtomicU64 = AtomicU64::new(1);
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new(number, peer));
        let stream = Arc::new(stream);
        let ended = Arc::clone(&stream);
        client.set_hang_up(Box::new(move || ended.close()));
        let shared = Arc::clone(self);
        let connection = Connection::new(Arc::clone(&client), Arc::clone(&stream));
        let standing = connection.standing();
        let body = move || {
            let _entry = Entry(&shared.clients, number);
            say(|| format!("client {number} connected: {}", client.peer));
            let link = Link::over(Arc::clone(&stream));
            let end = conversation::hold(&shared.service, link, &client, &standing);
            stream.linger(LINGER);
            say(|| format!("client {number} {end}"));
        };
        self.clients.enter(connection, || {
            threads::deep(format!("nbd-{number}")).spawn(body)
        })
    }
}

/// Say that a client came or went. Who comes and goes all the time does not fill the log with it.
fn say(what: impl FnOnce() -> String) {
    /// Held while it is said.
    static SAID: Mutex<Limiter> = Mutex::new(Limiter::new(50, Duration::from_secs(10)));
    let mut said = SAID.lock();
    if let Some(hidden) = said.admit() {
        if hidden > 0 {
            log::info!("{hidden} more times a client came or went");
        }
        log::info!("{}", what());
    }
}

/// Errors of accept(2) that concern one client which is gone, not the server.
fn is_of_the_client(error: Errno) -> bool {
    matches!(
        error,
        Errno::AGAIN
            | Errno::INTR
            | Errno::CONNABORTED
            | Errno::PROTO
            | Errno::PERM
            | Errno::NETDOWN
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
            | Errno::TIMEDOUT
    )
}

/// Raise the limit on descriptors to what so many clients need, and tell how many connections may
/// negotiate besides.
fn make_room(clients: u64, negotiating: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = clients
        .saturating_add(OTHERS)
        .saturating_add(u64::try_from(negotiating).unwrap_or(u64::MAX));
    let most = limit.maximum.unwrap_or(u64::MAX);
    let soft = limit.current.unwrap_or(u64::MAX);
    let raised = wanted.min(most).max(soft);
    if raised > soft {
        let new = Rlimit {
            current: Some(raised),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, new) {
            log::warn!("the limit on open files stays at {soft}: {error}");
            return room(soft, clients, negotiating);
        }
    }
    room(raised, clients, negotiating)
}

/// How many connections may negotiate under this limit on descriptors.
fn room(limit: u64, clients: u64, negotiating: usize) -> usize {
    let free = limit.saturating_sub(OTHERS);
    if free < clients {
        log::warn!(
            "{clients} clients need more open files than the {limit} that this process may have: \
             about {free} can be served (`ulimit -n`, LimitNOFILE=)"
        );
    }
    let left = usize::try_from(free.saturating_sub(clients)).unwrap_or(usize::MAX);
    negotiating.min(left).max(16)
}
