//! What the event loop's selector watches.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

/// Readable from a [call](Self::up) until it is [taken](Self::taken).
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn up(&self) {
        // It fails only where it is readable anyway: after 2^64 - 1 calls.
        if let Err(error) = rustix::io::write(&self.0, &1_u64.to_ne_bytes()) {
            log::debug!("event loop: {error}");
        }
    }

    pub(super) fn taken(&self) {
        // It fails where there was no call, or somebody else has taken it.
        let _woken = rustix::io::read(&self.0, &mut [0; 8]);
    }
}
