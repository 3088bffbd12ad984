//! Which client the callback at hand is called for, and what it may ask and do about it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{Calling, calling, stop};
use crate::disk::Client;

/// The connections that callbacks may be called for, by number. Held only while looked at, so that it
/// may be waited for inside Python.
static OPEN: Mutex<BTreeMap<u64, Arc<Known>>> = Mutex::new(BTreeMap::new());

/// What the functions of the module know about the client whose callback runs.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// None behind a block device, which has no clients.
    pub(super) client: Option<Arc<Client>>,
    tls: bool,
    /// None before an export is open.
    export: Option<String>,
}

/// What callbacks are called for: a client, or the one user of a block device.
#[derive(Debug)]
pub(in crate::python) struct Connection {
    number: u64,
    known: Arc<Known>,
}

impl Connection {
    /// A client that has no export open yet, or a block device that is being made.
    pub(in crate::python) fn visiting(client: Option<&Arc<Client>>, tls: bool) -> Self {
        Self::new(client, tls, None)
    }

    /// The same with an export open.
    pub(in crate::python) fn open(client: Option<&Arc<Client>>, tls: bool, export: String) -> Self {
        Self::new(client, tls, Some(export))
    }

    fn new(client: Option<&Arc<Client>>, tls: bool, export: Option<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let known = Arc::new(Known {
            client: client.cloned(),
            tls,
            export,
        });
        OPEN.lock().insert(number, Arc::clone(&known));
        Self { number, known }
    }

    /// The name of the export, with the default one filled in.
    pub(in crate::python) fn export(&self) -> &str {
        self.known.export.as_deref().unwrap_or_default()
    }

    /// What a coroutine is to know that is called for this connection.
    pub(in crate::python) fn calling(&self) -> Calling {
        Calling::of_connection(self.number)
    }

    /// Until the result is dropped, callbacks on this thread are called for this connection. A
    /// number, not the connection itself, because this happens with each request.
    pub(in crate::python) fn enter(&self) -> Entered {
        Entered(calling::replace_connection(self.number))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        OPEN.lock().remove(&self.number);
    }
}

/// Goes back to the connection, if any, that was the current one before.
#[derive(Debug)]
pub(in crate::python) struct Entered(u64);

impl Drop for Entered {
    fn drop(&mut self) {
        calling::replace_connection(self.0);
    }
}

/// The connection that the callback at hand is called for. Threads that the plugin started have none.
pub(super) fn current(py: Python<'_>) -> Option<Arc<Known>> {
    let number = calling::connection(py);
    OPEN.lock().get(&number).cloned()
}

/// The client that the callback at hand is called for.
pub(super) fn current_client(py: Python<'_>) -> Option<Arc<Client>> {
    current(py)?.client.clone()
}

/// The name of the export that this client has open, with the default one filled in. Errors:
/// RuntimeError outside of the callbacks from open to close.
#[pyfunction]
pub(super) fn export_name(py: Python<'_>) -> PyResult<String> {
    current(py)
        .and_then(|known| known.export.clone())
        .ok_or_else(|| PyRuntimeError::new_err("nbdkit.export_name failed"))
}

/// Whether the connection to this client is encrypted. False where there is no client.
#[pyfunction]
pub(super) fn is_tls(py: Python<'_>) -> bool {
    current(py).is_some_and(|known| known.tls)
}

/// Send this client away: at once, without an answer to anything, if force is true, else when what is
/// under way is answered. Does nothing where there is no client.
#[pyfunction]
pub(super) fn disconnect(force: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = force.py();
    let force = force.is_truthy()?;
    let Some(client) = current_client(py) else {
        log::debug!("nbdkit.disconnect: there is no client here: nothing is done");
        return Ok(());
    };
    client.disconnect(force);
    stop::wake_all();
    Ok(())
}
