//! For whom a callback runs: which client, and which errno it chose.
//!
//! A callback that is a plain function runs on the thread of its request, and what is known of it
//! lies in that thread. Coroutines take turns on one thread, so each has a [`Calling`] of its own in
//! a context variable, which follows it through its tasks and into `asyncio.to_thread`.

use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

thread_local! {
    /// The number of the connection that the callback on this thread is called for; 0 for none.
    static CONNECTION: Cell<u64> = const { Cell::new(0) };
    /// What `nbdkit.set_error` said in the callback that runs on this thread; 0 for nothing.
    static ERROR: Cell<i32> = const { Cell::new(0) };
}

/// The context variable that holds a coroutine's [`Calling`]; only there once there are coroutines.
static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// What one coroutine is called for.
#[derive(Debug)]
#[pyclass(frozen, module = "nbdkit")]
pub(in crate::python) struct Calling {
    connection: u64,
    error: AtomicI32,
}

impl Calling {
    /// For the same as the callback on this thread, with no errno chosen yet.
    pub(in crate::python) fn of_thread() -> Self {
        Self::of_connection(CONNECTION.get())
    }

    /// For this connection, with no errno chosen yet.
    pub(super) fn of_connection(connection: u64) -> Self {
        Self {
            connection,
            error: AtomicI32::new(0),
        }
    }

    /// The errno that the coroutine chose, as if it had been chosen on this thread.
    pub(in crate::python) fn take_over(&self) {
        let chosen = self.error.load(Ordering::Acquire);
        if chosen != 0 {
            ERROR.set(chosen);
        }
    }
}

/// From here on `variable` says for whom a coroutine runs.
pub(in crate::python) fn look_in(py: Python<'_>, variable: Py<PyAny>) {
    if VARIABLE.set(py, variable).is_err() {
        log::debug!("there is one event loop, and its variable is known");
    }
}

/// The coroutine that runs on this thread, if it is one.
fn coroutine(py: Python<'_>) -> Option<Py<Calling>> {
    let variable = VARIABLE.get(py)?.bind(py);
    let found = variable.call_method1(pyo3::intern!(py, "get"), (py.None(),));
    Some(found.ok()?.cast_into::<Calling>().ok()?.unbind())
}

/// Have callbacks on this thread run for this connection, and tell which one it was before.
pub(super) fn replace_connection(number: u64) -> u64 {
    CONNECTION.replace(number)
}

/// The number of the connection that is called for here; 0 for none.
pub(super) fn connection(py: Python<'_>) -> u64 {
    coroutine(py).map_or_else(|| CONNECTION.get(), |calling| calling.get().connection)
}

/// Forget what an earlier callback on this thread said.
pub(in crate::python) fn clear_error() {
    ERROR.set(0);
}

/// The errno that the callback on this thread chose; 0 if it chose none.
pub(in crate::python) fn chosen_error() -> i32 {
    ERROR.get()
}

/// Choose the errno that the failing callback reports. Errors: TypeError unless an int.
#[pyfunction]
pub(super) fn set_error(py: Python<'_>, err: i32) {
    match coroutine(py) {
        Some(calling) => calling.get().error.store(err, Ordering::Release),
        None => ERROR.set(err),
    }
}
