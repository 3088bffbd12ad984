//! What who runs a callback and who waits for it have in common: the core of a ticket. It takes and
//! gives what Python knows about, but calls nothing there itself, other than by the job.
//!
//! `tests/models` has the answer come, fail to come and be given up in every order.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Begun, Job, Outcome, Python, Served, TaskOfLoop, cancelled};
use crate::python::forks;
use crate::sync::clockless::{Condvar, Mutex, MutexGuard};

/// How often who waits looks whether the loop is still there.
const TICK: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    outcome: Option<Outcome>,
    /// Ended by who tells that it is done, or else by who waits.
    job: Option<Box<dyn Job>>,
    served: Option<Served>,
    /// Keeps the task alive, as the event loop does not.
    task: Option<TaskOfLoop>,
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
pub(super) struct Promise(Arc<Slot>);

/// Held by who waits for it.
pub(super) struct Waiting(Arc<Slot>);

impl Promise {
    /// For a callback that was called.
    pub(super) fn new() -> (Self, Waiting) {
        let slot = Arc::new(Slot::default());
        (Self(Arc::clone(&slot)), Waiting(slot))
    }

    /// For a whole request.
    pub(super) fn of_job(job: Box<dyn Job>) -> (Self, Waiting) {
        let (promise, waiting) = Self::new();
        waiting.0.state().job = Some(job);
        (promise, waiting)
    }

    /// Begin the request that this is for; none if it has come to its end with that.
    pub(super) fn begin(self, py: Python<'_>) -> Option<(Self, Begun)> {
        let mut job = self.0.state().job.take()?;
        let begun = job.begin(py);
        forks::end_child(py);
        let served = match begun {
            Ok(Some(begun)) => {
                self.0.state().job = Some(job);
                return Some((self, begun));
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        };
        // Before anybody is told: the memory of the request is not held here any more.
        drop(job);
        self.0.state().served = Some(served);
        None
    }

    /// The task that runs the callback.
    pub(super) fn runs(&self, task: TaskOfLoop) {
        let mut state = self.0.state();
        if !state.done {
            state.task = Some(task);
        }
    }

    /// What the callback came to.
    pub(super) fn ends(&self, outcome: Outcome) {
        self.0.state().outcome = Some(outcome);
    }

    /// Tell who waits, which is not the child that the coroutine may have forked.
    pub(super) fn done(&self, py: Python<'_>) {
        forks::end_child(py);
        let job = self.0.state().job.take();
        if let Some(job) = job {
            let outcome = self.0.state().outcome.take();
            let served = job.end(py, outcome.unwrap_or_else(|| Err(cancelled())));
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

impl Drop for Promise {
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

    /// Look at the task that runs the callback, if there is one, with this locked.
    pub(super) fn with_task<T>(&self, look: impl FnOnce(&TaskOfLoop) -> T) -> Option<T> {
        self.0.state().task.as_ref().map(look)
    }
}
