//! Gives a disk what it lacks: zeroing, durable writes, requests of any size at any offset. It stands
//! right above a plugin's handle and above every layer that takes a capability away.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::disk::{
    Cache, Cancel, Disk, Errno, Error, Extents, Flags, Fua, Limits, Op, Owner, Request, Result,
};

mod blocks;
mod zero;

#[cfg(test)]
mod tests;

/// The longest read or write that is sent down, as in nbdkit; a multiple of every block size.
const LONGEST_TRANSFER: u32 = 64 << 20;

/// The lock under which parts of blocks are changed.
pub type Parts = Arc<RwLock<()>>;

/// A disk that serves any request within its size, whatever the one below can do.
///
/// | below | here |
/// |---|---|
/// | [`Fua::Emulate`] | the operation without the flag, then one flush if it succeeded |
/// | no zero, or it answers `ENOTSUP` | zeroes are written, in steps of 64 MiB at most |
/// | the same, with [`Flags::FAST_ZERO`] | `ENOTSUP` at once, nothing is written |
/// | [`Cache::Emulate`] | the range is read and dropped |
/// | parts of blocks | read, changed and written back; a trim shrinks to whole blocks |
/// | reads and writes above the maximum or 64 MiB | split; so are other ranges of 4 GiB and more |
/// | steps of one request for which [nobody waits](Cancel) | the rest is not done, `ESHUTDOWN` |
/// | a size that is no multiple of the minimum block | rounded down |
///
/// [`Fua::None`], no flush, no trim and [`Cache::None`] stay what they are.
#[derive(Debug)]
pub struct Emulate<D> {
    disk: D,
    limits: Limits,
    /// Offsets and lengths sent down are multiples of this.
    block: usize,
    /// No read or write sent down is longer; a multiple of `block`.
    longest: usize,
    flush_for_fua: bool,
    /// What the disk below says of [`Op::Zero`].
    zero_below: bool,
    /// Taken shared by changes to whole blocks, exclusively by changes to parts of blocks, which
    /// read a block, change it and write it back: without it a write to another part of the same
    /// block would be undone. That is why it is held across the calls below; nothing is locked
    /// before it, see [`Emulate::may_wait`]. Absent where blocks have no parts or calls no company.
    parts: Option<Parts>,
}

impl<D: Disk> Emulate<D> {
    /// Wrap `disk`.
    pub fn new(disk: D) -> Self {
        let below = disk.limits();
        let block = below.block.minimum.max(1);
        let maximum = below.block.maximum.min(LONGEST_TRANSFER);
        let longest = (maximum / block).max(1) * block;
        let flush_for_fua = below.fua == Fua::Emulate;
        let limits = Limits {
            size: below.size / u64::from(block) * u64::from(block),
            strict_blocks: false,
            zero: !below.read_only,
            // Where zeroes are written it is known at once that it is not fast.
            fast_zero: !below.read_only && below.fast_zero,
            trim: !below.read_only && below.trim,
            ..below.clone()
        };
        Self {
            block: block as usize,
            longest: longest as usize,
            flush_for_fua,
            zero_below: below.zero,
            parts: (block > 1 && below.parallel).then(Parts::default),
            limits,
            disk,
        }
    }

    /// The same for one of several handles of one disk, whose blocks are the others' as well: all of
    /// them change parts of blocks under the lock `parts`.
    #[must_use]
    pub fn sharing(mut self, parts: &Parts) -> Self {
        self.parts = (self.block > 1).then(|| Arc::clone(parts));
        self
    }

    /// Whether a request may wait here for another one, which it must not do in a batch: there the disk below
    /// may hold a lock of its own throughout, or Python's, and would then wait for ours while its owner waits
    /// for theirs.
    pub(super) fn may_wait(&self) -> bool {
        self.parts.is_some()
    }

    fn block_bytes(&self) -> u64 {
        self.block as u64
    }

    fn is_whole(&self, range: &Range<u64>) -> bool {
        range.start.is_multiple_of(self.block_bytes())
            && range.end.is_multiple_of(self.block_bytes())
    }

    /// Serve a request whose FUA flag, if there is one, is for the disk below.
    fn serve_in_blocks(&self, request: Request<'_>) -> Result {
        let range = request.range();
        let whole = self.is_whole(&range);
        let rest = Rest::of(&request);
        match request.op {
            Op::Flush => self.disk.serve(request),
            Op::Read(buf) => self.read(range.start, buf, rest),
            Op::Cache(_) if self.limits.cache == Cache::Emulate => self.read_and_drop(&range, rest),
            Op::Cache(_) => self.pass(&self.outward(&range), Op::Cache, rest),
            Op::Write(buf) if whole => {
                let _shared = self.parts.as_deref().map(RwLock::read);
                self.write(range.start, buf, rest)
            }
            Op::Write(buf) => {
                let _exclusive = self.parts.as_deref().map(RwLock::write);
                self.write(range.start, buf, rest)
            }
            Op::Trim(_) => {
                let inner = self.inward(&range);
                let _shared = self.parts.as_deref().map(RwLock::read);
                self.pass(&inner, Op::Trim, rest)
            }
            Op::Zero(_) if whole => {
                let _shared = self.parts.as_deref().map(RwLock::read);
                self.zero_blocks(&range, rest)
            }
            Op::Zero(_) => {
                let _exclusive = self.parts.as_deref().map(RwLock::write);
                self.zero_parts(&range, rest)
            }
        }
    }
}

/// What all parts of a request are sent down with.
#[derive(Clone, Copy)]
struct Rest<'a> {
    flags: Flags,
    /// Of the memory that the request has brought.
    owner: Option<&'a Owner>,
    cancel: Option<&'a Cancel>,
}

impl<'a> Rest<'a> {
    fn of(request: &Request<'a>) -> Self {
        Self {
            flags: request.flags,
            owner: request.owner,
            cancel: request.cancel,
        }
    }

    /// A part without memory, or on memory that is only borrowed.
    fn part(self, op: Op<'a>, at: u64) -> Request<'a> {
        Request {
            op,
            at,
            flags: self.flags,
            owner: None,
            cancel: self.cancel,
        }
    }

    /// A part on the memory that the request has brought.
    fn owned(self, op: Op<'a>, at: u64) -> Request<'a> {
        Request {
            owner: self.owner,
            ..self.part(op, at)
        }
    }

    fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }
}

impl<D: Disk> Disk for Emulate<D> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        if self.flush_for_fua && request.flags.contains(Flags::FUA) {
            let flags = request.flags.difference(Flags::FUA);
            let flush = Request::new(Op::Flush, 0).with_cancel(request.cancel);
            self.serve_in_blocks(request.with_flags(flags))?;
            return self.disk.serve(flush).map_err(zero::not_a_refusal);
        }
        self.serve_in_blocks(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        if self.is_whole(&range) {
            return self.disk.extents(range, found);
        }
        let outer = self.outward(&range);
        let mut below = Extents::starting_at(outer.start).with_cancel(found.cancel());
        if found.is_first_only() {
            below = below.first_only();
        }
        // A report may end early, here before the range begins; each one gets further.
        while below.end() <= range.start {
            let at = below.end();
            self.disk.extents(at..outer.end, &mut below)?;
            if below.end() == at {
                return Err(Error::new(Errno::IO, "the disk described no extent at all"));
            }
        }
        for extent in below.list() {
            let end = extent.at.saturating_add(extent.len).min(range.end);
            let start = extent.at.max(range.start);
            found.push(end.saturating_sub(start), extent.kind);
        }
        Ok(())
    }
}
