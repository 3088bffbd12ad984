//! What waits to be run on the event loop.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::ticket::Ticket;
use super::{Calling, dead};

/// One callback: whom to tell, for whom it runs, what to await.
pub(super) type Work = (Py<Ticket>, Py<Calling>, Py<PyAny>);

/// What the loop's thread and the others have in common.
pub(super) struct Shared {
    /// Held while looked at, so that it may be waited for inside Python.
    waiting: Mutex<Vec<Work>>,
    /// Readable when there is something that the loop does not know of.
    wake: OwnedFd,
    ending: AtomicBool,
    dead: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ending: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        })
    }

    /// Have the loop run something.
    pub(super) fn push(&self, work: Work) -> PyResult<()> {
        let mut waiting = self.waiting.lock();
        if self.dead.load(Ordering::Acquire) {
            return Err(dead());
        }
        let first = waiting.is_empty();
        waiting.push(work);
        drop(waiting);
        if first {
            // Whoever finds something there already knows that the loop was woken for it.
            self.wake_up();
        }
        Ok(())
    }

    /// From here on the loop is to end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.wake_up();
    }

    fn wake_up(&self) {
        // It fails only where it is readable anyway: after 2^64 - 1 wake-ups.
        if let Err(error) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            log::debug!("event loop: {error}");
        }
    }

    /// Whether nothing will be run any more.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Nothing is run any more. What still waits is forgotten, which tells those who wait for it.
    pub(super) fn dies(&self) {
        let mut waiting = self.waiting.lock();
        self.dead.store(true, Ordering::Release);
        let forgotten = std::mem::take(&mut *waiting);
        drop(waiting);
        drop(forgotten);
    }
}

/// The inbox as `loop.py` has it.
#[pyclass(frozen, module = "nbdkit")]
pub(super) struct Inbox(Arc<Shared>);

impl Inbox {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

#[pymethods]
impl Inbox {
    fn fileno(&self) -> RawFd {
        self.0.wake.as_raw_fd()
    }

    /// All that waits.
    fn take(&self) -> Vec<Work> {
        // Before the list is taken: what comes after that wakes the loop anew.
        let _woken = rustix::io::read(&self.0.wake, &mut [0; 8]);
        std::mem::take(&mut *self.0.waiting.lock())
    }

    fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Acquire)
    }

    #[expect(
        clippy::unused_self,
        reason = "a method, so that the loop needs to know one object only"
    )]
    fn complain(&self, what: &str) {
        log::warn!("{what}");
    }
}
