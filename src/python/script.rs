//! The plugin's file: run once as `__main__`, then asked for its callbacks by name at every call.

use std::fmt;
use std::path::Path;

use pyo3::exceptions::{PyOSError, PySyntaxError, PySystemExit, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::callbacks::Callback;
use super::doing::Doing;
use super::errnos;
use super::findings::{Finding, Findings};
use super::{coroutines, exceptions, forks, hints};
use crate::params::ErrnoSource;
use crate::{Kind, Refusal, ResultExt};

/// Which of nbdkit's two calling conventions a plugin follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    V1,
    V2,
}

/// A script that ran, and the rules by which its callbacks are found.
#[derive(Debug)]
pub(super) struct Script {
    /// As the user wrote it; the subject of every message.
    pub(super) path: String,
    pub(super) api: Api,
    /// Whose errno it wants failures to have.
    pub(super) errnos: ErrnoSource,
    main: Py<PyModule>,
    findings: Findings,
}

impl Script {
    /// Run the file as `__main__`, as `python file.py` would, and check what it must define.
    pub(super) fn run(py: Python<'_>, path: &Path) -> Result<Self, Refusal> {
        let name = path.to_string_lossy().into_owned();
        let source = std::fs::read(path).refuse_during(&name, "cannot open file")?;
        super::writable::warn(path);
        let main =
            execute(py, &name, path, &source).map_err(|error| top_level(py, &name, error))?;
        let mut script = Self {
            path: name,
            api: Api::V1,
            errnos: ErrnoSource::default(),
            main: main.unbind(),
            findings: Findings::default(),
        };
        script.require(py)?;
        script.api = script.declared_api(py)?;
        script.errnos = errnos::asked_for(script.main.bind(py))
            .map_err(|what| script.refuse("PYDISK_ERRNO", what))?
            .unwrap_or_default();
        super::lint::check(py, &script, &source)?;
        Ok(script)
    }

    /// A callback as its name is bound right now. What cannot be called counts as missing.
    pub(super) fn find<'py>(
        &self,
        py: Python<'py>,
        callback: Callback,
    ) -> Option<Bound<'py, PyAny>> {
        self.look_up(py, callback).unwrap_or_else(|error| {
            self.find_fault(Finding {
                line: None,
                name: callback.name().to_owned(),
                text: format!("counts as missing: {}", exceptions::one_line(py, &error)),
            });
            None
        })
    }

    /// As [`Script::find`].
    ///
    /// # Errors
    /// What the script's own way of looking a name up raised (`__getattr__`, a property).
    pub(super) fn look_up<'py>(
        &self,
        py: Python<'py>,
        callback: Callback,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let name = callback.python_name(py);
        let found = self.main.bind(py).as_any().getattr_opt(name)?;
        let callback = found.filter(|found| {
            let callable = found.is_callable();
            if !callable {
                log::debug!("{}: object `{callback}` is not callable", self.path);
            }
            callable
        });
        Ok(callback)
    }

    /// Whether what the script calls by the name of a callback can be called; none if it has no such name.
    pub(super) fn has(&self, py: Python<'_>, callback: Callback) -> Option<bool> {
        let name = callback.python_name(py);
        let found = self.main.bind(py).as_any().getattr_opt(name);
        found.ok()?.map(|found| found.is_callable())
    }

    /// Warn, once, of something that is probably not meant.
    pub(super) fn find_fault(&self, finding: Finding) {
        self.findings.add(&self.path, finding);
    }

    /// Warn, once, of what a callback does.
    pub(super) fn warn(&self, py: Python<'_>, callback: Callback, text: impl Into<String>) {
        let found = self.find(py, callback);
        self.find_fault(Finding {
            line: found.as_ref().and_then(super::lint::line),
            name: callback.name().to_owned(),
            text: text.into(),
        });
    }

    /// What the script says of itself in its docstring.
    pub(super) fn docstring(&self, py: Python<'_>) -> Option<String> {
        let text = self.main.bind(py).as_any().getattr_opt("__doc__");
        text.ok()??.extract().ok()
    }

    /// Everything that was warned of so far.
    pub(super) fn findings(&self) -> Vec<Finding> {
        self.findings.list()
    }

    /// Call a callback of the start or the end of the plugin's life, if the script has it, and await
    /// what can be awaited.
    pub(super) fn call<'py, A>(
        &self,
        py: Python<'py>,
        callback: Callback,
        args: A,
    ) -> Result<Option<Bound<'py, PyAny>>, Refusal>
    where
        A: pyo3::call::PyCallArgs<'py>,
    {
        let Some(found) = self.find(py, callback) else {
            return Ok(None);
        };
        let _doing = Doing::run(callback);
        let returned = found.call1(args);
        forks::end_child(py);
        let returned = returned.and_then(coroutines::outcome);
        returned
            .map(Some)
            .map_err(|error| self.failure(py, callback, error))
    }

    /// Why a callback of the start or the end failed.
    fn failure(&self, py: Python<'_>, callback: Callback, error: PyErr) -> Refusal {
        let line = self
            .is_about_its_parameters(py, callback, &error)
            .then(|| exceptions::one_line(py, &error));
        let hint = hints::hint(py, &self.path, Some(callback.name()), &error);
        let whole = exceptions::describe(py, error);
        let said = match line {
            Some(line) => {
                log::debug!("{}: {callback}: {whole}", self.path);
                line
            }
            None => whole,
        };
        let refusal = self.refuse(callback, said);
        match hint {
            Some(hint) => refusal.hint(hint),
            None => refusal,
        }
    }

    /// Whether an exception is what the script has to say of what it was given: it raised that itself, as a
    /// `ValueError`, or the system refused it a file. Where it did is of no use to anybody but its author.
    fn is_about_its_parameters(&self, py: Python<'_>, callback: Callback, error: &PyErr) -> bool {
        let said = match callback {
            Callback::Config | Callback::ConfigComplete => {
                error.is_instance_of::<PyValueError>(py) || error.is_instance_of::<PyOSError>(py)
            }
            Callback::Open => error.is_instance_of::<PyOSError>(py),
            _ => false,
        };
        said && exceptions::raised_in(py, error).is_some_and(|file| file == self.path)
    }

    /// A refusal whose subject is one name of this script, mostly a callback.
    pub(super) fn refuse(&self, name: impl fmt::Display, what: impl fmt::Display) -> Refusal {
        Refusal::about(&self.path, format_args!("{name}: {what}")).of_kind(Kind::Plugin)
    }

    fn require(&self, py: Python<'_>) -> Result<(), Refusal> {
        for callback in Callback::all().filter(|callback| callback.is_required()) {
            if self.find(py, callback).is_none() {
                return Err(self.refuse(
                    "one of the required callbacks `open`, `get_size` or `pread` is not defined",
                    format_args!("`{callback}` is missing"),
                ));
            }
        }
        Ok(())
    }

    fn declared_api(&self, py: Python<'_>) -> Result<Api, Refusal> {
        let Ok(Some(declared)) = self.main.bind(py).as_any().getattr_opt("API_VERSION") else {
            return Ok(Api::V1);
        };
        match declared.extract::<i64>() {
            Ok(1) => Ok(Api::V1),
            Ok(2) => Ok(Api::V2),
            _ => Err(self.refuse(
                format_args!("API_VERSION is {}", exceptions::shown(&declared)),
                "versions 1 and 2 are supported",
            )),
        }
    }
}

