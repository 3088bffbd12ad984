//! What the partition table at the start of a disk says of the blocks that it was made for. Tables count in blocks,
//! so one that was made for blocks of 512 bytes is none on a device with blocks of 4096.
//!
//! UEFI specification 2.10, chapter 5: the header of a GPT is the second block of a disk. The older table ("MBR") is
//! in the first 512 bytes, whatever a block is.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::elsewhere::{Word, elsewhere, errno_there, open_there};

/// The sizes of blocks that are looked for.
const BLOCKS: [u32; 4] = [512, 1024, 2048, 4096];

/// Bytes up to the end of the last mark that is looked for.
const START: usize = 4096 + GPT.len();

const GPT: &[u8] = b"EFI PART";

/// Where the entries of the older table begin, how long each of them is, and how many there are.
const ENTRIES: (usize, usize, usize) = (446, 16, 4);

/// A partition table at the start of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// A bit for each of [`BLOCKS`] that there is a GPT for.
    gpt: u64,
    /// The block behind the last partition of an older table; 0 without one.
    end: u64,
}

impl Table {
    /// Look at the device at `path`, in another process: whose disk it is must not wait for it.
    ///
    /// # Errors
    /// As open(2) and pread(2); `ETIMEDOUT` when there was no answer `within` that time.
    pub fn of(path: &Path, within: Duration) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `look` makes system calls only.
        let [gpt, errno, end] = unsafe { elsewhere(within, || false, || look(&name)) }?;
        match i32::try_from(errno) {
            Ok(0) => Ok(Self { gpt, end }),
            Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::Error::other("no errno")),
        }
    }

    /// In the first bytes of a disk. Allocates nothing.
    fn in_bytes(start: &[u8]) -> Self {
        let gpt = BLOCKS.iter().rev().fold(0, |bits, &block| {
            let found = start
                .get(block as usize..)
                .is_some_and(|rest| rest.starts_with(GPT));
            (bits << 1) | u64::from(found)
        });
        Self {
            gpt,
            end: end_of_older(start).unwrap_or(0),
        }
    }

    /// The size of blocks that the table was made for, where it was surely not made for blocks of `block` bytes on a
    /// disk of `size` bytes.
    #[must_use]
    pub fn made_for(&self, block: u32, size: u64) -> Option<u32> {
        let has_gpt = |(index, _): &(usize, &u32)| (self.gpt >> index) & 1 == 1;
        let gpt: Vec<_> = BLOCKS.iter().enumerate().filter(has_gpt).collect();
        if let Some((_, first)) = gpt.first() {
            let fits = gpt.iter().any(|(_, found)| **found == block);
            return (!fits).then_some(**first);
        }
        let fits = |block: u32| self.end.saturating_mul(u64::from(block)) <= size;
        if fits(block) {
            return None;
        }
        // Blocks of 512 bytes are what nearly everybody means, and the last that may fit.
        fits(512).then_some(512)
    }
}

/// The block behind the last partition; none where there is no table, or what has its mark and is none, such as a
/// FAT file system (`is_pte_present` and the status are what block/partitions/msdos.c goes by, too).
fn end_of_older(start: &[u8]) -> Option<u64> {
    if start.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let (first, len, count) = ENTRIES;
    let mut end = 0;
    for entry in start.get(first..first + len * count)?.chunks_exact(len) {
        if entry[0] & 0x7f != 0 {
            return None;
        }
        let number = |at: usize| -> Option<u64> {
            let bytes = entry.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes).into())
        };
        let blocks = number(12)?;
        // The type of a partition that stands for a whole GPT disk.
        if entry[4] != 0 && entry[4] != 0xee && blocks != 0 {
            end = end.max(number(8)? + blocks);
        }
    }
    Some(end)
}

fn look(name: &CString) -> Word {
    let device = match open_there(name, libc::O_RDONLY) {
        Ok(device) => device,
        Err(errno) => return [0, errno, 0],
    };
    let mut start = [0_u8; START];
    // SAFETY: the buffer's own length.
    let read = unsafe { libc::pread64(device, start.as_mut_ptr().cast(), START, 0) };
    let Ok(read) = usize::try_from(read) else {
        return [0, errno_there(), 0];
    };
    let Table { gpt, end } = Table::in_bytes(start.get(..read).unwrap_or_default());
    [gpt, 0, end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn gpt(blocks: &[usize]) -> Vec<u8> {
        let mut start = mbr(&[(0, 0xee, 1, u32::MAX)]);
        for &block in blocks {
            start[block..block + GPT.len()].copy_from_slice(GPT);
        }
        start
    }

    fn mbr(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut start = vec![0; START];
        start[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (index, (status, kind, first, count)) in entries.iter().enumerate() {
            let entry = &mut start[446 + 16 * index..462 + 16 * index];
            (entry[0], entry[4]) = (*status, *kind);
            entry[8..12].copy_from_slice(&first.to_le_bytes());
            entry[12..].copy_from_slice(&count.to_le_bytes());
        }
        start
    }

    #[test]
    fn a_gpt_is_made_for_one_size_of_blocks() {
        for (found, block, made_for) in [
            (&[512][..], 512, None),
            (&[512], 4096, Some(512)),
            (&[4096], 4096, None),
            (&[4096], 512, Some(4096)),
            (&[2048], 512, Some(2048)),
            // An older one, perhaps, behind the one that counts.
            (&[512, 4096], 4096, None),
            (&[512, 4096], 512, None),
            (&[], 512, None),
            (&[], 4096, None),
        ] {
            let table = Table::in_bytes(&gpt(found));
            assert_eq!(table.made_for(block, SIZE), made_for, "{found:?} {block}");
        }
    }

    #[test]
    fn an_older_table_that_reaches_beyond_the_disk_was_made_for_smaller_blocks() {
        let blocks = u32::try_from(SIZE / 512).unwrap();
        for (entries, block, made_for) in [
            (&[(0x80, 0x83, 2048, blocks - 2048)][..], 512, None),
            (&[(0x80, 0x83, 2048, blocks - 2048)], 4096, Some(512)),
            (
                &[(0, 0x83, 63, 100), (0, 0x82, 200, 16384)],
                4096,
                Some(512),
            ),
            (&[(0, 0x83, 63, 100), (0, 0x82, 200, 16000)], 4096, None),
            // Made for a larger disk: it fits in no way.
            (&[(0, 0x83, 2048, blocks)], 4096, None),
            (&[(0, 0x83, 2048, blocks)], 512, None),
            // A file system with the mark of a table.
            (&[(0x6e, 0x6f, u32::MAX, u32::MAX)], 4096, None),
            (&[(0, 0, 2048, blocks - 2048)], 4096, None),
            (&[], 4096, None),
        ] {
            let table = Table::in_bytes(&mbr(entries));
            assert_eq!(table.made_for(block, SIZE), made_for, "{entries:?} {block}");
        }
    }

    #[test]
    fn what_is_no_table_says_nothing() {
        for start in [vec![], vec![0; 511], vec![0; 512], vec![0xff; START]] {
            let table = Table::in_bytes(&start);
            assert_eq!(table.made_for(4096, SIZE), None, "{} bytes", start.len());
        }
    }

    #[test]
    fn the_start_of_a_file_is_looked_at() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), gpt(&[512])).unwrap();
        let within = Duration::from_secs(60);
        let table = Table::of(file.path(), within).unwrap();
        assert_eq!(table.made_for(4096, SIZE), Some(512));
        let missing = Table::of(Path::new("/no/such/disk"), within).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
