//! The protocol from a client's side: a client of our own that says what it likes, over a socketpair.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::config::Bounds;
use super::conversation::hold;
use super::ending::End;
use super::link::Link;
use super::service::{Seats, Service, Standing};
use super::shelf::Shelf;
use super::tls::Tls;
use super::unnegotiated::Unnegotiated;
use super::wire::request::Head;
use super::wire::{Asked, OPTION_MAGIC, OPTION_REPLY_MAGIC, Shape};
use crate::disk::memory::Memory;
use crate::disk::memory::Plain;
use crate::disk::{Client, Disk, Errno, OpenDisk, Peer, Result};
use crate::frontends::nbd::config::Dialect;
use crate::layers::Check;

mod abandoned;
mod cut;
mod large;
mod model;
mod negotiating;
mod panics;
mod requests;
mod serving;
mod together;

/// A server for one disk, as it is before anybody came.
pub(super) fn service(disk: impl Disk + 'static) -> Service {
    let bounds = Bounds::default();
    Service {
        exports: Arc::new(Shelf {
            disk: Arc::new(Plain(Check::new(disk))),
            welcome: true,
        }),
        seats: Seats::new(bounds.clients),
        bounds,
        dialect: Dialect::default(),
        tls: Tls::Off,
    }
}

/// A client, and the thread that talks to it.
pub(super) struct Caller {
    pub(super) stream: UnixStream,
    thread: Option<JoinHandle<End>>,
    pub(super) standing: Arc<Standing>,
    pub(super) shape: Shape,
}

