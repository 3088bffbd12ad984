//! Entries for the fuzz targets in `tests/fuzz`: what a hostile client may say, made from any bytes.
//!
//! The bytes are read as a script, so that whoever makes them at random gets past magic numbers and
//! lengths; a script can still say anything at all. Besides crashes and hangs, the answers are held
//! against the protocol's grammar.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::config::Bounds;
use super::config::Dialect;
use super::conversation::hold;
use super::link::Link;
use super::service::{Seats, Service, Standing};
use super::shelf::Shelf;
use super::tls::Tls;
use super::wire::request::Head;
use super::wire::{Asked, OPTION_MAGIC, Reader, Shape, command};
use crate::disk::memory::Plain;
use crate::disk::memory::{Fault, Memory};
use crate::disk::{Client, Errno, OpenDisk, Peer};
use crate::fuzzing::Script;
use crate::layers::Check;

/// Bytes of the disk.
const SIZE: u64 = 1 << 20;
/// No more is said, so that all of it fits into a socket before anybody listens.
const MOST: usize = 64 << 10;
/// Bytes in a read or write.
const PAYLOAD: u32 = 8192;
/// Bytes that are read and dropped where no more than [`PAYLOAD`] is taken.
const SKIPPED: u64 = 4 * PAYLOAD as u64;

/// Let a client negotiate as `script` says, and go on with requests if it gets there.
pub fn negotiation(script: &[u8]) {
    let mut script = Script(script);
    let memory = Memory::builder(SIZE).limits(|limits| limits.parallel = false);
    let mut said = vec![0, 0, 0];
    match script.u8() {
        flags @ 0..8 => said.push(flags),
        other => said.push(other & 3),
    }
    while !script.is_empty() && said.len() < MOST {
        option(&mut script, &mut said);
    }
    let answers = converse(memory.build(), &said);
    assert_eq!(answers[..16], *b"NBDMAGICIHAVEOPT");
}

/// Let a client that has an export open send requests as `script` says.
pub fn transmission(script: &[u8]) {
    let mut script = Script(script);
    let (kind, what) = (script.u8(), script.u8());
    let shape = match kind & 3 {
        0 => Shape::Simple,
        1 => Shape::Extended,
        _ => Shape::Structured,
    };
    let memory = Memory::builder(SIZE).limits(|limits| {
        limits.parallel = what & 1 == 1;
        limits.read_only = what & 14 == 14;
        limits.strict_blocks = what & 16 == 16;
        limits.block.minimum = 512;
        limits.extents = what & 32 == 32;
    });
    let memory = memory.build();
    if what & 64 == 64 {
        memory.inject(Fault::fail(Errno::IO).within(4096..8192).forever());
    }
    let mut said = vec![0, 0, 0, 3];
    match shape {
        Shape::Simple => (),
        Shape::Structured => put_option(&mut said, 8, b""),
        Shape::Extended => put_option(&mut said, 11, b""),
    }
    put_option(
        &mut said,
        10,
        b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation",
    );
    put_option(&mut said, 1, b"disk");
    let mut reads = Vec::new();
    let mut honest = true;
    while !script.is_empty() && said.len() < MOST {
        honest &= request(&mut script, shape, &mut said, &mut reads);
    }
    let answers = converse(memory, &said);
    if honest {
        let from = answers_begin(&answers, shape);
        check(shape, Reader::new(&answers[from..]), &reads);
    }
}

/// Say an option: a whole one, one that lies about its length, or something else altogether.
fn option(script: &mut Script<'_>, said: &mut Vec<u8>) {
    match script.u8() {
        0..16 => {
            let len = usize::from(script.u8());
            said.extend(script.take(len));
        }
        16..32 => {
            said.extend(OPTION_MAGIC.to_be_bytes());
            said.extend(script.take(8));
        }
        kind => {
            let number = u32::from(kind % 13);
            let mut data = Vec::new();
            match script.u8() {
                // What the options about exports have in common.
                how @ 0..128 => {
                    let name = if how & 1 == 1 { "disk" } else { "" };
                    let len = u32::try_from(name.len()).expect("a short name");
                    data.extend(len.to_be_bytes());
                    data.extend(name.as_bytes());
                    let items = how >> 1 & 7;
                    match number {
                        6 | 7 => data.extend([0, items]),
                        _ => data.extend([0, 0, 0, items]),
                    }
                    for _ in 0..items {
                        match number {
                            6 | 7 => data.extend([0, script.u8() & 7]),
                            _ if script.u8() & 1 == 1 => data.extend(b"\0\0\0\x0fbase:allocation"),
                            _ => data.extend(b"\0\0\0\x05base:"),
                        }
                    }
                }
                128..192 => (),
                len => data.extend(script.take(usize::from(len) - 192)),
            }
            put_option(said, number, &data);
        }
    }
}

fn put_option(said: &mut Vec<u8>, number: u32, data: &[u8]) {
    said.extend(OPTION_MAGIC.to_be_bytes());
    said.extend(number.to_be_bytes());
    said.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
    said.extend(data);
}

