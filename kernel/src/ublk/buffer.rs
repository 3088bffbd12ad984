//! The memory of one tag: what the driver copies written data to and read data from.
//!
//! The address goes to the driver with each commit. It takes the new address first and copies the
//! data of a finished read from *there* (`ublk_fill_io_cmd` runs before `ublk_commit_completion` in
//! drivers/block/ublk_drv.c), and the next request of the tag uses the same address. So memory that
//! somebody kept is replaced before the commit, and the data of a read moves along.

use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::handler::Owner;

/// The memory of one tag and who owns it.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Holds a [`Block`]. While it is unique the memory is ours alone.
    owner: Owner,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer leads into the block that `owner` keeps, which is plain memory of the process.
unsafe impl Send for Slot {}

impl Slot {
    /// Page-aligned memory that reads as zeroes and takes space as it is used.
    pub(crate) fn new(len: usize) -> Result<Self, Errno> {
        let block = Block::map(len)?;
        Ok(Self {
            start: block.start,
            len,
            owner: Arc::new(block),
        })
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What the driver is told.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// The first `len` bytes and their owner, to lend to whoever serves the request.
    pub(crate) fn split(&mut self, len: usize) -> (&mut [u8], &Owner) {
        assert!(len <= self.len, "a request fits its buffer");
        // SAFETY: the memory is mapped as long as `owner` lives, has `len` bytes, is initialised by
        // the kernel, and nobody else has a reference: `renew` saw to that after the last request,
        // and the driver writes to it only between a commit and the completion that follows.
        let memory = unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), len) };
        (memory, &self.owner)
    }

    /// Take fresh memory if a clone of the owner was kept, with the first `carry` bytes of the old.
    pub(crate) fn renew(&mut self, carry: usize) -> Result<(), Errno> {
        if Arc::get_mut(&mut self.owner).is_some() {
            return Ok(());
        }
        let fresh = Self::new(self.len)?;
        // SAFETY: both blocks are mapped, have at least `carry` bytes and are distinct. Whoever kept
        // the old one may write to it now; it races with this copy as it would with the kernel's.
        unsafe {
            self.start
                .copy_to_nonoverlapping(fresh.start, carry.min(self.len));
        }
        *self = fresh;
        Ok(())
    }
}

/// Anonymous memory of a number of pages.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a block is only an address range and its owner's duty to unmap it.
unsafe impl Send for Block {}
// SAFETY: as above; it gives no access by itself.
unsafe impl Sync for Block {}

impl Block {
    fn map(len: usize) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let start = NonNull::new(start.cast()).expect("a mapping is never at address 0");
        Ok(Self { start, len })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; the last owner is gone, so nobody uses it.
        if let Err(errno) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            log::error!("ublk: unmapping a buffer: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_memory_is_replaced_and_the_read_data_moves_along() {
        let mut slot = Slot::new(8192).unwrap();
        let before = slot.address();
        slot.split(8192).0.fill(7);
        let kept = Arc::clone(slot.split(0).1);
        slot.renew(4096).unwrap();
        assert_ne!(slot.address(), before);
        let (memory, _) = slot.split(8192);
        assert!(memory[..4096].iter().all(|&byte| byte == 7));
        assert!(memory[4096..].iter().all(|&byte| byte == 0));
        memory.fill(9);
        // SAFETY: `kept` keeps these bytes mapped, and the slot has left them.
        let old = unsafe { slice::from_raw_parts(before as *const u8, 8192) };
        assert!(old.iter().all(|&byte| byte == 7));
        drop(kept);
    }

    #[test]
    fn memory_that_nobody_kept_is_used_again() {
        let mut slot = Slot::new(4096).unwrap();
        let before = slot.address();
        drop(Arc::clone(slot.split(1).1));
        slot.renew(0).unwrap();
        assert_eq!(slot.address(), before);
    }
}
