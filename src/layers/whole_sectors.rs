//! A disk without the bytes behind its last whole sector, or its last whole block where the user says how large
//! those are: block devices have no others.

use std::ops::Range;

use crate::Refusal;
use crate::disk::{Disk, Extents, Limits, Request, Result};

/// Bytes in a sector, the unit in which the kernel counts the size of every block device.
const SECTOR: u64 = 512;

/// A disk whose size is a multiple of 512, or of the blocks of its device.
#[derive(Debug)]
pub struct WholeSectors<D> {
    disk: D,
    limits: Limits,
}

impl<D: Disk> WholeSectors<D> {
    /// Round the size of `disk` down to whole blocks of `block` bytes, or to sectors, with a warning.
    ///
    /// # Errors
    /// One sentence, if nothing is left.
    pub fn new(disk: D, block: Option<u32>) -> std::result::Result<Self, Refusal> {
        let block = block.map_or(SECTOR, u64::from);
        let mut limits = disk.limits().clone();
        let size = limits.size - limits.size % block;
        if size == 0 {
            return Err(Refusal::new(format!(
                "the disk has a size of {} bytes; a block device needs at least {block}",
                limits.size
            )));
        }
        if size != limits.size {
            log::warn!(
                "the size of {} bytes is no multiple of {block}: the last {} cannot be reached",
                limits.size,
                limits.size - size
            );
        }
        limits.size = size;
        Ok(Self { disk, limits })
    }
}

impl<D: Disk> Disk for WholeSectors<D> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        self.disk.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        self.disk.extents(range, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Sized(Limits);

    impl Disk for Sized {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _request: Request<'_>) -> Result {
            Ok(())
        }
    }

    fn in_blocks(size: u64, block: Option<u32>) -> std::result::Result<u64, Refusal> {
        WholeSectors::new(Sized(Limits::read_only(size)), block).map(|disk| disk.limits().size)
    }

    fn rounded(size: u64) -> std::result::Result<u64, Refusal> {
        in_blocks(size, None)
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(rounded(512), Ok(512));
        assert_eq!(rounded(1023), Ok(512));
        assert_eq!(rounded(1_000_001), Ok(999_936));
        assert_eq!(rounded(i64::MAX as u64), Ok(i64::MAX as u64 - 511));
    }

    #[test]
    fn sizes_are_rounded_down_to_the_blocks_that_the_user_wants() {
        assert_eq!(in_blocks(9000, Some(512)), Ok(8704));
        assert_eq!(in_blocks(9000, Some(4096)), Ok(8192));
        let refusal = in_blocks(4095, Some(4096)).unwrap_err().to_string();
        assert!(refusal.contains("needs at least 4096"), "{refusal}");
    }

    #[test]
    fn a_disk_without_a_whole_sector_is_refused() {
        for size in [0, 1, 511] {
            let refusal = rounded(size).unwrap_err().to_string();
            assert!(
                refusal.contains(&format!("size of {size} bytes")),
                "{refusal}"
            );
        }
    }
}
