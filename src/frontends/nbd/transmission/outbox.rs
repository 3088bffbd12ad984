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
                *slice = IoSlice::new(match part {
                    Part::Words(range) => &self.words[range.clone()],
                    Part::Data { slot, range } => &slots[*slot].lent()[range.clone()],
                });
            }
            link.write_all(&mut slices[..parts.len()])?;
        }
        self.words.clear();
        self.parts.clear();
        // One long list of extents is no reason to keep its memory.
        self.words.shrink_to(64 << 10);
        Ok(())
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
