//! Children that a plugin forks are the plugin's: one that comes back from its callback must not go on
//! as this process. It has the same sockets, and would answer the same request a second time.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyCFunction};

/// Whether this process was forked, by Python, from the one that serves.
static CHILD: AtomicBool = AtomicBool::new(false);

/// Notice, in the child, each fork that goes through Python.
pub(super) fn watch(py: Python<'_>) -> PyResult<()> {
    let noticed = PyCFunction::new_closure(py, None, None, |_args, _options| {
        CHILD.store(true, Ordering::Relaxed);
    })?;
    let when = [("after_in_child", noticed)].into_py_dict(py)?;
    let os = py.import("posix")?;
    os.call_method("register_at_fork", (), Some(&when))?;
    Ok(())
}

/// End this process if it is a child. Called where a callback has come back.
pub(super) fn end_child(py: Python<'_>) {
    if !CHILD.load(Ordering::Relaxed) {
        return;
    }
    // The locks of the log may be held for ever by threads that this process does not have.
    let said =
        b"pydisk: error: a process that the plugin forked came back from a callback: it is ended \
                 (hint: it has to call os._exit)\n";
    rustix::io::write(rustix::stdio::stderr(), said).unwrap_or_default();
    let ended = py
        .import("posix")
        .and_then(|posix| posix.call_method1("_exit", (1,)));
    drop(ended);
    std::process::abort();
}
