//! The promise that whoever waits for a callback is told how it ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use crate::python::forks;

/// How often who waits looks whether the loop is still there.
const TICK: Duration = Duration::from_secs(1);

/// What a callback returned or raised.
type Outcome = PyResult<Py<PyAny>>;

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// Keeps the task alive, as the event loop does not.
    task: Option<Py<PyAny>>,
    done: bool,
}

#[derive(Default)]
struct Slot {
    /// Held while looked at, so that it may be waited for inside Python.
    state: Mutex<State>,
    done: Condvar,
}

impl Slot {
    fn done(&self) {
        self.state.lock().done = true;
        self.done.notify_one();
    }
}

/// Held by what runs the callback. Whoever waits is told, at the latest when this is dropped.
#[pyclass(frozen, module = "nbdkit")]
pub(super) struct Ticket(Arc<Slot>);

/// Held by who waits for it.
pub(super) struct Waiting(Arc<Slot>);

impl Ticket {
    pub(super) fn new() -> (Self, Waiting) {
        let slot = Arc::new(Slot::default());
        (Self(Arc::clone(&slot)), Waiting(slot))
    }
}

#[pymethods]
impl Ticket {
    /// The task that runs the callback.
    fn runs(&self, task: Py<PyAny>) {
        let mut state = self.0.state.lock();
        if !state.done {
            state.task = Some(task);
        }
    }

    fn returned(&self, value: Py<PyAny>) {
        self.0.state.lock().outcome = Some(Ok(value));
    }

    fn raised(&self, error: Bound<'_, PyBaseException>) {
        self.0.state.lock().outcome = Some(Err(PyErr::from_value(error.into_any())));
    }

    /// Tell who waits, which is not the child that the coroutine may have forked.
    fn done(&self, py: Python<'_>) {
        forks::end_child(py);
        self.0.done();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.done();
    }
}

impl Waiting {
    /// Wait outside of Python, but not for long; whether it is done.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.0.state.lock();
        if !state.done {
            self.0.done.wait_for(&mut state, TICK);
        }
        state.done
    }

    /// What came of it; none if it was not run to an end.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.0.state.lock().outcome.take()
    }

    /// Whether the task has ended without having told so. A task that is cancelled before it began
    /// does: it keeps the ticket with its exception.
    pub(super) fn is_forgotten(&self, py: Python<'_>) -> bool {
        let task = self.0.state.lock().task.as_ref().map(|it| it.clone_ref(py));
        let done = task.and_then(|task| task.call_method0(py, "done").ok());
        done.is_some_and(|done| done.is_truthy(py).unwrap_or(true))
    }
}
