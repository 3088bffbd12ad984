//! The one CPython of this process: how it is started and how it ends.

use std::ffi::CString;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyModule};

use super::exceptions;
use super::forks;
use super::module::nbdkit;
use crate::Refusal;

/// Seconds that a thread busy in Python may keep others waiting. CPython's default of 5 ms would add
/// as much to every request beside a computing thread; at 0.5 ms, 0.66 ms were measured.
const SWITCH_INTERVAL_S: f64 = 0.0005;

/// Start the interpreter, make `nbdkit` importable, and settle what plugins find in `sys`.
pub(super) fn start() -> Result<(), Refusal> {
    pyo3::append_to_inittab!(nbdkit);
    Python::initialize();
    Python::attach(|py| {
        settle(py).map_err(|error| {
            Refusal::about(
                "python",
                format_args!("cannot start: {}", exceptions::describe(py, error)),
            )
        })
    })
}

fn settle(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    sys.setattr("argv", PyList::new(py, [""])?)?;
    // Compiled files could land on the very disk that is being served.
    sys.setattr("dont_write_bytecode", true)?;
    forks::watch(py)?;
    sys.call_method1("setswitchinterval", (SWITCH_INTERVAL_S,))?;
    // The first exception must not be what reads it from a disk that may wait for this one.
    py.import("traceback")?;
    // A pipe or a file is block-buffered otherwise, and what a plugin prints shows up far too late.
    for stream in ["stdout", "stderr"] {
        let stream = sys.getattr(stream)?;
        if stream.hasattr("reconfigure")? {
            let options = pyo3::types::PyDict::new(py);
            options.set_item("line_buffering", true)?;
            stream.call_method("reconfigure", (), Some(&options))?;
        }
    }
    Ok(())
}

/// What of the end is written in Python.
const EXIT: &str = include_str!("exit.py");

/// Run what the plugin at `script` registered with `atexit`, end its processes that only work for this one, tell
/// what its tasks raised that nobody waits for, and write out what it printed.
///
/// The interpreter itself is left as it is: finalising it would wait for every thread of the plugin,
/// and the process ends anyway.
pub(super) fn run_exit_functions(py: Python<'_>, script: &str) {
    match exit(py) {
        Ok((left, forgotten)) => {
            for (name, error) in forgotten {
                let error = exceptions::describe(py, PyErr::from_value(error));
                log::error!("{script}: {name}: failed, and nothing waited for it: {error}");
            }
            for (name, pid) in left {
                log::warn!("process {pid} (`{name}`), which the plugin started, goes on");
            }
        }
        Err(error) => log::warn!("atexit: {}", exceptions::describe(py, error)),
    }
    for stream in ["stdout", "stderr"] {
        let outcome = py
            .import("sys")
            .and_then(|sys| sys.getattr(stream))
            .and_then(|stream| stream.call_method0("flush"));
        if let Err(error) = outcome {
            log::debug!("{stream}: {}", exceptions::describe(py, error));
        }
    }
}

/// Names and numbers of the processes that are left.
type Left = Vec<(String, i32)>;
/// Names of tasks, each with what it raised.
type Forgotten<'py> = Vec<(String, Bound<'py, PyAny>)>;

fn exit<'py>(py: Python<'py>) -> PyResult<(Left, Forgotten<'py>)> {
    let code = CString::new(EXIT)?;
    let module = PyModule::from_code(py, &code, c"pydisk/exit.py", c"_pydisk_exit")?;
    let left = module.getattr("run")?.call0()?.extract()?;
    let forgotten = module.getattr("forgotten")?.call0()?.extract()?;
    Ok((left, forgotten))
}