impl Caller {
    /// Somebody who does not negotiate, as the kernel.
    pub(super) fn unnegotiated(disk: Arc<dyn OpenDisk>) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let server = Unnegotiated::new(disk, theirs.into(), 32 << 20, 4);
        let thread = std::thread::spawn(move || match server.serve().as_str() {
            "disconnected" => End::Disconnected,
            other => panic!("{other}"),
        });
        Self {
            stream,
            thread: Some(thread),
            standing: Arc::default(),
            shape: Shape::Simple,
        }
    }

    /// Connect and say nothing.
    pub(super) fn connect(service: &Arc<Service>) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let service = Arc::clone(service);
        let standing = Arc::new(Standing::default());
        let told = Arc::clone(&standing);
        let thread = std::thread::spawn(move || {
            let client = Arc::new(Client::new(1, Peer::Stdio));
            hold(&service, Link::new(theirs.into()), &client, &told)
        });
        Self {
            stream,
            thread: Some(thread),
            standing,
            shape: Shape::Simple,
        }
    }

    /// Somebody who is connected to a server on threads of its own.
    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            thread: None,
            standing: Arc::default(),
            shape: Shape::Simple,
        }
    }

    /// Connect and exchange flags.
    pub(super) fn greeted(service: &Arc<Service>) -> Self {
        let mut caller = Self::connect(service);
        caller.greet();
        caller
    }

    fn greet(&mut self) {
        assert_eq!(self.receive(18), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&[0, 0, 0, 3]);
    }

    /// Connect, choose `shape` and `base:allocation` where there are chunks, and go.
    pub(super) fn gone(service: &Arc<Service>, shape: Shape) -> Self {
        let mut caller = Self::connect(service);
        caller.go(shape);
        caller
    }

    /// The same, once connected.
    pub(super) fn go(&mut self, shape: Shape) {
        self.greet();
        let option = match shape {
            Shape::Simple => None,
            Shape::Structured => Some(8),
            Shape::Extended => Some(11),
        };
        if let Some(option) = option {
            assert_eq!(self.option(option, b""), [(1, vec![])]);
            let context = [
                &with_len("disk")[..],
                &[0, 0, 0, 1],
                &with_len("base:allocation"),
            ];
            assert_eq!(self.option(10, &context.concat()).len(), 2);
        }
        let replies = self.option(7, &[with_len("disk"), vec![0, 0]].concat());
        assert_eq!(replies.last(), Some(&(1, vec![])), "{replies:?}");
        self.shape = shape;
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.receive(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.receive(8).try_into().unwrap())
    }

    /// Send an option, receive its replies to the last one: their kinds and data.
    pub(super) fn option(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(number, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.u64(), OPTION_REPLY_MAGIC);
            assert_eq!(self.u32(), number);
            let kind = self.u32();
            let len = self.u32();
            replies.push((kind, self.receive(len as usize)));
            if kind == 1 || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    pub(super) fn send_option(&mut self, number: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        let head = [&OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &len];
        self.send(&[&head.concat()[..], data].concat());
    }

    /// Send a request without its payload.
    pub(super) fn ask(&mut self, command: u16, asked: Asked, at: u64, len: u64, cookie: u64) {
        let head = Head {
            asked,
            command,
            cookie,
            at,
            len,
        };
        self.send(&head.encode(self.shape));
    }

    /// Receive a whole reply: to which request, and what.
    pub(super) fn reply(&mut self, reads: impl Fn(u64) -> usize) -> (u64, Reply) {
        let mut reply = Reply::default();
        loop {
            let (cookie, last) = match self.shape {
                Shape::Simple => (self.simple(&mut reply, &reads), true),
                Shape::Structured | Shape::Extended => self.chunk(&mut reply),
            };
            if last {
                return (cookie, reply);
            }
        }
    }

    fn simple(&mut self, reply: &mut Reply, reads: impl Fn(u64) -> usize) -> u64 {
        assert_eq!(self.u32(), 0x6744_6698);
        reply.error = self.u32();
        let cookie = self.u64();
        if reply.error == 0 {
            reply.data.push((u64::MAX, self.receive(reads(cookie))));
        }
        cookie
    }

    fn chunk(&mut self, reply: &mut Reply) -> (u64, bool) {
        let extended = self.shape == Shape::Extended;
        assert_eq!(self.u32(), if extended { 0x6e8a_278c } else { 0x668e_33ef });
        let kinds = self.u32();
        let cookie = self.u64();
        let len = if extended {
            reply.at = self.u64();
            self.u64()
        } else {
            self.u32().into()
        };
        let payload = self.receive(usize::try_from(len).unwrap());
        let number = |from: usize| u64::from_be_bytes(payload[from..from + 8].try_into().unwrap());
        let short = |from: usize| u32::from_be_bytes(payload[from..from + 4].try_into().unwrap());
        match kinds & 0xffff {
            0 => assert!(payload.is_empty()),
            1 => reply.data.push((number(0), payload[8..].to_vec())),
            2 => reply.holes.push((number(0), short(8).into())),
            5 => {
                assert_eq!(short(0), 1);
                for from in (4..payload.len()).step_by(8) {
                    reply
                        .extents
                        .push((short(from).into(), short(from + 4).into()));
                }
            }
            6 => {
                assert_eq!(short(0), 1);
                assert_eq!(short(4) as usize, (payload.len() - 8) / 16);
                for from in (8..payload.len()).step_by(16) {
                    reply.extents.push((number(from), number(from + 8)));
                }
            }
            0x8001 => reply.error = short(0),
            kind => panic!("a chunk of kind {kind:#x}"),
        }
        (cookie, kinds >> 16 == 1)
    }

    /// Send a request with its payload and receive its reply, which must be the next one.
    pub(super) fn call(
        &mut self,
        command: u16,
        asked: Asked,
        at: u64,
        payload: &[u8],
        len: u64,
    ) -> Reply {
        self.ask(command, asked, at, len, 0xfeed);
        self.send(payload);
        let (cookie, reply) = self.reply(|_| match command {
            0 => usize::try_from(len).unwrap(),
            _ => 0,
        });
        assert_eq!(cookie, 0xfeed);
        reply
    }

    /// Say nothing more and learn why the conversation ended; nothing more must have been said.
    pub(super) fn end(mut self) -> End {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"", "more was said");
        self.thread.take().unwrap().join().unwrap()
    }
}

/// What came back for a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) error: u32,
    /// Offset (`u64::MAX` from a simple reply) and bytes.
    pub(super) data: Vec<(u64, Vec<u8>)>,
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) extents: Vec<(u64, u64)>,
    /// What an extended reply said of the request's offset.
    pub(super) at: u64,
}

impl Reply {
    /// The bytes of a read of `len` bytes at `at`; each must be told once.
    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        assert_eq!(self.error, 0);
        let mut bytes = vec![None; len];
        let mut put = |from: u64, data: &[u8]| {
            let from = if from == u64::MAX {
                0
            } else {
                usize::try_from(from - at).unwrap()
            };
            for (index, byte) in data.iter().enumerate() {
                assert_eq!(bytes[from + index].replace(*byte), None, "told twice");
            }
        };
        for (from, data) in &self.data {
            put(*from, data);
        }
        for (from, len) in &self.holes {
            put(*from, &vec![0; usize::try_from(*len).unwrap()]);
        }
        bytes.into_iter().map(|byte| byte.expect("told")).collect()
    }
}

/// A string behind its length.
pub(super) fn with_len(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

/// A writable disk in memory with every capability, serial or parallel.
pub(super) fn memory(size: u64, parallel: bool) -> Memory {
    Memory::builder(size)
        .limits(|limits| limits.parallel = parallel)
        .build()
}
