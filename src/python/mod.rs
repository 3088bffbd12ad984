//! The Python host: loads a plugin into this process's interpreter and opens disks on it.
//!
//! Called by the worker, in this order: [`Plugin::load`], [`Plugin::configure`],
//! [`Plugin::get_ready`], [`Plugin::after_fork`], [`Plugin::open`] for one disk or
//! [`Plugin::exports`] for a server, dropping what was opened (closes it), [`Plugin::cleanup`].
//! `docs/nbdkit.md` says what each callback gets and may return.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;

use crate::disk::{Disk, Exports, Limits, OpenDisk};
use crate::{Refusal, ResultExt};

mod buffer;
mod callbacks;
mod capabilities;
mod coroutines;
mod docs;
mod doing;
mod errnos;
mod exceptions;
mod exports;
mod extents;
mod findings;
mod forks;
mod handle;
mod hints;
mod homed;
mod interpreter;
mod lint;
mod module;
mod script;
mod stopwatch;
mod turns;
mod writable;

use crate::params::ErrnoSource;
use callbacks::Callback;
pub use doing::{Busy, busy};
use exports::{Offered, Visitor};
pub use findings::Finding;
use homed::Homed;
use script::{Api, Script};
pub use stopwatch::Stopwatch;
use turns::Turns;
pub use writable::writable_by_all;

/// Look which descriptors were passed to this process, so that `nbdkit.read_password` takes no other.
/// To be called before anything is opened.
pub fn remember_descriptors() {
    module::remember_descriptors();
}

/// Have `nbdkit.name()` say this from here on; without a call, it is the name at the head of log lines.
pub fn go_by(name: Option<String>) {
    module::go_by(name);
}

/// Let `nbdkit.read_password` take no descriptors but these, which nobody in this process owns.
pub fn allow_descriptors(numbers: &[i32]) {
    module::allow_descriptors(numbers);
}

/// A plugin script in the interpreter of this process; there is at most one.
#[derive(Debug)]
pub struct Plugin {
    script: Script,
    /// The callbacks that were `async def` when the script was loaded.
    coroutines: Vec<Callback>,
    turns: OnceLock<Arc<Turns>>,
    /// What the user asked for, in place of what the script asks for.
    errnos: OnceLock<ErrnoSource>,
    /// Of the handles that are opened after it was asked for.
    stopwatch: OnceLock<Arc<Stopwatch>>,
    cleaned: AtomicBool,
}

/// What a plugin says of itself.
#[derive(Debug)]
pub struct Dump {
    /// Which callbacks may overlap.
    pub thread_model: ThreadModel,
    /// The version of Python.
    pub python: String,
    /// What its `dump_plugin` printed.
    pub own: String,
}

/// The version of Python, where no plugin is loaded.
///
/// # Errors
/// One sentence, if there is no interpreter.
pub fn version() -> Result<String, Refusal> {
    interpreter::start()?;
    Ok(Python::attach(python_version))
}

/// As [`Plugin::info`] shows callbacks.
fn names(callbacks: &[Callback]) -> String {
    let names: Vec<_> = callbacks.iter().map(|callback| callback.name()).collect();
    names.join(" ")
}

fn python_version(py: Python<'_>) -> String {
    let version = py.version_info();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

/// Which callbacks may overlap; nbdkit's names and order, from strict to free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadModel {
    /// One connection at a time.
    SerializeConnections,
    /// One callback at a time in the whole process; the default.
    SerializeAllRequests,
    /// One callback at a time for each open handle.
    SerializeRequests,
    /// Any number.
    Parallel,
}

impl ThreadModel {
    /// nbdkit's name of the model.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SerializeConnections => "serialize_connections",
            Self::SerializeAllRequests => "serialize_all_requests",
            Self::SerializeRequests => "serialize_requests",
            Self::Parallel => "parallel",
        }
    }
}

impl Plugin {
    /// Start the interpreter and run the script.
    ///
    /// # Errors
    /// One sentence: no such file, a Python error (with its traceback), a missing callback, a
    /// callback that takes other arguments, an unknown API version or `PYDISK_ERRNO`.
    pub fn load(script: &Path) -> Result<Arc<Self>, Refusal> {
        interpreter::start()?;
        Python::attach(|py| {
            let script = Script::run(py, script)?;
            Ok(Arc::new(Self {
                coroutines: lint::coroutines(py, &script),
                script,
                turns: OnceLock::new(),
                errnos: OnceLock::new(),
                stopwatch: OnceLock::new(),
                cleaned: AtomicBool::new(false),
            }))
        })
    }

    /// Measure the time inside callbacks from here on, of handles that are opened later.
    pub fn measure(&self) -> Arc<Stopwatch> {
        Arc::clone(self.stopwatch.get_or_init(Arc::default))
    }

    /// Hand each `key=value` to `config`, then call `config_complete` and `thread_model`.
    ///
    /// # Errors
    /// One sentence: a key that the plugin refuses, an exception, a bad thread model.
    pub fn configure(&self, params: &[(String, String)]) -> Result<(), Refusal> {
        Python::attach(|py| {
            self.config(py, params)?;
            self.complete(py)
        })
    }

