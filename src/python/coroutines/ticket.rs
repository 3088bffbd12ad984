//! The promise that whoever waits for a callback is told how it ended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;

use super::inbox::Task;
use super::{Job, Outcome, Served};
use crate::python::forks;

/// How often who waits looks whether the loop is still there.
const TICK: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// Ended by who tells that it is done, or else by who waits.
    job: Option<Box<dyn Job>>,
    served: Option<Served>,
    /// Keeps the task alive, as the event loop does not.
    task: Option<Py<PyAny>>,
    done: bool,
}

/// Not of `parking_lot`: its `notify_one` reads the clock first, which without a vDSO is a system call for
/// each request.
#[derive(Default)]
struct Slot {
    /// Held while looked at, so that it may be waited for inside Python.
    state: Mutex<State>,
    done: Condvar,
}

impl Slot {
    /// What is in there is whole at any time.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self) {
        let told = std::mem::replace(&mut self.state().done, true);
        if !told {
            self.done.notify_one();
        }
    }
}

/// Held by what runs the callback. Whoever waits is told, at the latest when this is dropped.
#[pyclass(frozen, module = "nbdkit")]
pub(super) struct Ticket(Arc<Slot>);

/// Held by who waits for it.
pub(super) struct Waiting(Arc<Slot>);

impl Ticket {
    /// For a callback that was called.
    pub(super) fn new() -> (Self, Waiting) {
        let slot = Arc::new(Slot::default());
        (Self(Arc::clone(&slot)), Waiting(slot))
    }

    /// For a whole request.
    pub(super) fn of_job(job: Box<dyn Job>) -> (Self, Waiting) {
        let (ticket, waiting) = Self::new();
        waiting.0.state().job = Some(job);
        (ticket, waiting)
    }

    /// Begin the request that this is for; none if it has come to its end with that.
    pub(super) fn begin(self, py: Python<'_>) -> Option<Task> {
        let mut job = self.0.state().job.take()?;
        let begun = job.begin(py);
        forks::end_child(py);
        let served = match begun {
            Ok(Some((calling, awaitable))) => {
                self.0.state().job = Some(job);
                let ticket = Py::new(py, self).map_err(|error| log::error!("event loop: {error}"));
                return Some((ticket.ok()?, calling, awaitable));
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        };
        // Before anybody is told: the memory of the request is not held here any more.
        drop(job);
        self.0.state().served = Some(served);
        None
    }
}

#[pymethods]
impl Ticket {
    /// The task that runs the callback.
    fn runs(&self, task: Py<PyAny>) {
        let mut state = self.0.state();
        if !state.done {
            state.task = Some(task);
        }
    }

    fn returned(&self, value: Py<PyAny>) {
        self.0.state().outcome = Some(Ok(value));
    }

    fn raised(&self, error: Bound<'_, PyBaseException>) {
        self.0.state().outcome = Some(Err(PyErr::from_value(error.into_any())));
    }

    /// Tell who waits, which is not the child that the coroutine may have forked.
    fn done(&self, py: Python<'_>) {
        forks::end_child(py);
        let job = self.0.state().job.take();
        if let Some(job) = job {
            let outcome = self.0.state().outcome.take();
            let served = job.end(py, outcome.unwrap_or_else(|| Err(super::cancelled())));
            // To describe an exception runs code of the plugin's.
            forks::end_child(py);
            self.0.state().served = Some(Some(served));
        }
        // Dropped here, inside Python and with nothing locked.
        let task = self.0.state().task.take();
        drop(task);
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
        let state = self.0.state();
        if state.done {
            return true;
        }
        let waited = self.0.done.wait_timeout(state, TICK);
        let (state, _late) = waited.unwrap_or_else(PoisonError::into_inner);
        state.done
    }

    /// What came of it; none if it was not run to an end.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.0.state().outcome.take()
    }

    /// What came of the job; itself, if that was not run to an end.
    pub(super) fn served(self) -> Result<Served, Option<Box<dyn Job>>> {
        let mut state = self.0.state();
        let job = state.job.take();
        state.served.take().ok_or(job)
    }

    /// Whether the task has ended without having told so. A task that is cancelled before it began
    /// does: it keeps the ticket with its exception.
    pub(super) fn is_forgotten(&self, py: Python<'_>) -> bool {
        let task = self.0.state().task.as_ref().map(|it| it.clone_ref(py));
        // What a task factory of the plugin's made may be no task at all.
        task.is_some_and(|task| {
            let done = task.call_method0(py, "done");
            done.and_then(|done| done.is_truthy(py)).unwrap_or(true)
        })
    }
}
