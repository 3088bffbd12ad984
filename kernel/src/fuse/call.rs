//! The kernel's calls, by their numbers and layouts in fuse.h.

use std::time::{Duration, SystemTime};

use super::HEADER;

/// What the kernel wants of a filesystem that is one file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Call {
    /// A name in the one inode, which is no folder.
    Lookup,
    /// stat(2).
    GetAttributes,
    /// chmod(2), chown(2), utimes(2), truncate(2).
    SetAttributes(Changes),
    /// open(2) with these flags.
    Open {
        /// `O_RDONLY` and its kind.
        flags: i32,
    },
    /// Up to `len` bytes from `at`.
    Read {
        /// First byte.
        at: u64,
        /// Bytes.
        len: usize,
    },
    /// The first `len` bytes of the body belong at `at`.
    Write {
        /// First byte.
        at: u64,
        /// Bytes.
        len: usize,
        /// They come from the page cache, an fsync follows.
        cached: bool,
        /// Of the file that was opened: `O_DSYNC` and its kind.
        flags: i32,
    },
    /// statfs(2).
    Statistics,
    /// Somebody closes the file and waits for the answer, beyond the reach of SIGKILL. Others may have it open.
    Flush,
    /// The file was closed for good.
    Release,
    /// fsync(2), fdatasync(2).
    Sync,
    /// fallocate(2).
    Allocate {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// `FALLOC_FL_PUNCH_HOLE` and its kind.
        mode: u32,
    },
    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    Seek {
        /// Where to begin.
        at: u64,
        /// `SEEK_DATA` and its kind.
        whence: u32,
    },
    /// Not to be answered.
    Forget,
    /// The last call.
    Destroy,
    /// Anything else, which a file can do without.
    Other,
    /// A call that ends before its arguments do. No kernel makes one.
    Short,
}

/// What a call of setattr changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Changes {
    /// Permissions and kind.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, in bytes.
    pub size: Option<u64>,
    /// By a file that is open, rather than by name.
    pub by_handle: bool,
    /// Last access.
    pub accessed: Option<TimeChange>,
    /// Last change of the content.
    pub modified: Option<TimeChange>,
}

/// What a time becomes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeChange {
    /// The present.
    Now,
    /// This.
    At(SystemTime),
}

impl TimeChange {
    /// The time that is meant.
    #[must_use]
    pub fn time(self) -> SystemTime {
        match self {
            Self::Now => SystemTime::now(),
            Self::At(time) => time,
        }
    }
}

/// `FUSE_WRITE_CACHE` of `write_flags`.
const WRITE_CACHE: u32 = 1;

/// Bytes of this call's arguments up to the last that [`parse`] looks at.
pub(super) fn arguments(head: &[u8; super::HEAD]) -> usize {
    match number(head, 4) {
        4 => CHANGES,
        14 => 4,
        15 | 16 => 40,
        43 => 28,
        46 => 20,
        _ => 0,
    }
}

/// The call whose header and first arguments are in `head`, and the rest in `body`.
pub(super) fn parse(head: &[u8; super::HEAD], body: &[u8]) -> Call {
    let argument = |at| number(head, HEADER + at);
    let long_argument = |at| long_number(head, HEADER + at);
    match number(head, 4) {
        1 => Call::Lookup,
        2 | 42 => Call::Forget,
        3 => Call::GetAttributes,
        4 => Call::SetAttributes(changes(head, body)),
        14 => Call::Open {
            flags: argument(0).cast_signed(),
        },
        15 => Call::Read {
            at: long_argument(8),
            len: argument(16) as usize,
        },
        16 => Call::Write {
            at: long_argument(8),
            len: (argument(16) as usize).min(body.len()),
            cached: argument(20) & WRITE_CACHE != 0,
            flags: argument(32).cast_signed(),
        },
        17 => Call::Statistics,
        18 => Call::Release,
        20 => Call::Sync,
        25 => Call::Flush,
        38 => Call::Destroy,
        43 => Call::Allocate {
            at: long_argument(8),
            len: long_argument(16),
            mode: argument(24),
        },
        46 => Call::Seek {
            at: long_argument(8),
            whence: argument(16),
        },
        _ => Call::Other,
    }
}

