//! Answers to the kernel, in the layouts of fuse.h.

use std::time::{Duration, SystemTime};

use rustix::io::Errno;

/// `struct fuse_out_header`.
const HEADER: usize = 16;

/// `struct fuse_attr_out`, the longest of them.
const LONGEST: usize = 104;

/// `struct fuse_out_header` with what follows it, but for the data of a read.
#[derive(Clone, Debug)]
pub struct Reply {
    words: [u8; HEADER + LONGEST],
    /// 0 where the call is not to be answered.
    len: usize,
}

/// `struct fuse_attr` of the one inode.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Bytes.
    pub size: u64,
    /// Permissions; it is a regular file.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub accessed: SystemTime,
    /// Last change of the content.
    pub modified: SystemTime,
    /// Last change of anything.
    pub changed: SystemTime,
    /// What is good to read and write at once.
    pub block: u32,
}

/// `struct fuse_kstatfs` of a filesystem that is full.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    /// All blocks.
    pub blocks: u64,
    /// Bytes of each.
    pub block: u32,
}

impl Reply {
    const fn new(len: usize) -> Self {
        Self {
            words: [0; HEADER + LONGEST],
            len: HEADER + len,
        }
    }

    /// It is done.
    #[must_use]
    pub const fn done() -> Self {
        Self::new(0)
    }

    /// No answer at all.
    #[must_use]
    pub const fn silence() -> Self {
        let mut reply = Self::new(0);
        reply.len = 0;
        reply
    }

    /// It failed.
    #[must_use]
    pub fn failed(errno: Errno) -> Self {
        let mut reply = Self::new(0);
        reply.put(4, &(-errno.raw_os_error()).to_ne_bytes());
        reply
    }

    /// So many bytes were written.
    #[must_use]
    pub fn written(len: u32) -> Self {
        let mut reply = Self::new(8);
        reply.put(HEADER, &len.to_ne_bytes());
        reply
    }

    /// What was looked for is at `at`.
    #[must_use]
    pub fn offset(at: u64) -> Self {
        let mut reply = Self::new(8);
        reply.put(HEADER, &at.to_ne_bytes());
        reply
    }

    /// The file is open: past the page cache, and with several writers at a time.
    #[must_use]
    pub fn opened_direct() -> Self {
        const DIRECT_IO: u32 = 1;
        const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
        let mut reply = Self::new(16);
        let flags = DIRECT_IO | PARALLEL_DIRECT_WRITES;
        reply.put(HEADER + 8, &flags.to_ne_bytes());
        reply
    }

    /// What the file looks like, to be believed for so long.
    #[must_use]
    pub fn attributes(of: &Attributes, fresh: Duration) -> Self {
        const ATTR: usize = HEADER + 16;
        const REGULAR: u32 = 0o100_000;
        let mut reply = Self::new(LONGEST);
        reply.put(HEADER, &fresh.as_secs().to_ne_bytes());
        reply.put(HEADER + 8, &fresh.subsec_nanos().to_ne_bytes());
        let longs = [1, of.size, of.size.div_ceil(512)];
        for (index, long) in longs.into_iter().enumerate() {
            reply.put(ATTR + 8 * index, &long.to_ne_bytes());
        }
        let times = [of.accessed, of.modified, of.changed];
        for (index, time) in times.into_iter().enumerate() {
            let (seconds, nanoseconds) = since_1970(time);
            reply.put(ATTR + 24 + 8 * index, &seconds.to_ne_bytes());
            reply.put(ATTR + 48 + 4 * index, &nanoseconds.to_ne_bytes());
        }
        let mode = u32::from(of.mode) | REGULAR;
        let (links, device) = (1_u32, 0_u32);
        let words = [mode, links, of.uid, of.gid, device, of.block];
        for (index, word) in words.into_iter().enumerate() {
            reply.put(ATTR + 60 + 4 * index, &word.to_ne_bytes());
        }
        reply
    }

    /// What statfs(2) shows.
    #[must_use]
    pub fn statistics(of: &Statistics) -> Self {
        let mut reply = Self::new(80);
        reply.put(HEADER, &of.blocks.to_ne_bytes());
        reply.put(HEADER + 24, &1_u64.to_ne_bytes());
        let longest_name = 255_u32;
        for (index, word) in [of.block, longest_name, of.block].into_iter().enumerate() {
            reply.put(HEADER + 40 + 4 * index, &word.to_ne_bytes());
        }
        reply
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.words[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// As the kernel takes it for the call `unique`, with so much data to follow; nothing for
    /// [`Reply::silence`].
    pub(super) fn words(&self, unique: u64, data: usize) -> Option<Words> {
        if self.len == 0 {
            return None;
        }
        let mut words = self.words;
        let len = u32::try_from(self.len + data).expect("a reply has some MiB at most");
        words[..4].copy_from_slice(&len.to_ne_bytes());
        words[8..HEADER].copy_from_slice(&unique.to_ne_bytes());
        Some(Words {
            words,
            len: self.len,
        })
    }
}

/// A reply that knows what it answers.
pub(super) struct Words {
    words: [u8; HEADER + LONGEST],
    len: usize,
}

impl std::ops::Deref for Words {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.words[..self.len]
    }
}

/// Seconds, negative before 1970, and nanoseconds that count forward.
fn since_1970(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (after.as_secs().cast_signed(), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let whole = 0_i64.saturating_sub_unsigned(before.as_secs());
            match before.subsec_nanos() {
                0 => (whole, 0),
                part => (whole.saturating_sub(1), 1_000_000_000 - part),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_its_length_and_its_call() {
        let words = Reply::failed(Errno::NOSPC).words(7, 0).unwrap();
        assert_eq!(words.len(), HEADER);
        assert_eq!(words[..4], 16_u32.to_ne_bytes());
        assert_eq!(words[4..8], (-28_i32).to_ne_bytes());
        assert_eq!(words[8..], 7_u64.to_ne_bytes());
        let words = Reply::done().words(7, 4096).unwrap();
        assert_eq!(words[..4], 4112_u32.to_ne_bytes());
        assert!(Reply::silence().words(7, 0).is_none());
    }

    #[test]
    fn times_before_1970_count_forward() {
        let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(since_1970(time), (-2, 500_000_000));
    }
}
