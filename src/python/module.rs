//! The `nbdkit` module that plugins import.

use std::cell::Cell;
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

thread_local! {
    /// What `nbdkit.set_error` said in the callback that runs on this thread; 0 for nothing.
    static ERROR: Cell<i32> = const { Cell::new(0) };
}

/// Forget what an earlier callback said.
pub(super) fn clear_error() {
    ERROR.set(0);
}

/// The errno that the callback on this thread chose; 0 if it chose none.
pub(super) fn chosen_error() -> i32 {
    ERROR.get()
}

/// The name of the export that the one connection of this process is open on.
pub(super) static EXPORT_NAME: OnceLock<String> = OnceLock::new();

/// Lets a plugin choose errors and read parameters; the constants are nbdkit's.
#[pymodule(gil_used = true)]
pub(super) mod nbdkit {
    use super::{EXPORT_NAME, PyRuntimeError, PyValueError};
    use pyo3::prelude::*;

    /// Choose the errno that the failing callback reports. Errors: TypeError unless an int.
    #[pyfunction]
    fn set_error(err: i32) {
        super::ERROR.set(err);
    }

    /// Write a message to the log if pydisk runs with --verbose.
    #[pyfunction]
    fn debug(msg: &str) -> PyResult<()> {
        if msg.contains('\0') {
            return Err(PyValueError::new_err("embedded null character"));
        }
        log::debug!(
            "plugin: {}",
            msg.escape_debug().to_string().replace("\\\"", "\"")
        );
        Ok(())
    }

    /// The name of the export that the client asked for. Errors: RuntimeError before open.
    #[pyfunction]
    fn export_name() -> PyResult<&'static str> {
        EXPORT_NAME
            .get()
            .map(String::as_str)
            .ok_or_else(|| PyRuntimeError::new_err("nbdkit.export_name failed"))
    }

    /// Bytes from a size such as "1G", "512k" or "100s". Errors: ValueError.
    #[pyfunction]
    fn parse_size(s: &str) -> PyResult<u64> {
        crate::params::parse_size(s).map_err(|error| {
            log::error!("{error}");
            PyValueError::new_err("Unable to parse string as size")
        })
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        for (name, value) in super::CONSTANTS {
            module.add(*name, *value)?;
        }
        Ok(())
    }
}

/// As in nbdkit's headers; the values are part of the plugin contract.
const CONSTANTS: &[(&str, u32)] = &[
    ("THREAD_MODEL_SERIALIZE_CONNECTIONS", 0),
    ("THREAD_MODEL_SERIALIZE_ALL_REQUESTS", 1),
    ("THREAD_MODEL_SERIALIZE_REQUESTS", 2),
    ("THREAD_MODEL_PARALLEL", 3),
    ("FUA_NONE", 0),
    ("FUA_EMULATE", 1),
    ("FUA_NATIVE", 2),
    ("CACHE_NONE", 0),
    ("CACHE_EMULATE", 1),
    ("CACHE_NATIVE", 2),
    ("EXTENT_HOLE", 1),
    ("EXTENT_ZERO", 2),
    ("FLAG_MAY_TRIM", 1),
    ("FLAG_FUA", 2),
    ("FLAG_REQ_ONE", 4),
    ("FLAG_FAST_ZERO", 8),
];
