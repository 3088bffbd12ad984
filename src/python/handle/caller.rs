//! Calls the callbacks that serve the requests of one open handle, and says what came of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::disk::{Errno, Error, Flags, Owner, Result};
use crate::python::buffer::{self, After};
use crate::python::callbacks::Callback;
use crate::python::module::{self, Connection};
use crate::python::script::{Api, Script};
use crate::python::stopwatch::Stopwatch;
use crate::python::{Plugin, coroutines, errnos, exceptions, forks};

/// `count` is an unsigned 32-bit number to a plugin; what does not fit is cut into pieces of this size,
/// which every minimum block size divides.
const LONGEST_PIECE: u64 = (1 << 32) - (1 << 16);

/// What `open` returned, and whom to call with it.
pub(super) struct Caller {
    pub(super) plugin: Arc<Plugin>,
    pub(super) handle: Py<PyAny>,
    pub(super) connection: Connection,
    /// Where somebody wants to know how long callbacks take.
    pub(super) stopwatch: Option<Arc<Stopwatch>>,
    /// Whether the log already says that this plugin keeps buffers.
    told_of_leak: AtomicBool,
}

impl Caller {
    pub(super) fn new(plugin: Arc<Plugin>, handle: Py<PyAny>, connection: Connection) -> Self {
        Self {
            stopwatch: plugin.stopwatch.get().cloned(),
            plugin,
            handle,
            connection,
            told_of_leak: AtomicBool::new(false),
        }
    }

