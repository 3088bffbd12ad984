//! An open handle of a plugin, as a disk: turns each request into a callback and its outcome into an
//! errno.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::call::PyCallArgs;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString};

use super::buffer::{self, After};
use super::capabilities::Question;
use super::errnos;
use super::extents::Wrong;
use super::module::Connection;
use super::script::{Api, Script};
use super::stopwatch::Stopwatch;
use super::turns::Place;
use super::{Plugin, coroutines, exceptions, exports, extents, forks, module};
use crate::Refusal;
use crate::disk::{
    Disk, Errno, Error, ExtentKind, Extents, Flags, Limits, Op, Owner, Request, Result, go_on,
};

/// `count` is an unsigned 32-bit number to a plugin; what does not fit is cut into pieces of this size,
/// which every minimum block size divides.
const LONGEST_PIECE: u64 = (1 << 32) - (1 << 16);

/// Tells `extents` that only the first extent is wanted; nbdkit's.
const FLAG_REQ_ONE: u32 = 4;

/// How often `extents` is called for one question. What is then left of it has to be asked for anew:
/// in a disk of exabytes, 4 GiB at a time take minutes, in which a serial plugin serves nobody else.
const MOST_EXTENTS_CALLS: usize = 4096;

/// What `open` returned, with what it said it can do.
pub(super) struct Handle {
    plugin: Arc<Plugin>,
    handle: Py<PyAny>,
    limits: Limits,
    /// Whether the log already says that this plugin keeps buffers.
    told_of_leak: AtomicBool,
    /// Where somebody wants to know how long callbacks take.
    stopwatch: Option<Arc<Stopwatch>>,
    connection: Connection,
    /// Given back when the handle is closed.
    _place: Place,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("script", &self.script().path)
            .finish_non_exhaustive()
    }
}

/// What `open` returned, and what came of asking what it can do.
pub(super) struct Opened {
    handle: Handle,
    limits: std::result::Result<Limits, Refusal>,
}

impl Opened {
    /// The handle; if it cannot be used, `close` is called. Not inside Python, for `close` waits for its
    /// turn, and who has that may wait to enter.
    pub(super) fn usable(self) -> std::result::Result<Handle, Refusal> {
        let Self { mut handle, limits } = self;
        // An early return drops the handle, and dropping closes it.
        handle.limits = limits?;
        Ok(handle)
    }
}

impl Handle {
    /// Call `open` and ask for the capabilities.
    ///
    /// The caller has the right to run callbacks.
    pub(super) fn open(
        py: Python<'_>,
        plugin: Arc<Plugin>,
        connection: Connection,
        place: Place,
        read_only: bool,
    ) -> std::result::Result<Opened, Refusal> {
        let entered = connection.enter();
        module::clear_error();
        let opened = plugin.script.call(py, intern!(py, "open"), (read_only,))?;
        let opened = opened.ok_or_else(|| plugin.script.refuse("open", "is gone"))?;
        let question = Question {
            py,
            script: &plugin.script,
            handle: &opened,
        };
        let limits = question.limits(read_only, plugin.thread_model());
        drop(entered);
        let handle = Self {
            stopwatch: plugin.stopwatch.get().cloned(),
            plugin,
            handle: opened.unbind(),
            limits: Limits::read_only(0),
            told_of_leak: AtomicBool::new(false),
            connection,
            _place: place,
        };
        Ok(Opened { handle, limits })
    }

    /// The name of the export that it is open on.
    pub(super) fn export_name(&self) -> &str {
        self.connection.export()
    }

    /// What `export_description` says, if there is one.
    pub(super) fn description(&self) -> std::result::Result<Option<String>, Refusal> {
        self.turn("export_description", |py| {
            let name = intern!(py, "export_description");
            let answer = self.script().call(py, name, (self.handle.bind(py),))?;
            answer
                .map(|answer| exports::text(&answer))
                .transpose()
                .map_err(|what| self.script().refuse("export_description", what))
        })
    }

