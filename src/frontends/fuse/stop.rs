//! Tells the thread that serves a file to let go of the disk, though the filesystem may live on.
//!
//! A disk may have a thread of its own, which serves the file for as long as it is mounted and has to
//! close the disk after that. The end of the filesystem ends the serving too, but it need not come: a
//! file that cannot be unmounted, or that somebody has open where FUSE cannot be ended by force.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Set once, by whoever ends the file.
#[derive(Debug)]
pub(super) struct Stop {
    set: AtomicBool,
    /// Readable once it is set, for a thread that sleeps.
    wake: OwnedFd,
}

impl Stop {
    /// Not set yet.
    ///
    /// # Errors
    /// The system has no descriptor to give.
    pub(super) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            set: AtomicBool::new(false),
            wake: eventfd(0, flags)?,
        })
    }

    pub(super) fn set(&self) {
        self.set.store(true, Ordering::Release);
        // The counter would have to reach 2^64 for this to fail.
        if let Err(errno) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            log::error!("FUSE: eventfd: {errno}");
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
