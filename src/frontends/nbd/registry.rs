//! Who is connected to a server: shown, bounded, and ended through here.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::service::Standing;
use super::stream::Stream;
use crate::disk::Client;

/// A client, as `show` has it.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Who it is.
    pub client: Arc<Client>,
    /// When it connected.
    pub since: SystemTime,
    /// The export that it has open.
    pub export: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// How long clients may take to read their last replies when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Taken after no other lock; held for no call that waits.
    rooms: Mutex<Rooms>,
    /// Somebody has left.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rooms {
    connections: BTreeMap<u64, Connection>,
    /// Threads that have nothing left to do.
    finished: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Connection {
    client: Arc<Client>,
    since: SystemTime,
    standing: Arc<Standing>,
    stream: Arc<Stream>,
    thread: Option<JoinHandle<()>>,
}

impl Connection {
    /// A client that connects now.
    pub(super) fn new(client: Arc<Client>, stream: Arc<Stream>) -> Self {
        Self {
            client,
            since: SystemTime::now(),
            standing: Arc::default(),
            stream,
            thread: None,
        }
    }

    /// How far it has come, which is for its conversation to tell.
    pub(super) fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standing)
    }

    fn negotiates(&self) -> bool {
        self.standing.export().is_none()
    }

    /// A callback that hangs may keep the thread of a client that is long gone.
    fn is_there(&self) -> bool {
        !self.standing.has_left() && self.stream.is_heard()
    }

    fn shown(&self) -> Connected {
        Connected {
            client: Arc::clone(&self.client),
            since: self.since,
            export: self.standing.export(),
            tls: self.standing.tls(),
        }
    }
}

impl Registry {
    /// Those who are there; whoever has left is not, although its disk may still be open.
    pub(super) fn connected(&self) -> Vec<Connected> {
        let rooms = self.rooms.lock();
        let there = rooms.connections.values().filter(|one| one.is_there());
        there.map(Connection::shown).collect()
    }

    pub(super) fn negotiating(&self) -> usize {
        let rooms = self.rooms.lock();
        rooms
            .connections
            .values()
            .filter(|one| one.negotiates())
            .count()
    }

    /// End the oldest of those that negotiate if there are more than `count`.
    pub(super) fn keep_negotiating(&self, count: usize) {
        let rooms = self.rooms.lock();
        if rooms.connections.len() <= count {
            return;
        }
        let negotiating = rooms.connections.values().filter(|one| one.negotiates());
        let over = negotiating.clone().count().saturating_sub(count);
        for connection in negotiating.take(over) {
            connection.stream.close();
        }
    }

    /// Note a client whose thread `start` starts.
    pub(super) fn enter(
        &self,
        connection: Connection,
        start: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) -> io::Result<()> {
        // A thread that ends at once finds its place here all the same.
        let mut rooms = self.rooms.lock();
        let thread = Some(start()?);
        let number = connection.client.number;
        let connection = Connection {
            thread,
            ..connection
        };
        rooms.connections.insert(number, connection);
        Ok(())
    }

    /// Take a client out whose thread is about to end.
    fn leave(&self, number: u64) {
        let mut rooms = self.rooms.lock();
        let finished = std::mem::take(&mut rooms.finished);
        if let Some(connection) = rooms.connections.remove(&number) {
            rooms.finished.extend(connection.thread);
        }
        self.changed.notify_all();
        drop(rooms);
        join(finished);
    }

    /// Wait until nobody is connected, no longer than until `deadline`, and no longer once `enough`.
    /// Tells whether nobody is connected.
    pub(super) fn wait_until_none_is_left(
        &self,
        deadline: Option<Instant>,
        enough: impl Fn() -> bool,
    ) -> bool {
        let mut rooms = self.rooms.lock();
        while !rooms.connections.is_empty() && !enough() {
            match deadline {
                None => self.changed.wait(&mut rooms),
                Some(at) if self.changed.wait_until(&mut rooms, at).timed_out() => break,
                Some(_) => {}
            }
        }
        rooms.connections.is_empty()
    }

    /// Have those who wait look again at whether it is enough.
    pub(super) fn notify(&self) {
        let _rooms = self.rooms.lock();
        self.changed.notify_all();
    }

    fn each(&self, what: impl Fn(&Stream)) {
        for connection in self.rooms.lock().connections.values() {
            what(&connection.stream);
        }
    }

    /// End all connections, the replies under way first.
    pub(super) fn end(&self) {
        self.each(Stream::stop_reading);
        let never = || false;
        if !self.wait_until_none_is_left(Some(Instant::now() + GRACE), never) {
            self.each(Stream::close);
            self.wait_until_none_is_left(None, never);
        }
        let finished = std::mem::take(&mut self.rooms.lock().finished);
        join(finished);
    }
}

fn join(finished: Vec<JoinHandle<()>>) {
    for thread in finished {
        if thread.join().is_err() {
            log::error!("the thread of a client panicked");
        }
    }
}

/// The place of a client in the registry, until its thread ends, however that happens.
pub(super) struct Entry<'a>(pub(super) &'a Registry, pub(super) u64);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    use crate::disk::Peer;
    use crate::frontends::nbd::testing::tcp_pair;

    /// A registry with a client for each name; those with an empty one have no export open.
    fn registry(exports: &[&str]) -> (Registry, Vec<TcpStream>) {
        let registry = Registry::default();
        let mut clients = Vec::new();
        for (number, export) in (1..).zip(exports) {
            let (socket, client) = tcp_pair();
            client
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            clients.push(client);
            let peer = Peer::Stdio;
            let stream = Arc::new(Stream::socket(socket));
            let connection = Connection::new(Arc::new(Client::new(number, peer)), stream);
            if !export.is_empty() {
                connection.standing().opened(export);
            }
            let thread = || Ok(std::thread::spawn(|| {}));
            registry.enter(connection, thread).unwrap();
        }
        (registry, clients)
    }

    fn is_open(client: &mut TcpStream) -> bool {
        client.read(&mut [0]).is_err()
    }

    #[test]
    fn the_oldest_of_those_that_negotiate_give_way() {
        let (registry, mut clients) = registry(&["a", "", "b", "", "", "c"]);
        assert_eq!(registry.negotiating(), 3);
        registry.keep_negotiating(3);
        assert!(clients.iter_mut().all(is_open));
        registry.keep_negotiating(1);
        let open: Vec<bool> = clients.iter_mut().map(is_open).collect();
        assert_eq!(open, [true, false, true, false, true, true]);
        registry.keep_negotiating(0);
        assert!(!is_open(&mut clients[4]));
        assert!(is_open(&mut clients[0]));
    }

    #[test]
    fn a_client_whose_thread_does_not_start_is_not_there() {
        let registry = Registry::default();
        let peer = Peer::Stdio;
        let stream = Arc::new(Stream::socket(tcp_pair().0));
        let connection = Connection::new(Arc::new(Client::new(1, peer)), stream);
        let failed = registry.enter(connection, || Err(io::ErrorKind::OutOfMemory.into()));
        assert!(failed.is_err());
        assert!(registry.connected().is_empty());
        registry.end();
    }
}
