//! Collects replies and sends them together.

use std::io::{self, IoSlice};
use std::ops::Range;

use pydisk_kernel::pages::Slot;

use super::admission::Refused;
use super::incoming::Arrival;
use crate::frontends::nbd::link::Link;
use crate::frontends::nbd::wire::reply::{Chunk, chunk, simple};
use crate::frontends::nbd::wire::{BASE_ALLOCATION_ID, Failure, Shape};

/// Parts that go to the kernel in one call.
const TOGETHER: usize = 64;

/// Replies that wait to be sent. The data of reads stays in the slots.
#[derive(Debug)]
pub(super) struct Outbox {
    shape: Shape,
    /// Everything but data.
    words: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// A range of `words`.
    Words(Range<usize>),
    /// A range of what a slot lent last.
    Data { slot: usize, range: Range<usize> },
}

impl Part {
    fn bytes<'a>(&self, words: &'a [u8], slots: &'a [Slot]) -> &'a [u8] {
        match self {
            Self::Words(range) => &words[range.clone()],
            Self::Data { slot, range } => &slots[*slot].lent()[range.clone()],
        }
    }
}

/// Small replies that wait for others, to be sent in one call with them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    replies: u32,
}

impl Pending {
    /// Replies that wait at most, and their bytes.
    const MOST: u32 = 32;
    const MOST_BYTES: usize = 256 << 10;
    /// A larger reply is sent from where it lies.
    const SMALL: usize = 16 << 10;

    /// Take a reply in; false if it is better sent.
    pub(super) fn add(&mut self, out: &mut Outbox, slots: &[Slot]) -> bool {
        let len = out.len();
        let full = self.replies >= Self::MOST || self.bytes.len() + len > Self::MOST_BYTES;
        if full || len > Self::SMALL {
            return false;
        }
        for part in &out.parts {
            self.bytes.extend_from_slice(part.bytes(&out.words, slots));
        }
        self.replies += 1;
        out.clear();
        true
    }

    /// Send what waits.
    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let sent = link.write_all(&mut [IoSlice::new(&self.bytes)]);
        self.bytes.clear();
        self.replies = 0;
        sent
    }

    /// Send what waits, and a reply behind it.
    pub(super) fn send_with(
        &mut self,
        out: &mut Outbox,
        link: &Link,
        slots: &[Slot],
    ) -> io::Result<()> {
        if self.replies > 0 && self.add(out, slots) {
            return self.send(link);
        }
        self.send(link)?;
        out.send(link, slots)
    }
}

/// A piece of the answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Relative to the start of the read.
    pub(super) range: Range<usize>,
    /// Zeroes, of which nothing is sent but their number.
    pub(super) hole: bool,
}

impl Outbox {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            words: Vec::new(),
            parts: Vec::new(),
        }
    }

    /// A request that was not a read has succeeded.
    pub(super) fn success(&mut self, to: &Arrival) {
        let shape = self.shape;
        self.words(|words| match shape {
            Shape::Simple => simple(to.cookie, None, words),
            Shape::Structured | Shape::Extended => {
                to.chunk(chunk::NONE, true, 0).encode(shape, words)
            }
        });
    }

    /// A request has failed; no byte of data goes with it.
    pub(super) fn failure(&mut self, to: &Arrival, refused: Refused) {
        let Refused { failure, why } = refused;
        let shape = self.shape;
        self.words(|words| match shape {
            Shape::Simple => simple(to.cookie, Some(failure), words),
            Shape::Structured | Shape::Extended => error_chunk(to, shape, failure, why, words),
        });
    }

    /// A read has succeeded, and its data lies in the slot of this number.
    pub(super) fn read(&mut self, to: &Arrival, slot: usize, pieces: &[Piece]) {
        let shape = self.shape;
        if shape == Shape::Simple {
            self.words(|words| simple(to.cookie, None, words));
            for piece in pieces {
                self.data(slot, piece.range.clone());
            }
            return;
        }
        for (index, piece) in pieces.iter().enumerate() {
            let last = index + 1 == pieces.len();
            let at = to.at + piece.range.start as u64;
            let len = u32::try_from(piece.range.len()).expect("a payload has 32 bits of length");
            self.words(|words| {
                let (kind, payload) = match piece.hole {
                    true => (chunk::OFFSET_HOLE, 12),
                    false => (chunk::OFFSET_DATA, 8 + len),
                };
                to.chunk(kind, last, payload).encode(shape, words);
                words.extend(at.to_be_bytes());
                if piece.hole {
                    words.extend(len.to_be_bytes());
                }
            });
            if !piece.hole {
                self.data(slot, piece.range.clone());
            }
        }
    }

    /// The extents that were asked for: lengths, and what the protocol calls their flags.
    pub(super) fn status(
        &mut self,
        to: &Arrival,
        count: u32,
        extents: impl Iterator<Item = (u64, u32)>,
    ) {
        let shape = self.shape;
        self.words(|words| {
            if shape == Shape::Extended {
                to.chunk(chunk::BLOCK_STATUS_EXT, true, 8 + 16 * count)
                    .encode(shape, words);
                words.extend(BASE_ALLOCATION_ID.to_be_bytes());
                words.extend(count.to_be_bytes());
                for (len, flags) in extents {
                    words.extend(len.to_be_bytes());
                    words.extend(u64::from(flags).to_be_bytes());
                }
                return;
            }
            to.chunk(chunk::BLOCK_STATUS, true, 4 + 8 * count)
                .encode(shape, words);
            words.extend(BASE_ALLOCATION_ID.to_be_bytes());
            for (len, flags) in extents {
                let len = u32::try_from(len).expect("was cut to 32 bits");
                words.extend(len.to_be_bytes());
                words.extend(flags.to_be_bytes());
            }
        });
    }

    /// Send everything. The slots are those that the reads were told to lie in.
    pub(super) fn send(&mut self, link: &Link, slots: &[Slot]) -> io::Result<()> {
        for parts in self.parts.chunks(TOGETHER) {
            let mut slices = [IoSlice::new(&[]); TOGETHER];
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part.bytes(&self.words, slots));
            }
            link.write_all(&mut slices[..parts.len()])?;
        }
        self.clear();
        Ok(())
    }

    /// Bytes of all replies.
    fn len(&self) -> usize {
        let data = self.parts.iter().map(|part| match part {
            Part::Words(_) => 0,
            Part::Data { range, .. } => range.len(),
        });
        self.words.len() + data.sum::<usize>()
    }

    fn clear(&mut self) {
        self.words.clear();
        self.parts.clear();
        // One long list of extents is no reason to keep its memory.
        self.words.shrink_to(64 << 10);
    }

    fn words(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.words.len();
        write(&mut self.words);
        let end = self.words.len();
        match self.parts.last_mut() {
            Some(Part::Words(range)) => range.end = end,
            _ => self.parts.push(Part::Words(start..end)),
        }
    }

    fn data(&mut self, slot: usize, range: Range<usize>) {
        self.parts.push(Part::Data { slot, range });
    }
}

