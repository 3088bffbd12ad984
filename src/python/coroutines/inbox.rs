//! What waits to be run on the event loop.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::Calling;
use super::ticket::Ticket;

/// One callback: whom to tell, for whom it runs, what to await.
pub(super) type Task = (Py<Ticket>, Py<Calling>, Py<PyAny>);

/// What the loop is to run.
pub(super) enum Work {
    /// A callback that was called.
    Task(Task),
    /// A request whose callback is still to be called.
    Request(Ticket),
}

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

    /// Have the loop run something; whether it still does.
    #[must_use]
    pub(super) fn push(&self, work: Work) -> bool {
        let mut waiting = self.waiting.lock();
        if self.dead.load(Ordering::Acquire) {
            return false;
        }
        let first = waiting.is_empty();
        waiting.push(work);
        drop(waiting);
        if first {
            // Whoever finds something there already knows that the loop was woken for it.
            self.wake_up();
        }
        true
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

    /// All that waits, begun.
    fn take(&self, py: Python<'_>) -> Vec<Task> {
        // Before the list is taken: what comes after that wakes the loop anew.
        let _woken = rustix::io::read(&self.0.wake, &mut [0; 8]);
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        let tasks = waiting.into_iter().filter_map(|work| match work {
            Work::Task(task) => Some(task),
            Work::Request(ticket) => ticket.begin(py),
        });
        tasks.collect()
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
