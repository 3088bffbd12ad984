//! The one place that asserts between layers: what goes down is in range and within the limits, what
//! comes back makes sense. It stands on every hop and refuses with an [`Error`], it never panics.

use std::ops::Range;

use crate::disk::{Disk, Errno, Error, Extents, Limits, Request, Result};

/// A disk that is only called with requests that its limits allow.
///
/// | violation | errno |
/// |---|---|
/// | no byte at all, a flush that is not at 0, a flag that does not belong to the operation | `EINVAL` |
/// | a modifying request to a read-only disk | `EROFS` |
/// | an operation or [`Flags::FUA`](crate::disk::Flags::FUA) that the limits do not offer | `EINVAL` |
/// | [`Flags::FAST_ZERO`](crate::disk::Flags::FAST_ZERO) that the limits do not offer | `ENOTSUP` |
/// | past the end: read, cache | `EINVAL` |
/// | past the end: write, zero, trim | `ENOSPC` |
/// | not in whole blocks, or too long, where [`Limits::strict_blocks`] | `EINVAL` |
/// | extents that describe nothing, or bytes past the end | `EIO` |
#[derive(Debug)]
pub struct Check<D>(D);

impl<D: Disk> Check<D> {
    /// Wrap `disk`.
    pub fn new(disk: D) -> Self {
        Self(disk)
    }

    /// The disk, to be called without a check.
    pub fn below(&self) -> &D {
        &self.0
    }
}

impl<D: Disk> Disk for Check<D> {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    fn serve(&self, request: Request<'_>) -> Result {
        self.limits().admit(&request)?;
        self.0.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        let size = self.limits().size;
        if range.is_empty() || range.end > size {
            return refuse(
                Errno::INVAL,
                format!(
                    "extents of {}..{} were asked of a disk of {size} bytes",
                    range.start, range.end
                ),
            );
        }
        if found.end() != range.start {
            return refuse(
                Errno::INVAL,
                format!(
                    "extents from {} were to be added to a list that ends at {}",
                    range.start,
                    found.end()
                ),
            );
        }
        self.0.extents(range.clone(), found)?;
        if found.end() <= range.start {
            return refuse(Errno::IO, "the disk described no extent at all");
        }
        if found.end() > size {
            return refuse(
                Errno::IO,
                format!(
                    "the disk of {size} bytes described extents up to {}",
                    found.end()
                ),
            );
        }
        Ok(())
    }
}