/// Compile and run `source` in a `__main__` with the same names as under `python file.py`.
fn execute<'py>(
    py: Python<'py>,
    name: &str,
    path: &Path,
    source: &[u8],
) -> PyResult<Bound<'py, PyModule>> {
    let main = py.import(intern!(py, "__main__"))?;
    main.setattr(intern!(py, "__file__"), path.as_os_str())?;
    let builtins = py.import(intern!(py, "builtins"))?;
    // Bytes, not text, so that a coding line and a byte order mark mean what they mean to Python.
    let code =
        builtins
            .getattr("compile")?
            .call1((PyBytes::new(py, source), name, "exec", 0, true))?;
    if let Err(error) = remember_lines(py, name, source) {
        log::debug!(
            "{name}: no lines in tracebacks: {}",
            exceptions::describe(py, error)
        );
    }
    let done = builtins.getattr("exec")?.call1((code, main.dict()));
    forks::end_child(py);
    done?;
    // As under nbdkit, `__main__` has no file from now on: multiprocessing would run that file again in each
    // process that it starts anew, where there is no nbdkit. Callbacks find the name where they look next.
    let file = intern!(py, "__file__");
    if let Some(path) = main.getattr_opt(file)? {
        main.delattr(file)?;
        builtins.setattr(file, path)?;
    }
    Ok(main)
}

/// Let tracebacks show the script as it was when it ran, without looking at the file: that may have
/// changed by then, or lie on the very disk that waits for this exception.
fn remember_lines(py: Python<'_>, name: &str, source: &[u8]) -> PyResult<()> {
    let text = py
        .import("importlib.util")?
        .call_method1("decode_source", (PyBytes::new(py, source),))?;
    let lines = py
        .import("io")?
        .call_method1("StringIO", (&text,))?
        .call_method0("readlines")?;
    // An entry without a time is never compared with the file.
    let entry = (source.len(), py.None(), lines, name);
    py.import("linecache")?
        .getattr("cache")?
        .set_item(name, entry)
}

/// Why a script failed while it ran: what is wrong with its text, a traceback, or what it passed to `sys.exit`.
fn top_level(py: Python<'_>, name: &str, error: PyErr) -> Refusal {
    if error.is_instance_of::<PySystemExit>(py) {
        let line = exceptions::one_line(py, &error);
        return Refusal::about(name, format_args!("the script ended itself: {line}"))
            .of_kind(Kind::Plugin);
    }
    let hint = hints::hint(py, name, None, &error);
    let is_of_text = error.is_instance_of::<PySyntaxError>(py) && error.traceback(py).is_none();
    let what = if is_of_text {
        exceptions::describe_syntax(py, &error)
    } else {
        exceptions::describe(py, error)
    };
    let refusal = Refusal::about(name, format_args!("error running this script: {what}"))
        .of_kind(Kind::Plugin);
    match hint {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}
