//! An open handle of a plugin, as a disk: turns each request into a callback and its outcome into an
//! errno.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use pyo3::prelude::*;

use super::callbacks::Callback;
use super::capabilities::Question;
use super::doing::Doing;
use super::extents::Wrong;
use super::module::Connection;
use super::turns::Place;
use super::{Plugin, errnos, exports, extents, module};
use crate::Refusal;
use crate::disk::{Disk, Errno, ExtentKind, Extents, Limits, Op, OpenDisk, Request, Result};

mod caller;
mod transfer;

use caller::{Caller, Rest, count};
use transfer::Transfer;

/// Tells `extents` that only the first extent is wanted; nbdkit's.
const FLAG_REQ_ONE: u32 = 4;

/// How often `extents` is called for one question. What is then left of it has to be asked for anew:
/// in a disk of exabytes, 4 GiB at a time take minutes, in which a serial plugin serves nobody else.
const MOST_EXTENTS_CALLS: usize = 4096;

/// What `open` returned, with what it said it can do.
pub(super) struct Handle {
    caller: Arc<Caller>,
    limits: Limits,
    /// Given back when the handle is closed.
    _place: Place,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("script", &self.caller.script().path)
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
        let opened = plugin.script.call(py, Callback::Open, (read_only,))?;
        let opened = opened.ok_or_else(|| plugin.script.refuse(Callback::Open, "is gone"))?;
        let question = Question {
            py,
            script: &plugin.script,
            handle: &opened,
        };
        let limits = question.limits(read_only, plugin.thread_model());
        drop(entered);
        let handle = Self {
            caller: Arc::new(Caller::new(plugin, opened.unbind(), connection)),
            limits: Limits::read_only(0),
            _place: place,
        };
        Ok(Opened { handle, limits })
    }

    /// The name of the export that it is open on.
    pub(super) fn export_name(&self) -> &str {
        self.caller.connection.export()
    }

    /// What `export_description` says, if there is one.
    pub(super) fn description(&self) -> std::result::Result<Option<String>, Refusal> {
        let caller = &self.caller;
        let callback = Callback::ExportDescription;
        caller.turn(callback, |py| {
            let script = caller.script();
            let answer = script.call(py, callback, (caller.handle.bind(py),))?;
            answer
                .map(|answer| exports::text(&answer))
                .transpose()
                .map_err(|what| script.refuse(callback, what))
        })
    }
}

fn all_data(range: &Range<u64>, found: &mut Extents) {
    found.push(range.end.saturating_sub(range.start), ExtentKind::DATA);
}

impl Disk for Handle {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, mut request: Request<'_>) -> Result {
        let caller = &self.caller;
        let callback = Callback::serving(request.op.kind());
        if Transfer::is_possible(caller, &request.op) && caller.plugin.has_coroutine(callback) {
            let _turn = caller.plugin.turns().take(callback);
            if let Some(served) = Transfer::serve(caller, &mut request) {
                return served;
            }
        }
        let Request {
            op,
            at,
            flags,
            owner,
            ..
        } = request;
        caller.turn(callback, |py| match op {
            Op::Read(data) => caller.read(py, data, at, owner),
            Op::Write(data) => caller.write(py, data, at, Rest { flags, owner }),
            Op::Zero(count) => caller.zero(py, count, at, flags),
            Op::Trim(count) => caller.trim(py, count, at, flags),
            Op::Cache(count) => caller.cache(py, count, at),
            Op::Flush => caller.flush(py),
        })
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        if !self.limits.extents {
            all_data(&range, found);
            return Ok(());
        }
        let caller = &self.caller;
        let name = Callback::Extents;
        caller.turn(name, |py| {
            // As nbdkit has it: a handle that promises `extents` without having it has one, of data.
            let Some(callback) = caller.script().find(py, name) else {
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
                found.go_on()?;
                let at = found.end();
                let count = count(range.end - at);
                let answer = caller
                    .call(&callback, (caller.handle.bind(py), count, at, flags))
                    .map_err(|error| caller.raised(py, name, error))?;
                extents::add(&answer, at..range.end, found).map_err(|wrong| match wrong {
                    Wrong::Raised(error) => caller.raised(py, name, error),
                    Wrong::Told(what) => caller.error(name, errnos::chosen(), what),
                    Wrong::Nothing => {
                        // The errno is nbdkit's.
                        let what = "the extents must reach the requested offset";
                        caller.error(name, Errno::INVAL, what)
                    }
                })?;
                // A generator has run by now, too.
                caller.outcome(py, name, Ok(()))?;
            }
            Ok(())
        })
    }
}

impl OpenDisk for Handle {
    /// Others who must not overlap wait until the batch is done; it waits for nothing itself, unless for
    /// coroutines, for which it must not be inside Python.
    fn batch(&self, work: &mut dyn FnMut()) {
        let plugin = &self.caller.plugin;
        let doing = Doing::wait_for_any();
        let turn = plugin.turns().batch();
        drop(doing);
        match turn {
            Some(_turn) if !plugin.is_async() => Python::attach(|_py| work()),
            _turn => work(),
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
        let handle = Python::attach(|py| match Arc::get_mut(&mut self.caller) {
            Some(caller) => std::mem::replace(&mut caller.handle, py.None()),
            // A request that was given up may still be with the event loop.
            None => self.caller.handle.clone_ref(py),
        });
        let caller = &self.caller;
        caller.turn(Callback::Close, |py| {
            if caller.plugin.is_cleaned() {
                log::warn!("a handle was left open until after `cleanup`: it is not closed");
                return;
            }
            if let Err(refusal) = caller.script().call(py, Callback::Close, (handle,)) {
                log::error!("{refusal}");
            }
        });
    }
}
