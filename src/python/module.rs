//! The `nbdkit` module that plugins import.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

thread_local! {
    /// What `nbdkit.set_error` said in the callback that runs on this thread; 0 for nothing.
    static ERROR: Cell<i32> = const { Cell::new(0) };

    /// The number of the [`Connection`] that the callback on this thread is called for; 0 for none.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Forget what an earlier callback said.
pub(super) fn clear_error() {
    ERROR.set(0);
}

/// The errno that the callback on this thread chose; 0 if it chose none.
pub(super) fn chosen_error() -> i32 {
    ERROR.get()
}

/// The connections that are open, by number, with the names of their exports. Held only while looked
/// at, so that it may be waited for inside Python.
static OPEN: Mutex<BTreeMap<u64, Arc<str>>> = Mutex::new(BTreeMap::new());

/// What the functions of the module know about the client whose callback runs.
#[derive(Debug)]
pub(super) struct Connection {
    number: u64,
    export: Arc<str>,
}

impl Connection {
    /// A connection with this export open.
    pub(super) fn new(export: String) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let export: Arc<str> = export.into();
        OPEN.lock().insert(number, Arc::clone(&export));
        Self { number, export }
    }

    pub(super) fn export(&self) -> &str {
        &self.export
    }

    /// Until the result is dropped, callbacks on this thread are called for this connection. A
    /// number, not the connection itself, because this happens with each request.
    pub(super) fn enter(&self) -> Entered {
        Entered(CURRENT.replace(self.number))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        OPEN.lock().remove(&self.number);
    }
}

/// Goes back to the connection, if any, that was the current one before.
#[derive(Debug)]
pub(super) struct Entered(u64);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

fn current_export() -> Option<Arc<str>> {
    OPEN.lock().get(&CURRENT.get()).cloned()
}

/// Lets a plugin choose errors and read parameters; the constants are nbdkit's.
#[pymodule(gil_used = true)]
pub(super) mod nbdkit {
    use super::{PyRuntimeError, PyValueError};
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

    /// The name of the export that this client has open, with the default one filled in. Errors:
    /// RuntimeError outside of the callbacks from open to close.
    #[pyfunction]
    fn export_name() -> PyResult<String> {
        super::current_export()
            .map(|name| name.as_ref().to_owned())
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
