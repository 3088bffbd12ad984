//! Requests of any size at any offset, as requests for whole blocks that are not too long.

use std::ops::Range;

use super::{Disk, Emulate, Flags, Op, Rest, Result};
use crate::disk::go_on;

/// A trim, zero or cache request to a plugin counts its bytes in 32 bits. A longer range goes down
/// in pieces of this size, a multiple of every block size.
const LONGEST_RANGE: u64 = 1 << 31;

/// What is read at a time only to be dropped: as much as nbdkit reads, so a plugin that counts on whole
/// requests sees the same ones.
const LONGEST_DROP: usize = 64 << 20;

impl<D: Disk> Emulate<D> {
    /// `range` without the parts of blocks at its ends; empty if it holds no whole block.
    pub(super) fn inward(&self, range: &Range<u64>) -> Range<u64> {
        let block = self.block_bytes();
        let start = range
            .start
            .checked_next_multiple_of(block)
            .unwrap_or(range.end);
        start..range.end / block * block
    }

    /// `range` with the rest of the blocks at its ends.
    pub(super) fn outward(&self, range: &Range<u64>) -> Range<u64> {
        let block = self.block_bytes();
        let end = range.end.checked_next_multiple_of(block);
        range.start / block * block..end.unwrap_or(range.end)
    }

    /// Send an operation without memory down for whole blocks, in as few pieces as can be.
    pub(super) fn pass(
        &self,
        range: &Range<u64>,
        op: impl Fn(u64) -> Op<'static>,
        rest: Rest<'_>,
    ) -> Result {
        for (index, piece) in pieces(range).enumerate() {
            if index > 0 {
                go_on(rest.cancel)?;
            }
            let op = op(piece.end - piece.start);
            self.disk.serve(rest.part(op, piece.start))?;
        }
        Ok(())
    }

    pub(super) fn read(&self, mut at: u64, mut buf: &mut [u8], rest: Rest<'_>) -> Result {
        while !buf.is_empty() {
            let part = self.first_part(at, buf.len());
            let (now, later) = std::mem::take(&mut buf).split_at_mut(part.len);
            if part.is_whole {
                self.disk.serve(rest.owned(Op::Read(now), at))?;
            } else {
                let block = self.read_block(at - part.skip as u64, rest)?;
                now.copy_from_slice(&block[part.skip..part.skip + part.len]);
            }
            at += part.len as u64;
            buf = later;
        }
        Ok(())
    }

    /// Write; the caller holds the lock that the range needs.
    pub(super) fn write(&self, mut at: u64, mut buf: &[u8], rest: Rest<'_>) -> Result {
        while !buf.is_empty() {
            let part = self.first_part(at, buf.len());
            let (now, later) = buf.split_at(part.len);
            if part.is_whole {
                self.disk.serve(rest.owned(Op::Write(now), at))?;
            } else {
                let start = at - part.skip as u64;
                let mut block = self.read_block(start, rest)?;
                block[part.skip..part.skip + part.len].copy_from_slice(now);
                self.disk.serve(rest.part(Op::Write(&block), start))?;
            }
            at += part.len as u64;
            buf = later;
        }
        Ok(())
    }

    pub(super) fn read_and_drop(&self, range: &Range<u64>, rest: Rest<'_>) -> Result {
        let outer = self.outward(range);
        // Both are multiples of the block.
        let step = self.longest.min(LONGEST_DROP);
        let mut buf = vec![0; shorter(outer.end - outer.start, step)];
        let mut at = outer.start;
        while at < outer.end {
            go_on(rest.cancel)?;
            let len = shorter(outer.end - at, step);
            self.disk.serve(rest.part(Op::Read(&mut buf[..len]), at))?;
            at += len as u64;
        }
        Ok(())
    }

    fn read_block(&self, at: u64, rest: Rest<'_>) -> Result<Vec<u8>> {
        let mut block = vec![0; self.block];
        let rest = rest.with_flags(Flags::empty());
        self.disk.serve(rest.part(Op::Read(&mut block), at))?;
        Ok(block)
    }

    /// What to send down first of `len` bytes at `at`.
    fn first_part(&self, at: u64, len: usize) -> Part {
        let skip = usize::try_from(at % self.block_bytes())
            .expect("a remainder is less than the block, which is a usize");
        if skip == 0 && len >= self.block {
            let len = (len / self.block * self.block).min(self.longest);
            return Part {
                skip,
                len,
                is_whole: true,
            };
        }
        Part {
            skip,
            len: len.min(self.block - skip),
            is_whole: false,
        }
    }
}

/// The first bytes of a request: whole blocks, or bytes within one block.
struct Part {
    /// Bytes of the block before the part.
    skip: usize,
    len: usize,
    is_whole: bool,
}

/// `range` whole if its length fits in 32 bits, else in pieces that do.
pub(super) fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let (mut at, end) = (range.start, range.end);
    let longest = if end.saturating_sub(at) <= u32::MAX.into() {
        u64::MAX
    } else {
        LONGEST_RANGE
    };
    std::iter::from_fn(move || {
        let piece = at..at.saturating_add(longest).min(end);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The shorter of two lengths, one of which is in memory.
pub(super) fn shorter(len: u64, most: usize) -> usize {
    usize::try_from(len).map_or(most, |len| len.min(most))
}
