//! The inbox as `loop.py` has it.

use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::prelude::*;

use super::Calling;
use super::promise::Promise;
use super::queue::Queue;
use super::ticket::{self, Ticket};

/// One callback: whom to tell, for whom it runs, what to await.
pub(super) type Task = (Py<Ticket>, Py<Calling>, Py<PyAny>);

/// What the loop is to run.
pub(super) enum Work {
    /// A callback that was called.
    Task(Task),
    /// A request whose callback is still to be called.
    Request(Promise),
}

/// The loop's side of the queue.
#[pyclass(frozen, module = "nbdkit")]
pub(super) struct Inbox(Arc<Queue>);

impl Inbox {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }
}

#[pymethods]
impl Inbox {
    fn fileno(&self) -> RawFd {
        self.0.wake().fd()
    }

    /// All that waits, begun.
    fn take(&self, py: Python<'_>) -> Vec<Task> {
        let tasks = self.0.take().into_iter().filter_map(|work| match work {
            Work::Task(task) => Some(task),
            Work::Request(promise) => ticket::begin(promise, py),
        });
        tasks.collect()
    }

    fn is_ending(&self) -> bool {
        self.0.is_ending()
    }

    #[expect(
        clippy::unused_self,
        reason = "a method, so that the loop needs to know one object only"
    )]
    fn complain(&self, what: &str) {
        log::warn!("{what}");
    }
}