    /// Every parameter was handed over.
    fn complete(&self, py: Python<'_>) -> Result<(), Refusal> {
        self.script.call(py, Callback::ConfigComplete, ())?;
        let turns = match self.ask_thread_model(py)? {
            None if self.is_async() => Turns::of_coroutines(self.coroutines.clone()),
            said => Turns::new(self.model(said)),
        };
        if self.turns.set(turns).is_err() {
            log::debug!("thread_model: asked twice, the first answer stands");
        }
        Ok(())
    }

    fn config(&self, py: Python<'_>, params: &[(String, String)]) -> Result<(), Refusal> {
        for (key, value) in params {
            let taken = self.script.call(py, Callback::Config, (key, value))?;
            if taken.is_none() {
                return Err(Refusal::about(
                    &self.script.path,
                    format_args!("this plugin takes no parameters, but got `{key}={value}`"),
                ));
            }
        }
        Ok(())
    }

    /// What `thread_model` says, if the plugin has it.
    fn ask_thread_model(&self, py: Python<'_>) -> Result<Option<ThreadModel>, Refusal> {
        let Some(answer) = self.script.call(py, Callback::ThreadModel, ())? else {
            return Ok(None);
        };
        match answer.extract::<i64>() {
            Ok(0) => Ok(Some(ThreadModel::SerializeConnections)),
            Ok(1) => Ok(Some(ThreadModel::SerializeAllRequests)),
            Ok(2) => Ok(Some(ThreadModel::SerializeRequests)),
            Ok(3..) => Ok(Some(ThreadModel::Parallel)),
            _ => Err(self.script.refuse(
                Callback::ThreadModel,
                format_args!(
                    "returned {}: one of the nbdkit.THREAD_MODEL_ constants is accepted",
                    exceptions::shown(&answer)
                ),
            )),
        }
    }

    /// Settle whose errno failures have, whatever the script asks for. Only the first call counts.
    pub fn settle_errnos(&self, errnos: ErrnoSource) {
        if self.errnos.set(errnos).is_err() {
            log::debug!("whose errno counts: settled twice, the first word stands");
        }
    }

    fn errnos(&self) -> ErrnoSource {
        self.errnos.get().copied().unwrap_or(self.script.errnos)
    }

    /// The model that a plugin has which says this.
    fn model(&self, said: Option<ThreadModel>) -> ThreadModel {
        said.unwrap_or(if self.is_async() {
            ThreadModel::Parallel
        } else {
            ThreadModel::SerializeAllRequests
        })
    }

