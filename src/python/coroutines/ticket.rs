//! The promise that whoever waits for a callback is told how it ended, as `loop.py` has it.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use super::inbox::Task;
use super::promise::{Promise, Waiting};

/// Held by what runs the callback. Whoever waits is told, at the latest when this is dropped.
#[pyclass(frozen, module = "nbdkit")]
pub(super) struct Ticket(Promise);

impl Ticket {
    pub(super) fn new(promise: Promise) -> Self {
        Self(promise)
    }
}

/// Begin the request that `promise` is for; none if it has come to its end with that.
pub(super) fn begin(promise: Promise, py: Python<'_>) -> Option<Task> {
    let (promise, (calling, awaitable)) = promise.begin(py)?;
    let ticket = Py::new(py, Ticket(promise)).map_err(|error| log::error!("event loop: {error}"));
    Some((ticket.ok()?, calling, awaitable))
}

/// Whether the task has ended without having told so. A task that is cancelled before it began
/// does: it keeps the ticket with its exception.
pub(super) fn is_forgotten(waiting: &Waiting, py: Python<'_>) -> bool {
    let task = waiting.with_task(|task| task.clone_ref(py));
    // What a task factory of the plugin's made may be no task at all.
    task.is_some_and(|task| {
        let done = task.call_method0(py, "done");
        done.and_then(|done| done.is_truthy(py)).unwrap_or(true)
    })
}

#[pymethods]
impl Ticket {
    /// The task that runs the callback.
    fn runs(&self, task: Py<PyAny>) {
        self.0.runs(task);
    }

    fn returned(&self, value: Py<PyAny>) {
        self.0.ends(Ok(value));
    }

    fn raised(&self, error: Bound<'_, PyBaseException>) {
        self.0.ends(Err(PyErr::from_value(error.into_any())));
    }

    /// Tell who waits, which is not the child that the coroutine may have forked.
    fn done(&self, py: Python<'_>) {
        self.0.done(py);
    }
}
