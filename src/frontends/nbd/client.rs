//! A small NBD client that puts a load on a server: as many requests under way as are asked for, by
//! one thread on one connection, and what is read is thrown away.
//!
//! `pydisk bench` measures by it. It speaks what every server of the fixed newstyle does, with simple
//! replies, and nothing else.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pydisk_kernel::aio::Done;

use super::wire::option::{Kind, info, number};
use super::wire::{
    GREETING, Handshake, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, Reader,
    SIMPLE_REPLY_MAGIC, command,
};

/// Bytes that are taken from the socket at once.
const AT_ONCE: usize = 256 << 10;

/// Bytes of a request without its data.
const REQUEST: usize = 28;

/// Bytes of a simple reply without its data.
const REPLY: usize = 16;

/// Longest reply to an option that is taken.
const LONGEST_OPTION: u32 = 64 << 10;

/// A connection in the transmission phase.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    size: u64,
    minimum: u32,
    /// Requests that were started and not sent yet.
    out: Vec<u8>,
    /// What the requests under way ask for, by their cookies.
    under_way: Vec<Option<Asked>>,
    /// What came and was not taken apart yet.
    came: Vec<u8>,
    /// Its bytes.
    len: usize,
    /// Bytes of data that still belong to the reply to this request.
    rest: Option<(usize, u64)>,
    /// How long the socket waits for something to read.
    patience: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Bytes of data in the reply, if it is no error.
    data: u32,
    len: u32,
}

