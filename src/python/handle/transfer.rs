//! A read or a write whose callback is an `async def`: the event loop's thread serves it from its start to
//! its end, and the thread of the request does not enter Python at all. Many threads that want one
//! interpreter at the same time cost more than all that is done for the requests.

use std::sync::Arc;
use std::time::Instant;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFunction, PyType};

use super::caller::Caller;
use crate::disk::{Errno, Error, Flags, Op, Request, Result};
use crate::python::buffer::{self, Lending, Lent};
use crate::python::callbacks::Callback;
use crate::python::coroutines::{self, Begun, Job, Outcome};
use crate::python::exceptions;
use crate::python::module::{self, Calling};
use crate::python::script::Api;

/// What the event loop's thread needs for one request. It may outlive the request, if that is given up.
pub(super) struct Transfer {
    caller: Arc<Caller>,
    /// Whether it is a read.
    reads: bool,
    at: u64,
    flags: Flags,
    memory: Memory,
    /// Whom the coroutine is called for.
    calling: Option<Py<Calling>>,
    /// Since when it runs, where somebody wants to know.
    since: Option<Instant>,
}

/// Where the memory of the request is.
enum Memory {
    Here(Lent),
    WithPython(Lending),
    Gone,
}

impl Transfer {
    /// Whether the event loop may serve it. What `pread` of version 1 returns is copied to where only the
    /// request's own thread has it.
    pub(super) fn is_possible(caller: &Caller, op: &Op<'_>) -> bool {
        matches!(op, Op::Read(_) | Op::Write(_)) && caller.script().api != Api::V1
    }

    /// Have the event loop serve `request`, and wait for that; none if a thread has to serve it. Not
    /// called inside Python.
    pub(super) fn serve(caller: &Arc<Caller>, request: &mut Request<'_>) -> Option<Result> {
        let owner = request.owner;
        let (lent, scratch) = match &mut request.op {
            Op::Read(data) => buffer::to_be_filled(data, owner),
            Op::Write(data) => buffer::to_be_stored(data, owner),
            _ => return None,
        };
        let served = coroutines::serve(Box::new(Self {
            caller: Arc::clone(caller),
            reads: matches!(request.op, Op::Read(_)),
            at: request.at,
            flags: request.flags,
            memory: Memory::Here(lent),
            calling: None,
            since: None,
        }));
        match (&mut request.op, scratch) {
            (_, None) => {}
            (Op::Read(data), Some(scratch)) if matches!(served, Some(Ok(()))) => {
                scratch.copy_to(data);
            }
            (_, Some(scratch)) => scratch.give_back(),
        }
        served
    }

    fn name(&self) -> Callback {
        match self.reads {
            true => Callback::Pread,
            false => Callback::Pwrite,
        }
    }

    /// Count the callback, which has ended.
    fn count(&self) {
        if let (Some(stopwatch), Some(since)) = (&self.caller.stopwatch, self.since) {
            stopwatch.count(since.elapsed());
        }
    }

    /// Take the memory back from Python.
    fn take_back(&mut self, py: Python<'_>, outcome: Result) -> Result {
        match std::mem::replace(&mut self.memory, Memory::Gone) {
            Memory::WithPython(lending) => {
                let after = lending.end(py);
                self.caller.after(py, self.name(), Ok((outcome, after)))
            }
            Memory::Here(_) | Memory::Gone => outcome,
        }
    }
}

/// `CO_COROUTINE` of CPython's `code.h`: calling the function makes a coroutine.
const IS_COROUTINE: u32 = 0x80;

/// Whether to call it runs nothing of the plugin's and gives a coroutine: an `async def`, also as the method of
/// an object. Whatever else says that it is one (`functools.partial`, `markcoroutinefunction`) may run for a
/// while before it returns, which only the request's own thread may do. Asked at each call, for the name
/// may be bound to something else by then, and even the function's code may be another.
fn is_async_def(callback: &Bound<'_, PyAny>) -> bool {
    static METHOD: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = callback.py();
    let flags = |function: &Bound<'_, PyAny>| -> PyResult<u32> {
        let code = function.getattr(intern!(py, "__code__"))?;
        code.getattr(intern!(py, "co_flags"))?.extract()
    };
    let asked = if callback.is_exact_instance_of::<PyFunction>() {
        flags(callback)
    } else {
        METHOD.import(py, "types", "MethodType").and_then(|method| {
            if !callback.get_type().is(method) {
                return Ok(0);
            }
            let function = callback.getattr(intern!(py, "__func__"))?;
            if function.is_exact_instance_of::<PyFunction>() {
                return flags(&function);
            }
            Ok(0)
        })
    };
    asked.is_ok_and(|flags| flags & IS_COROUTINE != 0)
}

impl Job for Transfer {
    fn begin(&mut self, py: Python<'_>) -> std::result::Result<Option<Begun>, Error> {
        let caller = Arc::clone(&self.caller);
        let name = self.name();
        let _entered = caller.connection.enter();
        module::clear_error();
        let callback = caller.find(py, name)?;
        if !is_async_def(&callback) {
            return Ok(None);
        }
        let failed = |error| caller.error(name, Errno::IO, exceptions::describe(py, error));
        let Memory::Here(lent) = std::mem::replace(&mut self.memory, Memory::Gone) else {
            return Err(caller.error(name, Errno::IO, "begun twice"));
        };
        let lending = Lending::begin(py, lent).map_err(failed)?;
        let calling = Py::new(py, caller.connection.calling()).map_err(failed)?;
        self.calling = Some(calling.clone_ref(py));
        self.since = caller.stopwatch.as_ref().map(|_| Instant::now());
        let (handle, view) = (caller.handle.bind(py), lending.view(py));
        let flags = if self.reads { 0 } else { self.flags.bits() };
        let returned = callback.call1((handle, view, self.at, flags));
        self.memory = Memory::WithPython(lending);
        match returned {
            Ok(coroutine) => Ok(Some((calling, coroutine.unbind()))),
            Err(error) => {
                self.count();
                let failed = Err(caller.raised(py, name, error));
                self.take_back(py, failed).map(|()| None)
            }
        }
    }

    fn end(mut self: Box<Self>, py: Python<'_>, outcome: Outcome) -> Result {
        let caller = Arc::clone(&self.caller);
        let _entered = caller.connection.enter();
        module::clear_error();
        if let Some(calling) = self.calling.take() {
            calling.get().take_over();
        }
        self.count();
        let returned = outcome.map(|value| value.into_bound(py));
        let outcome = caller.outcome(py, self.name(), returned);
        self.take_back(py, outcome)
    }
}
