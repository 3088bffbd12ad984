//! The errno of a failed request as the kernel gets it. To the kernel, and to programs above it, some
//! numbers say something else than that a request failed: they are answered as `EIO`, with which
//! everybody knows what to do. Called by the front ends that the kernel asks; NBD has its own table.

use crate::disk::{Errno, OpKind};

/// What to answer to the kernel for a request that failed with `errno`.
///
/// * `EINTR`: dd, cp, Python and QEMU ask again at once, for ever.
/// * `EAGAIN`: io_uring and the loop driver ask again; event loops wait for a readiness that no disk
///   announces.
/// * `EREMCHG`: the block layer's own number for "ask again", which device mapper does
///   (`BLK_STS_DM_REQUEUE` in block/blk-core.c).
/// * `ENOSYS`: a FUSE server that says so is never asked again, and fsync(2) succeeds from then on
///   (fuse_fsync in fs/fuse/file.c).
/// * `EOPNOTSUPP` and `EINVAL` of a flush: `blkdev_fsync` answers success for the former (block/fops.c),
///   programs take either for "there is nothing to flush here".
pub(super) fn for_kernel(kind: OpKind, errno: Errno) -> Errno {
    match errno {
        Errno::INTR | Errno::AGAIN | Errno::REMCHG | Errno::NOSYS => Errno::IO,
        Errno::OPNOTSUPP | Errno::INVAL if kind == OpKind::Flush => Errno::IO,
        errno => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_mean_ask_again_are_eio() {
        for number in [4, 11, 38, 78] {
            let errno = Errno::from_raw_os_error(number);
            assert_eq!(for_kernel(OpKind::Read, errno), Errno::IO, "{errno}");
        }
    }

    #[test]
    fn a_flush_that_failed_is_no_missing_flush() {
        for errno in [Errno::OPNOTSUPP, Errno::INVAL] {
            assert_eq!(for_kernel(OpKind::Flush, errno), Errno::IO);
            assert_eq!(for_kernel(OpKind::Zero, errno), errno);
        }
    }

    #[test]
    fn what_says_that_it_failed_is_said() {
        for errno in [
            Errno::NOSPC,
            Errno::ROFS,
            Errno::BUSY,
            Errno::NOMEM,
            Errno::NODEV,
        ] {
            assert_eq!(for_kernel(OpKind::Write, errno), errno);
        }
    }
}