impl Client {
    /// Open the default export of the server at the other end, for up to `depth` requests at a time.
    ///
    /// # Errors
    /// What the socket says, `InvalidData` for what is no NBD server, and the server's own words
    /// where it refuses.
    pub fn connect(stream: UnixStream, depth: usize) -> io::Result<Self> {
        let mut client = Self {
            stream,
            size: 0,
            minimum: 1,
            out: Vec::new(),
            under_way: vec![None; depth],
            came: vec![0; AT_ONCE],
            len: 0,
            rest: None,
            patience: None,
        };
        client.negotiate()?;
        Ok(client)
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the smallest request that the server takes.
    #[must_use]
    pub fn minimum(&self) -> u32 {
        self.minimum
    }

    fn negotiate(&mut self) -> io::Result<()> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting)?;
        let mut reader = Reader::new(&greeting);
        if reader.u64() != Some(GREETING) || reader.u64() != Some(OPTION_MAGIC) {
            return Err(broken("its greeting is not NBD's"));
        }
        let flags = u32::from(Handshake::all().bits()).to_be_bytes();
        let mut go = Vec::from(flags);
        // The default export, and a question for its block sizes.
        let data: [u8; 8] = [0, 0, 0, 0, 0, 1, 0, 3];
        debug_assert_eq!(data[7], info::BLOCK_SIZE.to_be_bytes()[1]);
        go.extend(OPTION_MAGIC.to_be_bytes());
        go.extend(number::GO.to_be_bytes());
        go.extend(8_u32.to_be_bytes());
        go.extend(data);
        self.stream.write_all(&go)?;
        while !self.option_reply()? {}
        if self.size == 0 {
            return Err(broken("it has not told the size of the disk"));
        }
        Ok(())
    }

    /// Take one reply to the option; whether it was the last.
    fn option_reply(&mut self) -> io::Result<bool> {
        let mut head = [0; 20];
        self.stream.read_exact(&mut head)?;
        let mut reader = Reader::new(&head);
        let magic = reader.u64();
        let _option = reader.u32();
        let (Some(kind), Some(len)) = (reader.u32(), reader.u32()) else {
            return Err(broken("a reply is short"));
        };
        if magic != Some(OPTION_REPLY_MAGIC) || len > LONGEST_OPTION {
            return Err(broken("a reply to an option is none"));
        }
        let mut data = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.stream.read_exact(&mut data)?;
        if kind == Kind::Ack as u32 {
            return Ok(true);
        }
        if kind == Kind::Info as u32 {
            self.learn(&data);
            return Ok(false);
        }
        let said = String::from_utf8_lossy(&data);
        Err(io::Error::other(format!("the server refuses: {said}")))
    }

    fn learn(&mut self, data: &[u8]) {
        let mut reader = Reader::new(data);
        match reader.u16() {
            Some(info::EXPORT) => self.size = reader.u64().unwrap_or(0),
            Some(info::BLOCK_SIZE) => self.minimum = reader.u32().unwrap_or(1).max(1),
            _ => {}
        }
    }

    /// Start to read `len` bytes at byte `at`. It goes off with the next [`Client::wait`].
    ///
    /// # Panics
    /// If the request of this slot was not answered yet.
    pub fn read(&mut self, slot: usize, at: u64, len: u32) {
        self.request(command::READ, slot, at, Asked { data: len, len });
    }

    /// Start to write `data` at byte `at`, as [`Client::read`].
    ///
    /// # Panics
    /// If the request of this slot was not answered yet, or the data has 4 GiB.
    pub fn write(&mut self, slot: usize, at: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("a request is shorter");
        self.request(command::WRITE, slot, at, Asked { data: 0, len });
        self.out.extend(data);
    }

    fn request(&mut self, command: u16, slot: usize, at: u64, asked: Asked) {
        assert!(self.under_way[slot].is_none(), "the slot is taken");
        self.under_way[slot] = Some(asked);
        self.out.reserve(REQUEST);
        self.out.extend(REQUEST_MAGIC.to_be_bytes());
        self.out.extend(0_u16.to_be_bytes());
        self.out.extend(command.to_be_bytes());
        self.out.extend((slot as u64).to_be_bytes());
        self.out.extend(at.to_be_bytes());
        self.out.extend(asked.len.to_be_bytes());
    }

    /// Send off what was started, and wait for something from the server, up to `patience`. What it
    /// answered is added to `done`.
    ///
    /// # Errors
    /// What the socket says, `UnexpectedEof` if the server has gone away, `InvalidData` for a reply
    /// that is none.
    pub fn wait(&mut self, patience: Duration, done: &mut Vec<Done>) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        if self.under_way.iter().all(Option::is_none) {
            return Ok(());
        }
        if self.patience != Some(patience) {
            self.stream.set_read_timeout(Some(patience))?;
            self.patience = Some(patience);
        }
        match self.stream.read(&mut self.came[self.len..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.len += count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        self.take_apart(done)
    }

    /// Go through what came, and keep the beginning of a reply that is not there wholly.
    fn take_apart(&mut self, done: &mut Vec<Done>) -> io::Result<()> {
        let mut at = 0;
        loop {
            if let Some((slot, rest)) = self.rest {
                let there = (self.len - at) as u64;
                let skipped = rest.min(there);
                at += usize::try_from(skipped).map_err(io::Error::other)?;
                if skipped < rest {
                    self.rest = Some((slot, rest - skipped));
                    break;
                }
                self.rest = None;
                self.finish(slot, None, done)?;
            }
            let Some(head) = self.came[at..self.len].get(..REPLY) else {
                break;
            };
            let mut reader = Reader::new(head);
            let magic = reader.u32();
            let error = reader.u32().unwrap_or(0);
            let slot = reader.u64().and_then(|cookie| usize::try_from(cookie).ok());
            let asked = slot.and_then(|slot| self.under_way.get(slot).copied().flatten());
            let (Some(SIMPLE_REPLY_MAGIC), Some(slot), Some(asked)) = (magic, slot, asked) else {
                return Err(broken("a reply is none, or nobody asked for it"));
            };
            at += REPLY;
            if error != 0 {
                self.finish(slot, Some(error), done)?;
            } else {
                self.rest = Some((slot, asked.data.into()));
            }
        }
        self.came.copy_within(at..self.len, 0);
        self.len -= at;
        Ok(())
    }

    fn finish(&mut self, slot: usize, error: Option<u32>, done: &mut Vec<Done>) -> io::Result<()> {
        let asked = self.under_way[slot].take();
        let asked = asked.ok_or_else(|| broken("a reply came twice"))?;
        let outcome = match error {
            None => Ok(asked.len.into()),
            // The numbers of the protocol are Linux's.
            Some(error) => Err(io::Error::from_raw_os_error(
                i32::try_from(error).unwrap_or(i32::MAX),
            )),
        };
        done.push(Done { slot, outcome });
        Ok(())
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server: {what}"))
}

impl Drop for Client {
    /// Say goodbye, so that the server does not wonder.
    fn drop(&mut self) {
        self.under_way[0] = None;
        self.out.clear();
        self.request(command::DISC, 0, 0, Asked { data: 0, len: 0 });
        self.stream.write_all(&self.out).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Handshake;
    use super::super::wire::reply::simple;
    use super::*;
    use std::thread;

    /// The server's end: a disk of 1 MiB, with blocks of 512 bytes.
    fn greeted() -> (Client, UnixStream) {
        let (mine, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            theirs
                .write_all(&super::super::wire::option::greeting(Handshake::all()))
                .unwrap();
            let mut asked = [0; 4 + 16 + 8];
            theirs.read_exact(&mut asked).unwrap();
            let mut said = Vec::new();
            let mut reply = |kind, data: &[u8]| {
                let len = u32::try_from(data.len()).unwrap();
                said.extend(super::super::wire::option::reply(number::GO, kind, len));
                said.extend(data);
            };
            let mut export = vec![0, 0];
            export.extend((1_u64 << 20).to_be_bytes());
            export.extend([0, 1]);
            reply(Kind::Info, &export);
            reply(Kind::Info, &[0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 0, 1, 0, 0]);
            reply(Kind::Ack, &[]);
            theirs.write_all(&said).unwrap();
            theirs
        });
        let client = Client::connect(mine, 4).unwrap();
        (client, server.join().unwrap())
    }

    fn answered(client: &mut Client, count: usize) -> Vec<(usize, Option<i32>)> {
        let mut done = Vec::new();
        while done.len() < count {
            client.wait(Duration::from_secs(10), &mut done).unwrap();
        }
        let errors = |done: Done| (done.slot, done.outcome.err().and_then(|e| e.raw_os_error()));
        done.into_iter().map(errors).collect()
    }

    #[test]
    fn the_server_tells_the_size_and_the_smallest_request() {
        let (client, _server) = greeted();
        assert_eq!((client.size(), client.minimum()), (1 << 20, 512));
    }

    #[test]
    fn an_answer_too_long_to_be_true_is_not_read() {
        let (mine, mut server) = UnixStream::pair().unwrap();
        server
            .write_all(&super::super::wire::option::greeting(Handshake::all()))
            .unwrap();
        server
            .write_all(&super::super::wire::option::reply(
                number::GO,
                Kind::Info,
                LONGEST_OPTION + 1,
            ))
            .unwrap();
        server.shutdown(std::net::Shutdown::Write).unwrap();
        let error = Client::connect(mine, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn replies_may_come_in_any_order_and_in_any_pieces() {
        let (mut client, mut server) = greeted();
        for slot in 0..4 {
            client.read(slot, 0, 600);
        }
        let mut said = Vec::new();
        for slot in [2_u8, 0, 3] {
            simple(slot.into(), None, &mut said);
            said.extend([slot; 600]);
        }
        simple(1, Some(super::super::wire::Failure::NoSpc), &mut said);
        let sender = thread::spawn(move || {
            for piece in said.chunks(7) {
                server.write_all(piece).unwrap();
            }
            server
        });
        let replies = answered(&mut client, 4);
        assert_eq!(replies, [(2, None), (0, None), (3, None), (1, Some(28))]);
        drop(sender.join().unwrap());
    }

    #[test]
    fn a_server_that_goes_away_or_talks_nonsense_is_an_error() {
        let (mut client, mut server) = greeted();
        client.read(0, 0, 512);
        server.write_all(&[7; REPLY]).unwrap();
        let nonsense = client.wait(Duration::from_secs(10), &mut Vec::new());
        assert_eq!(nonsense.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut client, server) = greeted();
        client.write(0, 0, &[1; 512]);
        client
            .wait(Duration::from_millis(1), &mut Vec::new())
            .unwrap();
        drop(server);
        let gone = client.wait(Duration::from_secs(10), &mut Vec::new());
        assert!(gone.is_err());
    }
}
