//! The fuzz target `fuse`: calls as the kernel may make them, on a file whose content is known.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::{AHEAD, DiskFile, Received, Seat, Served};
use crate::disk::memory::Memory;
use crate::disk::memory::Plain;
use crate::disk::{Errno, Op, Request};
use crate::fuzzing::Script;
use crate::layers::Check;

/// Bytes of the disk: no answer is much longer, so that those of a batch fit into a socket.
const SIZE: u64 = 5000;
/// `struct fuse_in_header` and `struct fuse_out_header`.
const HEADER: usize = 40;
const ANSWER: usize = 16;
/// The one user who is let in, where there is one.
const ONLY: u32 = 1000;
/// Most calls that are made of one script, and that wait at the same time.
const MOST: usize = 64;
const TOGETHER: usize = 8;
const _: () = assert!(TOGETHER <= AHEAD);

/// Opcodes of fuse.h.
mod opcode {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const LSEEK: u32 = 46;
    /// Those that are answered with something else than "never ask again".
    pub(super) const KNOWN: [u32; 12] = [
        1, GETATTR, SETATTR, OPEN, READ, WRITE, 17, 18, 20, 38, FALLOCATE, LSEEK,
    ];
}

/// Let the kernel make calls as `script` says.
///
/// # Panics
/// If a call is not answered once, or as none of its kind, or a read brings something else than was
/// written.
pub fn fuse_calls(script: &[u8]) {
    let mut script = Script(script);
    let what = script.u8();
    let memory = Memory::builder(SIZE).limits(|limits| {
        limits.parallel = false;
        limits.read_only = what & 7 == 7;
        limits.zero = what & 8 == 0;
        limits.extents = what & 16 == 0;
        limits.flush = what & 32 == 0;
    });
    let file = Arc::new(DiskFile::new(Arc::new(Plain(Check::new(memory.build())))));
    let only = (what & 64 == 64).then_some(ONLY);
    let (kernel, device) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::empty(),
        None,
    )
    .expect("a socket");
    let mut bench = Bench {
        kernel,
        device,
        seats: Default::default(),
        served: Served::new(file, None, only),
        content: vec![0; usize::try_from(SIZE).expect("a small disk")],
        only,
    };
    let mut made = 0;
    while !script.is_empty() && made < MOST {
        made += bench.batch(&mut script);
    }
    let mut found = vec![0; bench.content.len()];
    let disk = bench.served.file.disk().expect("it is open");
    let read = disk.serve(Request::new(Op::Read(&mut found), 0));
    assert!(
        read.is_ok() && found == bench.content,
        "a write went astray"
    );
}

/// One call, as it was made.
struct Made {
    bytes: Vec<u8>,
}

impl Made {
    fn new(script: &mut Script<'_>, unique: u64) -> Self {
        let kind = script.u8();
        let opcode = match kind {
            0..16 => script.u32(),
            16..32 => [opcode::FORGET, opcode::BATCH_FORGET][usize::from(kind & 1)],
            32..64 => opcode::WRITE,
            _ => opcode::KNOWN[usize::from(kind) % opcode::KNOWN.len()],
        };
        let uid = if kind & 32 == 0 { ONLY } else { 0 };
        let mut bytes = Vec::new();
        bytes.extend([0; 4]);
        bytes.extend(opcode.to_ne_bytes());
        bytes.extend(unique.to_ne_bytes());
        bytes.extend(1_u64.to_ne_bytes());
        bytes.extend(uid.to_ne_bytes());
        bytes.extend([0; 12]);
        match opcode {
            opcode::READ | opcode::WRITE | opcode::FALLOCATE | opcode::LSEEK => {
                bytes.extend(0_u64.to_ne_bytes());
                bytes.extend(script.number(SIZE).to_ne_bytes());
                let len = script.number(SIZE);
                match opcode {
                    opcode::FALLOCATE => {
                        bytes.extend(len.to_ne_bytes());
                        bytes.extend(u32::from(script.u8()).to_ne_bytes());
                        bytes.extend([0; 4]);
                    }
                    opcode::LSEEK => bytes.extend([script.u8() % 6, 0, 0, 0, 0, 0, 0, 0]),
                    _ => {
                        let low = u32::try_from(len & u64::from(u32::MAX)).expect("32 bits");
                        bytes.extend(low.to_ne_bytes());
                        bytes.extend(u32::from(script.u8()).to_ne_bytes());
                        bytes.extend(0_u64.to_ne_bytes());
                        bytes.extend((script.u32() & 0o10003).to_ne_bytes());
                        bytes.extend([0; 4]);
                    }
                }
            }
            _ => {
                let len = usize::from(script.u8());
                bytes.extend(script.take(len));
            }
        }
        if opcode == opcode::WRITE {
            let len = usize::try_from(script.number(SIZE)).map_or(512, |len| len % 6000);
            let len = bytes.len() + len;
            bytes.resize(len, unique.to_ne_bytes()[0].wrapping_mul(3) | 1);
        }
        if script.u8() == 255 {
            let len = usize::from(script.u8());
            bytes.truncate(len);
        }
        Self { bytes }
    }

    /// Only what has a header is a call at all; the kernel says no less.
    fn is_call(&self) -> bool {
        self.bytes.len() >= HEADER
    }

