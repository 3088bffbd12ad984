//! The errno that a callback chooses for its failure.

use std::cell::Cell;

use pyo3::prelude::*;

thread_local! {
    /// What `nbdkit.set_error` said in the callback that runs on this thread; 0 for nothing.
    static ERROR: Cell<i32> = const { Cell::new(0) };
}

/// Forget what an earlier callback said.
pub(in crate::python) fn clear_error() {
    ERROR.set(0);
}

/// The errno that the callback on this thread chose; 0 if it chose none.
pub(in crate::python) fn chosen_error() -> i32 {
    ERROR.get()
}

/// Choose the errno that the failing callback reports. Errors: TypeError unless an int.
#[pyfunction]
pub(super) fn set_error(err: i32) {
    ERROR.set(err);
}