    /// What was warned of so far: likely mistakes in the script, and answers that were odd.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.script.findings()
    }

    /// The lines in which the script's callbacks begin, by name, as far as they are known.
    #[must_use]
    pub fn lines(&self) -> Vec<(String, u32)> {
        Python::attach(|py| lint::lines(py, &self.script))
    }

    /// Whether any callback that serves requests is a coroutine: many requests may then wait at the same
    /// time, at little cost.
    #[must_use]
    pub fn is_async(&self) -> bool {
        self.coroutines.iter().any(|callback| callback.serves())
    }

    /// Whether this callback was a coroutine when the script was loaded.
    fn has_coroutine(&self, callback: Callback) -> bool {
        self.coroutines.contains(&callback)
    }

    /// Which callbacks may overlap; the default until [`Plugin::configure`] asked.
    #[must_use]
    pub fn thread_model(&self) -> ThreadModel {
        self.turns
            .get()
            .map_or(ThreadModel::SerializeAllRequests, |turns| turns.model())
    }

    fn turns(&self) -> &Arc<Turns> {
        self.turns.get_or_init(|| Turns::new(self.thread_model()))
    }

    /// Call `get_ready`: the last callback in the folder where the user started pydisk.
    ///
    /// # Errors
    /// One sentence with the exception.
    pub fn get_ready(&self) -> Result<(), Refusal> {
        Python::attach(|py| self.script.call(py, Callback::GetReady, ()).map(drop))
    }

    /// Call `after_fork`: from here on the plugin may start threads.
    ///
    /// # Errors
    /// One sentence with the exception.
    pub fn after_fork(&self) -> Result<(), Refusal> {
        Python::attach(|py| self.script.call(py, Callback::AfterFork, ()).map(drop))
    }

    /// Call `preconnect`, `default_export` and `open`, and ask the handle what it can do: the life of
    /// a client that asks for the default export. The disk closes the handle when dropped.
    ///
    /// The handle of a serialised plugin has a thread of its own, on which all of this happens, and
    /// the lane that serves it runs. Neither this nor the disk may be called inside Python then.
    ///
    /// # Errors
    /// One sentence: an exception, a size that is none, a capability of a wrong type.
    pub fn open(self: &Arc<Self>, read_only: bool) -> Result<Arc<dyn OpenDisk>, Refusal> {
        self.open_export("", read_only)
    }

    /// As [`Plugin::open`], for a client that asks for the export `name`.
    ///
    /// # Errors
    /// As [`Plugin::open`].
    pub fn open_export(
        self: &Arc<Self>,
        name: &str,
        read_only: bool,
    ) -> Result<Arc<dyn OpenDisk>, Refusal> {
        let open = || Visitor::welcome(Arc::clone(self), None, read_only)?.open(name, false);
        match self.thread_model() {
            ThreadModel::Parallel => Ok(Arc::new(open()?)),
            _ => Ok(Arc::new(Homed::open(open)?)),
        }
    }

    /// The plugin as a server offers it: each client gets a handle of its own.
    #[must_use]
    pub fn exports(self: &Arc<Self>, read_only: bool) -> Arc<dyn Exports> {
        Arc::new(Offered {
            plugin: Arc::clone(self),
            read_only,
        })
    }

    /// What `pydisk info` shows: facts by name, and at the end the lines that the plugin's own
    /// `dump_plugin` printed. `config_complete` was not called.
    ///
    /// # Errors
    /// As [`Plugin::dump`].
    pub fn info(&self, params: &[(String, String)]) -> Result<Vec<(String, String)>, Refusal> {
        let Dump {
            thread_model,
            python,
            own,
        } = self.dump(params)?;
        let callbacks = Python::attach(|py| names(&lint::defined(py, &self.script)));
        let api = match self.script.api {
            Api::V1 => "1",
            Api::V2 => "2",
        };
        let mut facts: Vec<(String, String)> = [
            ("path", self.script.path.clone()),
            ("api_version", api.to_owned()),
            ("thread_model", thread_model.word().to_owned()),
            ("callbacks", callbacks),
            ("async_callbacks", names(&self.coroutines)),
            ("python_version", python),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        facts.extend(Python::attach(|py| docs::facts(py, &self.script)));
        let own = own
            .lines()
            .map(|line| line.split_once('=').unwrap_or((line, "")));
        facts.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(facts)
    }

    /// The limits of the disk that it opens, after [`Plugin::info`]: it is opened for reading, and closed. Nothing
    /// may be called after this.
    ///
    /// # Errors
    /// As all that comes before a disk is open: above all, a parameter that is missing.
    pub fn limits(self: &Arc<Self>) -> Result<Limits, Refusal> {
        Python::attach(|py| self.complete(py))?;
        self.get_ready()?;
        std::env::set_current_dir("/").refuse("folder `/`")?;
        self.after_fork()?;
        let limits = self.open(true).map(|disk| disk.limits().clone());
        self.cleanup();
        limits
    }

    /// What the plugin says of itself, without serving it. It takes the place of
    /// [`Plugin::configure`]: as in nbdkit, `config` and `thread_model` are called before it,
    /// `config_complete` is not.
    ///
    /// # Errors
    /// One sentence, when one of them raised.
    pub fn dump(&self, params: &[(String, String)]) -> Result<Dump, Refusal> {
        Python::attach(|py| {
            self.config(py, params)?;
            Ok(Dump {
                thread_model: self.model(self.ask_thread_model(py)?),
                python: python_version(py),
                own: self.own_facts(py)?,
            })
        })
    }

    /// What `dump_plugin` prints.
    fn own_facts(&self, py: Python<'_>) -> Result<String, Refusal> {
        if self.script.find(py, Callback::DumpPlugin).is_none() {
            return Ok(String::new());
        }
        let failed = |error| {
            self.script
                .refuse(Callback::DumpPlugin, exceptions::describe(py, error))
        };
        let printed = py
            .import("io")
            .and_then(|io| io.call_method0("StringIO"))
            .map_err(failed)?;
        let sys = py.import("sys").map_err(failed)?;
        let stdout = sys.getattr("stdout").map_err(failed)?;
        sys.setattr("stdout", &printed).map_err(failed)?;
        let outcome = self.script.call(py, Callback::DumpPlugin, ());
        sys.setattr("stdout", stdout).map_err(failed)?;
        outcome?;
        printed
            .call_method0("getvalue")
            .and_then(|text| text.extract::<String>())
            .map_err(failed)
    }

    fn is_cleaned(&self) -> bool {
        self.cleaned.load(Ordering::Acquire)
    }

    /// Have `hook` called when the plugin calls `nbdkit.shutdown`, at once if it has already. Only the
    /// first hook counts; it may be called on any thread, several times, and must not wait.
    pub fn on_shutdown(&self, hook: impl Fn() + Send + Sync + 'static) {
        module::on_shutdown(Box::new(hook));
    }

    /// End every `nbdkit.nanosleep`, now and from here on: the end has begun. Safe to call while
    /// callbacks run.
    pub fn interrupt(&self) {
        module::interrupt_sleeps();
    }

    /// Call `cleanup` and Python's own exit functions, once. Nothing of the plugin is called
    /// afterwards, but threads that it started may still run until the process ends.
    pub fn cleanup(&self) {
        if self.cleaned.swap(true, Ordering::AcqRel) {
            return;
        }
        let _turn = self.turns().take(Callback::Cleanup);
        Python::attach(|py| {
            if let Err(refusal) = self.script.call(py, Callback::Cleanup, ()) {
                log::error!("{refusal}");
            }
            py.detach(coroutines::end);
            interpreter::run_exit_functions(py, &self.script.path);
        });
    }
}