    fn word(&self, at: usize) -> u32 {
        let part = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        part.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn long(&self, at: usize) -> u64 {
        let part = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        part.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }

    fn opcode(&self) -> u32 {
        self.word(4)
    }

    /// The layouts of fuse.h; nothing is looked for in others.
    fn ends_before_its_arguments(&self) -> bool {
        let arguments = match self.opcode() {
            opcode::SETATTR => 88,
            opcode::OPEN => 4,
            opcode::READ | opcode::WRITE => 40,
            opcode::FALLOCATE => 28,
            opcode::LSEEK => 20,
            _ => 0,
        };
        self.bytes.len() < HEADER + arguments
    }

    /// What a write brings.
    fn data(&self) -> &[u8] {
        self.bytes.get(HEADER + 40..).unwrap_or_default()
    }
}

struct Bench {
    kernel: OwnedFd,
    device: OwnedFd,
    /// They hold what earlier calls left in them.
    seats: [Seat; TOGETHER],
    served: Served,
    /// What the file holds.
    content: Vec<u8>,
    only: Option<u32>,
}

impl Bench {
    /// Make several calls at the same time, and hold the answers against them; how many it were.
    fn batch(&mut self, script: &mut Script<'_>) -> usize {
        let count = usize::from(script.u8()) % TOGETHER + 1;
        let mut calls = Vec::new();
        for unique in 1..=count {
            let call = Made::new(script, unique as u64);
            send(&self.kernel, &call.bytes, SendFlags::empty()).expect("there is room for it");
            let received = self.seats[calls.len()].receive(&self.served, self.device.as_fd());
            assert_eq!(received.is_ok(), call.is_call());
            if let Ok(received) = received {
                assert_eq!(received, Received::Call);
                calls.push(call);
            }
        }
        let seats = &mut self.seats[..calls.len()];
        let served = self.served.batch(self.device.as_fd(), seats);
        served.expect("the answers fit into the socket");
        let mut room = [0; 8192];
        for call in calls {
            if [opcode::FORGET, opcode::BATCH_FORGET].contains(&call.opcode()) {
                continue;
            }
            let (len, _) = recv(&self.kernel, &mut room, RecvFlags::DONTWAIT).expect("an answer");
            self.answered(&call, &room[..len]);
        }
        let more = recv(&self.kernel, &mut room, RecvFlags::DONTWAIT);
        assert_eq!(more, Err(Errno::AGAIN), "an answer too many");
        count
    }

    fn answered(&mut self, call: &Made, answer: &[u8]) {
        let answer = Made {
            bytes: answer.to_vec(),
        };
        assert_eq!(answer.word(0) as usize, answer.bytes.len());
        assert_eq!(answer.long(8), call.long(8), "an answer to another call");
        let errno = answer.word(4).cast_signed();
        assert!((-511..=0).contains(&errno), "no errno: {errno}");
        let known = opcode::KNOWN.contains(&call.opcode());
        assert_eq!(errno == -Errno::NOSYS.raw_os_error(), !known);
        if call.ends_before_its_arguments() {
            assert_eq!(errno, -Errno::IO.raw_os_error());
            return;
        }
        if errno != 0 {
            assert_eq!(answer.bytes.len(), ANSWER);
            assert!(!self.must_succeed(call), "{errno} for {}", call.opcode());
            return;
        }
        let (at, rest) = (call.long(HEADER + 8), &answer.bytes[ANSWER..]);
        match call.opcode() {
            opcode::READ => {
                let len = call.word(HEADER + 16) as usize;
                let expected = part(&self.content, at, len);
                assert!(rest == expected, "a read of {len} bytes at {at}");
            }
            opcode::WRITE => {
                let len = (call.word(HEADER + 16) as usize).min(call.data().len());
                let into = part_mut(&mut self.content, at, len);
                assert_eq!(answer.word(ANSWER) as usize, into.len());
                into.copy_from_slice(&call.data()[..into.len()]);
            }
            opcode::FALLOCATE => {
                let (len, mode) = (call.long(HEADER + 16), call.word(HEADER + 24));
                // A hole or zeroes are made; space is there anyhow.
                if mode & !1 != 0 {
                    let len = usize::try_from(len).expect("64 bits");
                    part_mut(&mut self.content, at, len).fill(0);
                }
            }
            opcode::LSEEK => self.sought(at, call.word(HEADER + 16), answer.long(ANSWER)),
            opcode::GETATTR | opcode::SETATTR => {
                assert_eq!(answer.bytes.len(), ANSWER + 104);
                assert_eq!(answer.long(ANSWER + 24), SIZE);
            }
            _ => (),
        }
    }

    /// Reads and writes of what is there, and changes of the file's times and the like.
    fn must_succeed(&self, call: &Made) -> bool {
        let (at, len) = (call.long(HEADER + 8), call.word(HEADER + 16));
        match call.opcode() {
            opcode::READ => true,
            opcode::WRITE => {
                let empty = len == 0 || call.data().is_empty();
                !self.served.file.limits().read_only && (empty || at < SIZE)
            }
            opcode::GETATTR => self.only.is_none() || self.only == Some(call.word(24)),
            _ => false,
        }
    }

    /// What is left out on the way to data is zeroes, and so is what a hole begins with.
    fn sought(&self, at: u64, whence: u32, found: u64) {
        assert!(at < SIZE && (at..=SIZE).contains(&found));
        let len = usize::try_from(found - at).expect("a small disk");
        if whence == super::SEEK_DATA {
            assert!(part(&self.content, at, len).iter().all(|byte| *byte == 0));
        }
        if whence == super::SEEK_HOLE {
            assert!(part(&self.content, found, 1).iter().all(|byte| *byte == 0));
        }
    }
}

/// As much of `content` as there is from `at` on, up to `len` bytes.
fn part(content: &[u8], at: u64, len: usize) -> &[u8] {
    let from = usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
    &content[from..from.saturating_add(len).min(content.len())]
}

/// As [`part`].
fn part_mut(content: &mut [u8], at: u64, len: usize) -> &mut [u8] {
    let from = usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
    let to = from.saturating_add(len).min(content.len());
    &mut content[from..to]
}