fn refuse(errno: Errno, cause: impl Into<String>) -> Result {
    Err(Error::new(errno, cause.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::Memory;
    use crate::disk::{BlockSizes, Cache, ExtentKind, Flags, Fua, Op, OpKind};

    const SIZE: u64 = 8192;

    fn errno(disk: &dyn Disk, op: Op<'_>, at: u64, flags: Flags) -> Option<Errno> {
        disk.serve(Request::new(op, at).with_flags(flags))
            .err()
            .map(|error| error.errno)
    }

    fn plain(disk: &dyn Disk, op: Op<'_>, at: u64) -> Option<Errno> {
        errno(disk, op, at, Flags::empty())
    }

    /// Everything that reaches it succeeds, so that each refusal below is the checker's own.
    #[derive(Debug)]
    struct Yes(Limits, u64);

    impl Disk for Yes {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: Request<'_>) -> Result {
            Ok(())
        }
        fn extents(&self, _: Range<u64>, found: &mut Extents) -> Result {
            found.push(self.1, ExtentKind::DATA);
            Ok(())
        }
    }

    fn full() -> Limits {
        Memory::new(SIZE).limits().clone()
    }

    fn check(change: impl FnOnce(&mut Limits)) -> Check<Yes> {
        let mut limits = full();
        change(&mut limits);
        Check::new(Yes(limits, 512))
    }

    #[test]
    fn past_the_end_is_einval_for_reads_and_enospc_for_changes() {
        let disk = check(|_| ());
        let mut buf = [0; 512];
        for at in [SIZE - 511, SIZE, u64::MAX - 511, u64::MAX] {
            assert_eq!(plain(&disk, Op::Read(&mut buf), at), Some(Errno::INVAL));
            assert_eq!(plain(&disk, Op::Cache(512), at), Some(Errno::INVAL));
            assert_eq!(plain(&disk, Op::Write(&buf), at), Some(Errno::NOSPC));
            assert_eq!(plain(&disk, Op::Zero(512), at), Some(Errno::NOSPC));
            assert_eq!(plain(&disk, Op::Trim(512), at), Some(Errno::NOSPC));
        }
        assert_eq!(plain(&disk, Op::Zero(u64::MAX), 1), Some(Errno::NOSPC));
        assert_eq!(plain(&disk, Op::Read(&mut buf), SIZE - 512), None);
        assert_eq!(plain(&disk, Op::Trim(SIZE), 0), None);
    }

    #[test]
    fn requests_for_nothing_and_flushes_of_something_are_einval() {
        let disk = check(|_| ());
        assert_eq!(plain(&disk, Op::Read(&mut []), 0), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Write(&[]), 0), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Zero(0), 0), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Flush, 512), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Flush, 0), None);
    }

    #[test]
    fn changes_to_a_read_only_disk_are_erofs() {
        let disk = check(|limits| limits.read_only = true);
        assert_eq!(plain(&disk, Op::Write(&[1]), 0), Some(Errno::ROFS));
        assert_eq!(plain(&disk, Op::Zero(1), SIZE), Some(Errno::ROFS));
        assert_eq!(plain(&disk, Op::Trim(1), 0), Some(Errno::ROFS));
        assert_eq!(plain(&disk, Op::Read(&mut [0]), 0), None);
        assert_eq!(plain(&disk, Op::Flush, 0), None);
    }

    #[test]
    fn what_the_limits_do_not_offer_is_refused() {
        let disk = check(|limits| {
            limits.flush = false;
            limits.fua = Fua::None;
            limits.trim = false;
            limits.cache = Cache::None;
            limits.fast_zero = false;
        });
        let one: &[u8] = &[1];
        assert_eq!(plain(&disk, Op::Flush, 0), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Trim(1), 0), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Cache(1), 0), Some(Errno::INVAL));
        let fua = errno(&disk, Op::Write(one), 0, Flags::FUA);
        assert_eq!(fua, Some(Errno::INVAL));
        let fast = errno(&disk, Op::Zero(1), 0, Flags::FAST_ZERO);
        assert_eq!(fast, Some(Errno::NOTSUP));
        let disk = check(|limits| limits.zero = false);
        assert_eq!(plain(&disk, Op::Zero(1), 0), Some(Errno::INVAL));
    }

    #[test]
    fn flags_stay_with_the_operations_they_belong_to() {
        let disk = check(|_| ());
        let mut buf = [0];
        for (allowed, op) in [
            (Flags::empty(), Op::Read(&mut buf)),
            (Flags::FUA, Op::Write(&[1])),
            (Flags::all(), Op::Zero(1)),
            (Flags::FUA, Op::Trim(1)),
            (Flags::empty(), Op::Cache(1)),
            (Flags::empty(), Op::Flush),
        ] {
            let kind = op.kind();
            for bit in (0..32).map(|shift| Flags::from_bits_retain(1 << shift)) {
                let request = Request {
                    op: match kind {
                        OpKind::Read => Op::Read(&mut [0]),
                        OpKind::Write => Op::Write(&[1]),
                        OpKind::Zero => Op::Zero(1),
                        OpKind::Trim => Op::Trim(1),
                        OpKind::Cache => Op::Cache(1),
                        OpKind::Flush => Op::Flush,
                    },
                    at: 0,
                    flags: bit,
                    owner: None,
                    cancel: None,
                };
                let expected = (!allowed.contains(bit)).then_some(Errno::INVAL);
                let errno = disk.serve(request).err().map(|error| error.errno);
                assert_eq!(errno, expected, "{kind:?} {bit:?}");
            }
        }
    }

    #[test]
    fn block_sizes_hold_only_where_they_are_strict() {
        let block = BlockSizes {
            minimum: 512,
            preferred: 512,
            maximum: 1024,
        };
        let disk = check(|limits| limits.block = block);
        assert_eq!(plain(&disk, Op::Write(&[0; 1025]), 1), None);
        let disk = check(|limits| {
            limits.block = block;
            limits.strict_blocks = true;
        });
        assert_eq!(plain(&disk, Op::Write(&[0; 512]), 1), Some(Errno::INVAL));
        assert_eq!(plain(&disk, Op::Trim(511), 0), Some(Errno::INVAL));
        assert_eq!(
            plain(&disk, Op::Read(&mut [0; 1536]), 0),
            Some(Errno::INVAL)
        );
        assert_eq!(plain(&disk, Op::Write(&[0; 1024]), 512), None);
        assert_eq!(plain(&disk, Op::Zero(4096), 512), None, "only for memory");
    }

    #[test]
    fn extents_that_make_no_sense_are_eio() {
        let ask = |len, range: Range<u64>, start| {
            let mut found = Extents::starting_at(start);
            Check::new(Yes(full(), len))
                .extents(range, &mut found)
                .err()
                .map(|error| error.errno)
        };
        assert_eq!(ask(512, 0..1024, 0), None, "part of the range");
        assert_eq!(ask(SIZE, 0..1024, 0), None, "more than the range");
        assert_eq!(ask(0, 0..1024, 0), Some(Errno::IO));
        assert_eq!(ask(SIZE + 1, 0..1024, 0), Some(Errno::IO));
        assert_eq!(ask(u64::MAX, 512..1024, 512), Some(Errno::IO));
        assert_eq!(ask(512, 0..SIZE + 1, 0), Some(Errno::INVAL));
        assert_eq!(ask(512, 512..512, 512), Some(Errno::INVAL));
        assert_eq!(ask(512, 512..1024, 0), Some(Errno::INVAL));
    }
}