/// `struct fuse_setattr_in`, which is longer than a head.
const CHANGES: usize = 88;

fn changes(head: &[u8; super::HEAD], body: &[u8]) -> Changes {
    let mut words = [0; CHANGES];
    let (first, rest) = words.split_at_mut(super::HEAD - HEADER);
    first.copy_from_slice(&head[HEADER..]);
    let len = rest.len().min(body.len());
    rest[..len].copy_from_slice(&body[..len]);

    let valid = number(&words, 0);
    let has = |bit: u32| valid & bit != 0;
    let time = |set: u32, now: u32, seconds: usize, nanoseconds: usize| {
        has(set).then(|| {
            if has(now) {
                return TimeChange::Now;
            }
            let nanoseconds = u64::from(number(&words, nanoseconds));
            TimeChange::At(moment(long_number(&words, seconds), nanoseconds))
        })
    };
    Changes {
        mode: has(1).then(|| number(&words, 68)),
        uid: has(1 << 1).then(|| number(&words, 76)),
        gid: has(1 << 2).then(|| number(&words, 80)),
        size: has(1 << 3).then(|| long_number(&words, 16)),
        by_handle: has(1 << 6),
        accessed: time(1 << 4, 1 << 7, 32, 56),
        modified: time(1 << 5, 1 << 8, 40, 60),
    }
}

/// Seconds before 1970 are negative, and nanoseconds always count forward.
fn moment(seconds: u64, nanoseconds: u64) -> SystemTime {
    let seconds = seconds.cast_signed();
    let span = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(span)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(span)
    };
    whole
        .and_then(|time| time.checked_add(Duration::from_nanos(nanoseconds)))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The `u32` at `at`.
pub(super) fn number(words: &[u8], at: usize) -> u32 {
    let bytes = words[at..].first_chunk();
    u32::from_ne_bytes(*bytes.expect("offsets are constants below the length"))
}

/// The `u64` at `at`.
pub(super) fn long_number(words: &[u8], at: usize) -> u64 {
    let bytes = words[at..].first_chunk();
    u64::from_ne_bytes(*bytes.expect("offsets are constants below the length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(opcode: u32, arguments: &[u8]) -> [u8; super::super::HEAD] {
        let mut head = [0; super::super::HEAD];
        head[4..8].copy_from_slice(&opcode.to_ne_bytes());
        head[HEADER..HEADER + arguments.len()].copy_from_slice(arguments);
        head
    }

    #[test]
    fn a_write_longer_than_its_body_is_cut() {
        let mut arguments = [0; 40];
        arguments[8..16].copy_from_slice(&4096_u64.to_ne_bytes());
        arguments[16..20].copy_from_slice(&100_u32.to_ne_bytes());
        let call = parse(&head(16, &arguments), &[0; 60]);
        let expected = Call::Write {
            at: 4096,
            len: 60,
            cached: false,
            flags: 0,
        };
        assert_eq!(call, expected);
    }

    #[test]
    fn times_before_1970_are_times() {
        let hour_before = SystemTime::UNIX_EPOCH - Duration::from_secs(3600);
        assert_eq!(moment((-3600_i64).cast_unsigned(), 0), hour_before);
        let later = hour_before + Duration::from_nanos(5);
        assert_eq!(moment((-3600_i64).cast_unsigned(), 5), later);
        let past_all = moment(u64::MAX >> 1, u64::from(u32::MAX));
        assert_eq!(past_all, SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn what_is_not_known_is_other() {
        assert_eq!(parse(&head(4711, &[]), &[]), Call::Other);
    }
}