impl Arrival {
    fn chunk(&self, kind: u16, last: bool, payload: u32) -> Chunk {
        Chunk {
            kind,
            last,
            cookie: self.cookie,
            at: self.at,
            payload,
        }
    }
}

fn error_chunk(to: &Arrival, shape: Shape, failure: Failure, why: &str, words: &mut Vec<u8>) {
    let len = u16::try_from(why.len()).expect("our own sentences are short");
    to.chunk(chunk::ERROR, true, 6 + u32::from(len))
        .encode(shape, words);
    words.extend((failure as u32).to_be_bytes());
    words.extend(len.to_be_bytes());
    words.extend(why.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::super::admission::{Order, What};
    use super::*;
    use crate::disk::Flags;

    fn read(cookie: u64, len: usize) -> Arrival {
        let order = Order {
            what: What::Read { whole: false },
            at: 0,
            len: len as u64,
            flags: Flags::empty(),
        };
        Arrival {
            cookie,
            at: 0,
            verdict: Ok(order),
        }
    }

    /// Have `byte` read into the slot, and the reply written.
    fn answer(out: &mut Outbox, slot: &mut Slot, cookie: u64, byte: u8, len: usize) {
        slot.lend(len).unwrap().0.fill(byte);
        let whole = Piece {
            range: 0..len,
            hole: false,
        };
        out.read(&read(cookie, len), 0, &[whole]);
    }

    fn reply(cookie: u64, byte: u8, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        simple(cookie, None, &mut bytes);
        bytes.resize(bytes.len() + len, byte);
        bytes
    }

    #[test]
    fn a_reply_that_waits_keeps_its_data_when_the_slot_is_used_again() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let link = Link::new(server.into());
        let mut slots = [Slot::new()];
        let (mut out, mut pending) = (Outbox::new(Shape::Simple), Pending::default());
        for (cookie, byte) in [(1, b'a'), (2, b'b')] {
            answer(&mut out, &mut slots[0], cookie, byte, 512);
            assert!(pending.add(&mut out, &slots));
        }
        answer(&mut out, &mut slots[0], 3, b'c', 512);
        pending.send_with(&mut out, &link, &slots).unwrap();
        link.close();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        let said = [(1, b'a'), (2, b'b'), (3, b'c')];
        let said = said.map(|(cookie, byte)| reply(cookie, byte, 512));
        assert_eq!(heard, said.concat());
    }

    #[test]
    fn a_large_reply_does_not_wait_nor_do_too_many() {
        let mut slots = [Slot::new()];
        let (mut out, mut pending) = (Outbox::new(Shape::Simple), Pending::default());
        answer(&mut out, &mut slots[0], 0, b'a', Pending::SMALL);
        assert!(!pending.add(&mut out, &slots));
        out.clear();
        let mut took = 0;
        loop {
            answer(&mut out, &mut slots[0], 1, b'b', 512);
            if !pending.add(&mut out, &slots) {
                break;
            }
            took += 1;
            assert!(took <= Pending::MOST);
        }
        assert_eq!(took, Pending::MOST);
    }
}
