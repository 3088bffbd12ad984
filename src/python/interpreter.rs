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
            Refusal::new(format!(
                "python: cannot start: {}",
                exceptions::describe(py, error)
            ))
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

/// Run what plugins registered with `atexit`, end their processes that only work for this one, and write
/// out what they printed.
///
/// The interpreter itself is left as it is: finalising it would wait for every thread of the plugin,
/// and the process ends anyway.
pub(super) fn run_exit_functions(py: Python<'_>) {
    match exit(py) {
        Ok(left) => {
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
fn exit(py: Python<'_>) -> PyResult<Vec<(String, i32)>> {
    let code = CString::new(EXIT)?;
    let module = PyModule::from_code(py, &code, c"pydisk/exit.py", c"_pydisk_exit")?;
    module.getattr("run")?.call0()?.extract()
}
