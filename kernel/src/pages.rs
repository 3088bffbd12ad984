//! Page-aligned memory that can be lent to a request and kept alive by whoever was lent it.
//!
//! A front end has one [`Slot`] a thread and lends it to one request after another. Holders of the
//! owner keep the memory alive, never the slot: a slot whose memory is still held when the next
//! request comes takes fresh memory, so nobody sees another request's bytes.

use std::any::Any;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What keeps lent memory alive.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// The smallest mapping a slot makes; larger ones double, so that few are made.
const SMALLEST: usize = 128 * 1024;

/// Memory for one request at a time.
#[derive(Debug, Default)]
pub struct Slot {
    owner: Option<Owner>,
    /// Bytes that were lent last.
    lent: usize,
}

impl Slot {
    /// A slot that takes memory when it is first lent.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            owner: None,
            lent: 0,
        }
    }

    /// Lend `len` bytes with their owner. They hold what was last put there if nobody kept the memory
    /// since; what they hold otherwise is not defined, but it never is what an earlier holder still
    /// looks at.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn lend(&mut self, len: usize) -> rustix::io::Result<(&mut [u8], &Owner)> {
        let fits = self.owner.as_mut().is_some_and(|owner| {
            Arc::get_mut(owner)
                .and_then(|pages| pages.downcast_ref::<Pages>())
                .is_some_and(|pages| pages.len >= len)
        });
        if !fits {
            self.lent = 0;
            self.owner = Some(Arc::new(Pages::map(len.next_power_of_two().max(SMALLEST))?));
        }
        self.lent = len;
        let owner = self
            .owner
            .as_ref()
            .expect("it was put there above, unless it was there");
        let pages = owner
            .downcast_ref::<Pages>()
            .expect("a slot owns nothing but pages");
        // SAFETY: the mapping is `pages.len >= len` bytes, lives as long as `owner` and is readable
        // and writable. Nobody else was its holder when it was taken (`get_mut` above, or it is
        // new), `Pages` gives no access to its bytes, and the `&mut self` that the slice borrows
        // keeps this slot from lending it a second time.
        let bytes = unsafe { std::slice::from_raw_parts_mut(pages.start.as_ptr().cast(), len) };
        Ok((bytes, owner))
    }

    /// What was lent last, as whoever had it left it: for sending what a request was answered with.
    #[must_use]
    pub fn lent(&self) -> &[u8] {
        let Some(owner) = &self.owner else {
            return &[];
        };
        let pages = owner
            .downcast_ref::<Pages>()
            .expect("a slot owns nothing but pages");
        // SAFETY: `lent` bytes of this mapping were lent by `lend`, which proved that they are there;
        // the slice that it gave is gone, because it borrowed this slot exclusively, and the mapping
        // lives as long as `owner`.
        unsafe { std::slice::from_raw_parts(pages.start.as_ptr().cast(), self.lent) }
    }

    /// Bytes of memory that it holds, lent or not.
    #[must_use]
    pub fn size(&self) -> usize {
        let pages = self.owner.as_ref();
        pages
            .and_then(|owner| owner.downcast_ref::<Pages>())
            .map_or(0, |pages| pages.len)
    }

    /// The owner of what was lent last.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }
}

/// An anonymous mapping. It gives no access to its bytes; only a slot does.
#[derive(Debug)]
struct Pages {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Pages {}
// SAFETY: a shared `Pages` can do nothing but be dropped.
unsafe impl Sync for Pages {}

impl Pages {
    fn map(len: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let start = NonNull::new(start).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, len })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone and with it every slice, which `lend` promises.
        if let Err(error) = unsafe { munmap(self.start.as_ptr(), self.len) } {
            log::error!("{} bytes of memory were not given back: {error}", self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_memory_is_never_lent_again() {
        let mut slot = Slot::new();
        let (bytes, owner) = slot.lend(4096).unwrap();
        bytes.fill(1);
        let first = bytes.as_ptr() as usize;
        let kept = Arc::clone(owner);
        let (bytes, _) = slot.lend(4096).unwrap();
        assert_ne!(bytes.as_ptr() as usize, first);
        drop(kept);
    }

    #[test]
    fn what_was_lent_last_can_be_read_again_although_it_was_kept() {
        let mut slot = Slot::new();
        assert_eq!(slot.lent(), []);
        slot.lend(4096).unwrap().0.fill(1);
        let (bytes, owner) = slot.lend(8).unwrap();
        bytes.fill(2);
        let kept = Arc::clone(owner);
        assert_eq!(slot.lent(), [2; 8]);
        drop(kept);
    }

    #[test]
    fn memory_is_used_again_and_grows() {
        let mut slot = Slot::new();
        let first = slot.lend(1).unwrap().0.as_ptr() as usize;
        assert_eq!(first % 4096, 0);
        assert_eq!(slot.lend(SMALLEST).unwrap().0.as_ptr() as usize, first);
        let (bytes, _) = slot.lend(3 * SMALLEST).unwrap();
        bytes.fill(7);
        assert_eq!(bytes.len(), 3 * SMALLEST);
    }
}