    /// Run a callback when it is this handle's turn. The turn is waited for outside of
    /// Python, because whoever has it may be about to enter.
    pub(super) fn turn<T>(&self, callback: Callback, work: impl FnOnce(Python<'_>) -> T) -> T {
        let _turn = self.plugin.turns().take(callback);
        let _entered = self.connection.enter();
        Python::attach(|py| {
            module::clear_error();
            let done = work(py);
            forks::end_child(py);
            done
        })
    }

    pub(super) fn script(&self) -> &Script {
        &self.plugin.script
    }

    pub(super) fn find<'py>(&self, py: Python<'py>, name: Callback) -> Result<Bound<'py, PyAny>> {
        let found = self.script().look_up(py, name);
        found
            .map_err(|error| self.raised(py, name, error))?
            .ok_or_else(|| {
                Error::new(
                    Errno::IO,
                    format!("{}: {name} not implemented", self.script().path),
                )
            })
    }

    /// Call a callback that serves a request, and wait for what it returns where that can be awaited.
    pub(super) fn call<'py>(
        &self,
        callback: &Bound<'py, PyAny>,
        arguments: impl PyCallArgs<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let call = || {
            let returned = callback.call1(arguments);
            // Before anything that only the parent has is waited for.
            forks::end_child(callback.py());
            returned.and_then(coroutines::outcome)
        };
        match &self.stopwatch {
            None => call(),
            Some(stopwatch) => stopwatch.time(call),
        }
    }

    pub(super) fn read(
        &self,
        py: Python<'_>,
        data: &mut [u8],
        at: u64,
        owner: Option<&Owner>,
    ) -> Result {
        let name = Callback::Pread;
        let callback = self.find(py, name)?;
        let handle = self.handle.bind(py);
        if self.script().api == Api::V1 {
            let returned = self.call(&callback, (handle, data.len(), at));
            let copied = returned.map(|object| buffer::copy_returned(&object, data));
            return match copied {
                Ok(Ok(())) => self.outcome(py, name, Ok(())),
                Ok(Err(what)) => Err(self.error(name, errnos::chosen(), what)),
                Err(error) => self.outcome(py, name, Err::<(), _>(error)),
            };
        }
        let lent = buffer::lend_for_reading(py, data, owner, |view| {
            self.outcome(py, name, self.call(&callback, (handle, view, at, 0_u32)))
        });
        self.after(py, name, lent)
    }

    pub(super) fn write(&self, py: Python<'_>, data: &[u8], at: u64, request: Rest<'_>) -> Result {
        let name = Callback::Pwrite;
        let callback = self.find(py, name)?;
        let handle = self.handle.bind(py);
        let flags = request.flags.bits();
        let call = |view: &Bound<'_, PyMemoryView>| {
            let returned = match self.script().api {
                Api::V1 => self.call(&callback, (handle, view, at)),
                Api::V2 => self.call(&callback, (handle, view, at, flags)),
            };
            self.outcome(py, name, returned)
        };
        let lent = buffer::lend_for_writing(py, data, request.owner, call);
        self.after(py, name, lent)
    }

    /// What is left to do when a buffer comes back.
    pub(super) fn after(
        &self,
        py: Python<'_>,
        name: Callback,
        lent: PyResult<(Result, After)>,
    ) -> Result {
        match lent {
            Ok((outcome, After::Returned)) => outcome,
            Ok((outcome, After::Leaked)) => {
                if !self.told_of_leak.swap(true, Ordering::Relaxed) {
                    self.script().warn(
                        py,
                        name,
                        "keeps its buffer (or a slice or an array over it) after the call: it goes \
                         on seeing the bytes of that request; said once",
                    );
                }
                outcome
            }
            Err(error) => Err(self.error(name, Errno::IO, exceptions::describe(py, error))),
        }
    }

    pub(super) fn trim(&self, py: Python<'_>, count: u64, at: u64, flags: Flags) -> Result {
        let name = Callback::Trim;
        let callback = self.find(py, name)?;
        let handle = self.handle.bind(py);
        in_counts(at, count, |at, count| {
            let returned = match self.script().api {
                Api::V1 => self.call(&callback, (handle, count, at)),
                Api::V2 => self.call(&callback, (handle, count, at, flags.bits())),
            };
            self.outcome(py, name, returned)
        })
    }

    pub(super) fn zero(&self, py: Python<'_>, count: u64, at: u64, flags: Flags) -> Result {
        let name = Callback::Zero;
        // As nbdkit has it: a handle that promises `zero` without having it has declined.
        let found = self.script().look_up(py, name);
        let Some(callback) = found.map_err(|error| self.raised(py, name, error))? else {
            return Err(self.declined(name));
        };
        let handle = self.handle.bind(py);
        if self.script().api == Api::V1 && flags.contains(Flags::FAST_ZERO) {
            // Version 1 cannot be told to fail rather than to be slow.
            return Err(self.declined(name));
        }
        in_counts(at, count, |at, count| {
            let returned = match self.script().api {
                Api::V1 => self.call(
                    &callback,
                    (handle, count, at, flags.contains(Flags::MAY_TRIM)),
                ),
                Api::V2 => self.call(&callback, (handle, count, at, flags.bits())),
            };
            if self.errno(py, &returned) == Errno::OPNOTSUPP {
                return Err(self.declined(name));
            }
            self.outcome(py, name, returned)
        })
    }

    pub(super) fn cache(&self, py: Python<'_>, count: u64, at: u64) -> Result {
        let name = Callback::Cache;
        let callback = self.find(py, name)?;
        in_counts(at, count, |at, count| {
            self.outcome(
                py,
                name,
                self.call(&callback, (self.handle.bind(py), count, at, 0_u32)),
            )
        })
    }

    pub(super) fn flush(&self, py: Python<'_>) -> Result {
        let name = Callback::Flush;
        let callback = self.find(py, name)?;
        let handle = self.handle.bind(py);
        let returned = match self.script().api {
            Api::V1 => self.call(&callback, (handle,)),
            Api::V2 => self.call(&callback, (handle, 0_u32)),
        };
        self.outcome(py, name, returned)
    }

    /// Turn what a callback did into the outcome of the request. Drops the exception with its
    /// frames, so that only what the plugin kept on purpose is left afterwards.
    pub(super) fn outcome<'py>(
        &self,
        py: Python<'py>,
        name: Callback,
        returned: PyResult<impl ReturnValue<'py>>,
    ) -> Result {
        match returned {
            Ok(value) => {
                if let Some(what) = value.never_ran() {
                    return Err(self.error(name, Errno::IO, format!("returned a {what}")));
                }
                if module::chosen_error() == 0 {
                    return Ok(());
                }
                // nbdkit answers success here, with data that was never transferred.
                let what = "called nbdkit.set_error and returned without raising";
                Err(self.error(name, errnos::chosen(), what))
            }
            Err(error) => Err(self.raised(py, name, error)),
        }
    }

    /// The failure of a callback that raised. Drops the exception.
    pub(super) fn raised(&self, py: Python<'_>, name: Callback, error: PyErr) -> Error {
        // First, because to describe an exception runs code of the plugin's.
        let errno = errnos::raised(self.plugin.errnos(), py, &error);
        self.error(name, errno, exceptions::describe(py, error))
    }

    /// The errno with which a callback fails, if it does.
    fn errno<T>(&self, py: Python<'_>, returned: &PyResult<T>) -> Errno {
        match returned {
            Ok(_) => errnos::chosen(),
            Err(error) => errnos::raised(self.plugin.errnos(), py, error),
        }
    }

    pub(super) fn error(&self, name: Callback, errno: Errno, what: impl fmt::Display) -> Error {
        Error::new(errno, format!("{}: {name}: {what}", self.script().path))
    }

    fn declined(&self, name: Callback) -> Error {
        self.error(name, Errno::OPNOTSUPP, "declined")
    }
}

/// What a write needs beside its bytes and their place.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    pub(super) flags: Flags,
    pub(super) owner: Option<&'a Owner>,
}

/// The value that a callback returned, where it has one.
pub(super) trait ReturnValue<'py> {
    /// The kind of object that shows that the callback's body was not run.
    fn never_ran(&self) -> Option<String>;
}

impl<'py> ReturnValue<'py> for Bound<'py, PyAny> {
    fn never_ran(&self) -> Option<String> {
        if self.is_none() {
            return None;
        }
        let kind = self.get_type().name().ok()?.to_string_lossy().into_owned();
        match kind.as_str() {
            // Of a coroutine that was awaited, too.
            "coroutine" => Some("coroutine: `await` is missing".to_owned()),
            "generator" | "async_generator" => Some(kind),
            _ => None,
        }
    }
}

impl ReturnValue<'_> for () {
    fn never_ran(&self) -> Option<String> {
        None
    }
}

fn in_counts(at: u64, len: u64, mut piece: impl FnMut(u64, u64) -> Result) -> Result {
    let mut done = 0;
    while done < len {
        let count = count(len - done);
        piece(at + done, count)?;
        done += count;
    }
    Ok(())
}

/// How much of `len` one call is about.
pub(super) fn count(len: u64) -> u64 {
    if len <= u32::MAX.into() {
        return len;
    }
    LONGEST_PIECE
}