    /// Run the callback of this name when it is this handle's turn. The turn is waited for outside of
    /// Python, because whoever has it may be about to enter.
    fn turn<T>(&self, callback: &str, work: impl FnOnce(Python<'_>) -> T) -> T {
        let _turn = self.plugin.turns().callback(callback);
        let _entered = self.connection.enter();
        Python::attach(|py| {
            module::clear_error();
            let done = work(py);
            forks::end_child(py);
            done
        })
    }

    fn script(&self) -> &Script {
        &self.plugin.script
    }

    fn find<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> Result<Bound<'py, PyAny>> {
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
    fn call<'py>(
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

    fn read(&self, py: Python<'_>, data: &mut [u8], at: u64, owner: Option<&Owner>) -> Result {
        let name = intern!(py, "pread");
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

    fn write(&self, py: Python<'_>, data: &[u8], at: u64, request: Rest<'_>) -> Result {
        let name = intern!(py, "pwrite");
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
    fn after(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        lent: PyResult<(Result, After)>,
    ) -> Result {
        match lent {
            Ok((outcome, After::Returned)) => outcome,
            Ok((outcome, After::Leaked)) => {
                if !self.told_of_leak.swap(true, Ordering::Relaxed) {
                    let name = exceptions::lossy(name);
                    self.script().warn(
                        py,
                        &name,
                        "keeps its buffer (or a slice or an array over it) after the call: it goes \
                         on seeing the bytes of that request; said once",
                    );
                }
                outcome
            }
            Err(error) => Err(self.error(name, Errno::IO, exceptions::describe(py, error))),
        }
    }

    fn trim(&self, py: Python<'_>, count: u64, at: u64, flags: Flags) -> Result {
        let name = intern!(py, "trim");
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

    fn zero(&self, py: Python<'_>, count: u64, at: u64, flags: Flags) -> Result {
        let name = intern!(py, "zero");
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

    fn cache(&self, py: Python<'_>, count: u64, at: u64) -> Result {
        let name = intern!(py, "cache");
        let callback = self.find(py, name)?;
        in_counts(at, count, |at, count| {
            self.outcome(
                py,
                name,
                self.call(&callback, (self.handle.bind(py), count, at, 0_u32)),
            )
        })
    }

    fn flush(&self, py: Python<'_>) -> Result {
        let name = intern!(py, "flush");
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
    fn outcome<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'_, PyString>,
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
    fn raised(&self, py: Python<'_>, name: &Bound<'_, PyString>, error: PyErr) -> Error {
        // First, because to describe an exception runs code of the plugin's.
        let errno = self.plugin.errnos().of(py, &error);
        self.error(name, errno, exceptions::describe(py, error))
    }

    /// The errno with which a callback fails, if it does.
    fn errno<T>(&self, py: Python<'_>, returned: &PyResult<T>) -> Errno {
        match returned {
            Ok(_) => errnos::chosen(),
            Err(error) => self.plugin.errnos().of(py, error),
        }
    }

    fn error(&self, name: &Bound<'_, PyString>, errno: Errno, what: impl fmt::Display) -> Error {
        Error::new(errno, format!("{}: {name}: {what}", self.script().path))
    }

    fn declined(&self, name: &Bound<'_, PyString>) -> Error {
        self.error(name, Errno::OPNOTSUPP, "declined")
    }
}

/// The callback that serves an operation.
fn callback(op: &Op<'_>) -> &'static str {
    match op {
        Op::Read(_) => "pread",
        Op::Write(_) => "pwrite",
        Op::Zero(_) => "zero",
        Op::Trim(_) => "trim",
        Op::Cache(_) => "cache",
        Op::Flush => "flush",
    }
}

/// What a write needs beside its bytes and their place.
#[derive(Clone, Copy)]
struct Rest<'a> {
    flags: Flags,
    owner: Option<&'a Owner>,
}

/// The value that a callback returned, where it has one.
trait ReturnValue<'py> {
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
fn count(len: u64) -> u64 {
    if len <= u32::MAX.into() {
        return len;
    }
    LONGEST_PIECE
}

fn all_data(range: &Range<u64>, found: &mut Extents) {
    found.push(range.end.saturating_sub(range.start), ExtentKind::DATA);
}

impl Disk for Handle {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let Request {
            op,
            at,
            flags,
            owner,
        } = request;
        self.turn(callback(&op), |py| match op {
            Op::Read(data) => self.read(py, data, at, owner),
            Op::Write(data) => self.write(py, data, at, Rest { flags, owner }),
            Op::Zero(count) => self.zero(py, count, at, flags),
            Op::Trim(count) => self.trim(py, count, at, flags),
            Op::Cache(count) => self.cache(py, count, at),
            Op::Flush => self.flush(py),
        })
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        if !self.limits.extents {
            all_data(&range, found);
            return Ok(());
        }
        self.turn("extents", |py| {
            let name = intern!(py, "extents");
            // As nbdkit has it: a handle that promises `extents` without having it has one, of data.
            let Some(callback) = self.script().find(py, name) else {
                all_data(&range, found);
                return Ok(());
            };
            let first_only = found.is_first_only();
            let flags = if first_only { FLAG_REQ_ONE } else { 0 };
            for _ in 0..MOST_EXTENTS_CALLS {
                let told = first_only && !found.list().is_empty();
                if told || found.end() >= range.end {
                    break;
                }
                go_on()?;
                let at = found.end();
                let count = count(range.end - at);
                let answer = self
                    .call(&callback, (self.handle.bind(py), count, at, flags))
                    .map_err(|error| self.raised(py, name, error))?;
                extents::add(&answer, at..range.end, found).map_err(|wrong| match wrong {
                    Wrong::Raised(error) => self.raised(py, name, error),
                    Wrong::Told(what) => self.error(name, errnos::chosen(), what),
                    Wrong::Nothing => {
                        // The errno is nbdkit's.
                        let what = "the extents must reach the requested offset";
                        self.error(name, Errno::INVAL, what)
                    }
                })?;
                // A generator has run by now, too.
                self.outcome(py, name, Ok(()))?;
            }
            Ok(())
        })
    }

    /// Others who must not overlap wait until the batch is done; it waits for nothing itself.
    fn batch(&self, work: &mut dyn FnMut()) {
        match self.plugin.turns().batch() {
            Some(_turn) => Python::attach(|_py| work()),
            None => work(),
        }
    }

    /// The thread keeps one Python thread state, so `threading.local` keeps its values, and to attach
    /// in between takes 70 ns in place of 440.
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        Python::attach(|py| py.detach(work));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let nothing = Python::attach(|py| py.None());
        let handle = std::mem::replace(&mut self.handle, nothing);
        self.turn("close", |py| {
            if self.plugin.is_cleaned() {
                log::warn!("a handle was left open until after `cleanup`: it is not closed");
                return;
            }
            let name = intern!(py, "close");
            if let Err(refusal) = self.script().call(py, name, (handle,)) {
                log::error!("{refusal}");
            }
        });
    }
}
