//! The event loop of `async def` callbacks: one thread that runs them all, made when the first one
//! is called.
//!
//! A request comes to the loop in one of two ways, and its thread waits outside of Python for both, so
//! that requests overlap as far as there are threads for them. As a [`Job`] the request is the loop's from
//! its start to its end, and its thread does not enter Python at all: with 64 threads and more that is
//! what would take the time. Otherwise the thread calls the callback and hands over what that returned,
//! if it can be awaited. Nothing is ever waited for on the loop's own thread.

use std::ffi::CString;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use pydisk_kernel::threads;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyInt, PyList, PyMemoryView, PyModule, PyString, PyTuple,
};

use super::exceptions;
use super::module::{self, Calling};
use crate::disk;

mod inbox;
mod promise;
mod queue;
mod ticket;
mod wake;

use inbox::{Inbox, Work};
use promise::Promise;
use queue::Queue;
use ticket::{Ticket, is_forgotten};
use wake::Wake;

/// The other side of this file.
const SOURCE: &str = include_str!("loop.py");

/// How long the loop may take to end. What its tasks do meanwhile has half of that.
const END: Duration = Duration::from_secs(5);

/// The one loop of this process, and whether it could be made.
static LOOP: OnceLock<Result<EventLoop, String>> = OnceLock::new();

/// Held while the loop is made, which happens inside Python; waited for outside of it.
static MAKING: Mutex<()> = Mutex::new(());

struct EventLoop {
    queue: Arc<Queue>,
    /// The thread, and who is told when it has left Python; taken by who waits for that.
    thread: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
}

/// Whom a coroutine is called for, and the coroutine.
pub(super) type Begun = (Py<Calling>, Py<PyAny>);

/// What the loop runs a coroutine in.
type TaskOfLoop = Py<PyAny>;

/// What a coroutine returned or raised.
pub(super) type Outcome = PyResult<Py<PyAny>>;

/// What a job came to; none if it is not for the loop.
type Served = Option<disk::Result>;

/// A request that the loop serves. Both are called inside Python, and wait for nothing.
pub(super) trait Job: Send {
    /// Call the callback; none if it is not for the loop. When this fails or gives none, nothing of the
    /// request's memory is left with Python.
    fn begin(&mut self, py: Python<'_>) -> Result<Option<Begun>, disk::Error>;

    /// What the request comes to that was begun.
    fn end(self: Box<Self>, py: Python<'_>, outcome: Outcome) -> disk::Result;
}

/// Have the loop serve `job`, and wait for that; none if it does not, or if there is no loop. Not
/// called inside Python.
pub(super) fn serve(job: Box<dyn Job>) -> Option<disk::Result> {
    let made = match LOOP.get() {
        Some(made) => made.as_ref().ok(),
        None => Python::attach(|py| started(py).ok()),
    };
    let queue = &made?.queue;
    let (promise, waiting) = Promise::of_job(job);
    if !queue.push(Work::Request(promise)) {
        return None;
    }
    while !waiting.wait() {
        if queue.is_dead() || Python::attach(|py| is_forgotten(&waiting, py)) {
            break;
        }
    }
    match waiting.served() {
        Ok(served) => served,
        Err(job) => {
            let why = if queue.is_dead() { dead } else { cancelled };
            Some(Python::attach(|py| match job {
                Some(job) => job.end(py, Err(why())),
                None => Err(disk::Error::new(
                    disk::Errno::IO,
                    "internal error on the event loop",
                )),
            }))
        }
    }
}

/// What `value`, which a callback returned, comes to: what awaiting it gives, if it can be awaited,
/// else itself.
///
/// # Errors
/// What the coroutine raised; RuntimeError if there is no event loop to run it on any more.
pub(super) fn outcome(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    if !is_awaitable(&value) {
        return Ok(value);
    }
    let py = value.py();
    let queue = &started(py)?.queue;
    let (promise, waiting) = Promise::new();
    let calling = Py::new(py, Calling::of_thread())?;
    let calling_for = calling.clone_ref(py);
    let task = (Py::new(py, Ticket::new(promise))?, calling, value.unbind());
    if !queue.push(Work::Task(task)) {
        return Err(dead());
    }
    while !py.detach(|| waiting.wait()) {
        if queue.is_dead() || is_forgotten(&waiting, py) {
            break;
        }
    }
    calling_for.get().take_over();
    match waiting.outcome() {
        Some(outcome) => outcome.map(|value| value.into_bound(py)),
        None if queue.is_dead() => Err(dead()),
        None => Err(cancelled()),
    }
}

/// Stop the loop, if there is one, and wait until its thread has ended, but not for ever.
pub(super) fn end() {
    let Some(Ok(event_loop)) = LOOP.get() else {
        return;
    };
    event_loop.queue.end();
    let Some((thread, ended)) = event_loop.thread.lock().take() else {
        return;
    };
    if ended.recv_timeout(END) == Err(RecvTimeoutError::Timeout) {
        log::warn!("the event loop does not end: something on it does not let others run");
        return;
    }
    if thread.join().is_err() {
        log::error!("the thread of the event loop panicked");
    }
}

fn dead() -> PyErr {
    PyRuntimeError::new_err("the event loop of this plugin has ended")
}

fn cancelled() -> PyErr {
    PyRuntimeError::new_err("the task was cancelled before it began")
}

/// Whether `await` takes it. The kinds that most callbacks return are known not to be.
fn is_awaitable(value: &Bound<'_, PyAny>) -> bool {
    let plain = value.is_none()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyByteArray>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PyMemoryView>();
    // As Python itself looks for it: at the type, not at the object.
    !plain && matches!(value.get_type().getattr_opt("__await__"), Ok(Some(_)))
}

/// The loop, which is made if there is none yet.
fn started(py: Python<'_>) -> PyResult<&'static EventLoop> {
    let made = match LOOP.get() {
        Some(made) => made,
        None => py.detach(|| {
            let _making = MAKING.lock();
            LOOP.get_or_init(|| {
                Python::attach(|py| make(py).map_err(|error| exceptions::describe(py, error)))
            })
        }),
    };
    made.as_ref().map_err(|why| {
        PyRuntimeError::new_err(format!("the event loop could not be started: {why}"))
    })
}

fn make(py: Python<'_>) -> PyResult<EventLoop> {
    let code = CString::new(SOURCE)?;
    let module = PyModule::from_code(py, &code, c"pydisk/loop.py", c"_pydisk_loop")?;
    // It is not for plugins to import.
    py.import("sys")?
        .getattr("modules")?
        .del_item("_pydisk_loop")?;
    module::look_in(py, module.getattr("CALLING")?.unbind());
    let queue = Arc::new(Queue::new(Wake::new()?));
    let inbox = Py::new(py, Inbox::new(Arc::clone(&queue)))?;
    let event_loop = module
        .getattr("new_loop")?
        .call1((inbox.clone_ref(py),))?
        .unbind();
    let run = module.getattr("run")?.unbind();
    let (sender, ended) = channel();
    let its = Arc::clone(&queue);
    let thread = threads::deep("asyncio").spawn(move || {
        Python::attach(|py| {
            let outcome = run.call1(py, (event_loop, inbox));
            its.dies();
            if let Err(error) = outcome {
                log::error!(
                    "the event loop has ended, and every request fails from here on: {}",
                    exceptions::describe(py, error)
                );
            }
        });
        sender.send(()).unwrap_or_default();
    })?;
    Ok(EventLoop {
        queue,
        thread: Mutex::new(Some((thread, ended))),
    })
}