/// Say a request; whether it was one from its first to its last byte.
fn request(
    script: &mut Script<'_>,
    shape: Shape,
    said: &mut Vec<u8>,
    reads: &mut Vec<Option<u64>>,
) -> bool {
    let kind = script.u8();
    if kind < 8 {
        let len = usize::from(script.u8());
        said.extend(script.take(len));
        return false;
    }
    let command = u16::from(kind % 10);
    let flags = match script.u8() {
        few @ 0..64 => u16::from(few),
        64..192 => 0,
        _ => u16::try_from(script.u64(2)).expect("two bytes"),
    };
    let mut asked = Asked::from_bits_retain(flags);
    if shape == Shape::Extended && command == command::WRITE && kind < 200 {
        asked |= Asked::PAYLOAD_LEN;
    }
    let at = script.number(SIZE);
    let mut len = script.number(SIZE);
    if shape != Shape::Extended {
        len &= u64::from(u32::MAX);
    }
    let cookie = reads.len() as u64;
    reads.push((command == command::READ).then_some(len));
    let head = Head {
        asked,
        command,
        cookie,
        at,
        len,
    };
    said.extend(head.encode(shape));
    let payload = head.payload(shape);
    let fill = script.u8();
    let sent = usize::try_from(payload).map_or(MOST, |payload| payload.min(MOST));
    said.resize(said.len() + sent, fill);
    // Nobody listens to what follows a disconnection, or a payload that is far too long.
    command != command::DISC && payload <= SKIPPED
}

/// Say everything, hang up, and hear all that is answered.
fn converse(disk: Memory, said: &[u8]) -> Vec<u8> {
    let bounds = Bounds {
        payload: PAYLOAD,
        option: 1024,
        requests: 3,
        ..Bounds::default()
    };
    let disk: Arc<dyn OpenDisk> = Arc::new(Plain(Check::new(disk)));
    let service = Service {
        exports: Arc::new(Shelf {
            disk,
            welcome: true,
        }),
        seats: Seats::new(bounds.clients),
        bounds,
        dialect: Dialect::default(),
        tls: Tls::Off,
    };
    let (mut ours, theirs) = UnixStream::pair().expect("a socket");
    ours.write_all(said).expect("there is room for it");
    ours.shutdown(Shutdown::Write).expect("it is open");
    let listening = std::thread::spawn(move || {
        let mut answers = Vec::new();
        // Who says more than is listened to is told so in the end.
        let end = ours.read_to_end(&mut answers).map_err(|error| error.kind());
        assert!(matches!(end, Ok(_) | Err(ErrorKind::ConnectionReset)));
        answers
    });
    let client = Arc::new(Client::new(1, Peer::Stdio));
    hold(
        &service,
        Link::new(theirs.into()),
        &client,
        &Standing::default(),
    );
    assert_eq!(
        service.seats.free(),
        service.bounds.clients,
        "a seat is lost"
    );
    listening.join().expect("it only listens")
}

/// Where the answers to requests begin: behind the greeting and what was negotiated.
fn answers_begin(answers: &[u8], shape: Shape) -> usize {
    let context = 20 + 4 + 15;
    let refused = "metadata contexts need structured replies".len();
    let negotiated = match shape {
        Shape::Simple => 20 + refused,
        Shape::Structured | Shape::Extended => 20 + context + 20,
    };
    (18 + negotiated + 10).min(answers.len())
}

/// Hold the answers against the grammar: each request is answered once, and whole.
fn check(shape: Shape, mut answers: Reader<'_>, reads: &[Option<u64>]) {
    let mut open: Vec<bool> = vec![true; reads.len()];
    while !answers.is_empty() {
        let (cookie, last) = answer(shape, &mut answers, reads).expect("no answer is cut short");
        let open = usize::try_from(cookie)
            .ok()
            .and_then(|cookie| open.get_mut(cookie));
        let open = open.expect("an answer to a request");
        assert!(*open, "an answer to an answered request");
        *open = !last;
    }
    assert!(!open.contains(&true), "a request that was not answered");
}

/// One simple reply, or one chunk: to what, and whether nothing follows.
fn answer(shape: Shape, answers: &mut Reader<'_>, reads: &[Option<u64>]) -> Option<(u64, bool)> {
    let magic = answers.u32()?;
    if shape == Shape::Simple {
        assert_eq!(magic, super::wire::SIMPLE_REPLY_MAGIC);
        let error = answers.u32()?;
        let cookie = answers.u64()?;
        let read = reads.get(usize::try_from(cookie).ok()?)?;
        if let (0, Some(len)) = (error, read) {
            answers.bytes(usize::try_from(*len).ok()?)?;
        }
        return Some((cookie, true));
    }
    let flags = answers.u16()?;
    let kind = answers.u16()?;
    let cookie = answers.u64()?;
    let len = match shape {
        Shape::Extended => {
            assert_eq!(magic, super::wire::EXTENDED_REPLY_MAGIC);
            answers.u64()?;
            answers.u64()?
        }
        Shape::Simple | Shape::Structured => {
            assert_eq!(magic, super::wire::STRUCTURED_REPLY_MAGIC);
            answers.u32()?.into()
        }
    };
    assert!(flags <= 1 && [0, 1, 2, 5, 6, 0x8001].contains(&kind));
    answers.bytes(usize::try_from(len).ok()?)?;
    Some((cookie, flags == 1))
}
