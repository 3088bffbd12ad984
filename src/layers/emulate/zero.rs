//! Zeroing: by the disk below where it can, else by writing zeroes.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use super::blocks::{pieces, shorter};
use super::{Disk, Emulate, Errno, Flags, LONGEST_TRANSFER, Op, Rest, Result};
use crate::disk::{Error, Owner, go_on};

/// Zeroes for every emulated request. Nobody writes to them, so the kernel backs them all with its
/// one page of zeroes, and a plugin may keep them for as long as it likes.
static ZEROES: LazyLock<Zeroes> = LazyLock::new(|| {
    let bytes = Arc::new(vec![0; LONGEST_TRANSFER as usize]);
    let owner: Owner = Arc::clone(&bytes) as Owner;
    Zeroes { bytes, owner }
});

/// Zeroes that are written without a thought whether somebody waits for them.
const LEAST_STEP: usize = 1 << 20;

struct Zeroes {
    bytes: Arc<Vec<u8>>,
    owner: Owner,
}

impl<D: Disk> Emulate<D> {
    /// Zero whole blocks; the caller holds the shared lock.
    pub(super) fn zero_blocks(&self, range: &Range<u64>, rest: Rest<'_>) -> Result {
        for (index, piece) in pieces(range).enumerate() {
            if index > 0 {
                go_on(rest.cancel)?;
            }
            if self.zero_below && self.zero_is_taken(&piece, rest)? {
                continue;
            }
            if rest.flags.contains(Flags::FAST_ZERO) {
                return Err(slow());
            }
            self.write_zeroes(&piece, rest)?;
        }
        Ok(())
    }

    /// Zero bytes that are not whole blocks; the caller holds the exclusive lock.
    pub(super) fn zero_parts(&self, range: &Range<u64>, rest: Rest<'_>) -> Result {
        let inner = self.inward(range);
        if !inner.is_empty() {
            // First, because with `FAST_ZERO` it can fail, and then nothing may have been written.
            self.zero_blocks(&inner, rest)?;
            self.write_zeroes(&(range.start..inner.start), rest)?;
            return self.write_zeroes(&(inner.end..range.end), rest);
        }
        if rest.flags.contains(Flags::FAST_ZERO) {
            return Err(slow());
        }
        self.write_zeroes(range, rest)
    }

    /// Ask the disk below; false if it leaves the work to us.
    fn zero_is_taken(&self, range: &Range<u64>, rest: Rest<'_>) -> Result<bool> {
        let op = Op::Zero(range.end - range.start);
        match self.disk.serve(rest.part(op, range.start)) {
            Ok(()) => Ok(true),
            // `EOPNOTSUPP` is the same number on Linux.
            Err(error)
                if error.errno == Errno::NOTSUP && !rest.flags.contains(Flags::FAST_ZERO) =>
            {
                log::debug!("zero is done by writing: {error}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn write_zeroes(&self, range: &Range<u64>, rest: Rest<'_>) -> Result {
        let zeroes = &*ZEROES;
        let rest = Rest {
            flags: rest.flags & Flags::FUA,
            owner: Some(&zeroes.owner),
            ..rest
        };
        // What goes down at once, or several of them where that is little.
        let most = (LEAST_STEP / self.longest).max(1) * self.longest;
        let mut at = range.start;
        while at < range.end {
            if at > range.start {
                go_on(rest.cancel)?;
            }
            let step = shorter(range.end - at, most);
            self.write(at, &zeroes.bytes[..step], rest)
                .map_err(not_a_refusal)?;
            at += step as u64;
        }
        Ok(())
    }
}

fn slow() -> Error {
    Error::new(
        Errno::NOTSUP,
        "zeroing would be no faster than writing zeroes",
    )
}

/// To the one who asked for zeroes, `ENOTSUP` says that nothing was done and that writing would help.
/// From the write itself, or from the flush afterwards, it says neither. NBD clients are told `EINVAL`
/// of either, as nbdkit tells them.
pub(super) fn not_a_refusal(error: Error) -> Error {
    if error.errno == Errno::NOTSUP {
        return Error::new(Errno::INVAL, error);
    }
    error
}
