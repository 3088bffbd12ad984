//! What can be told about a script before any of its callbacks is called: what cannot work is
//! refused, what is probably not meant is warned of.

use std::ffi::CString;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyModule, PyTuple};

use super::callbacks::Callback;
use super::findings::Finding;
use super::script::{Api, Script};
use crate::Refusal;

/// The rules about the text of a script.
const SOURCE: &str = include_str!("source.py");

/// Refuse callbacks that cannot be called as nbdkit calls them, and warn of what is probably not
/// meant.
pub(super) fn check(py: Python<'_>, script: &Script, source: &[u8]) -> Result<(), Refusal> {
    refuse(py, script)?;
    match look(py, script, source) {
        Ok(found) => {
            for finding in found {
                script.find_fault(finding);
            }
        }
        // A plugin must not fail because of what only looks at it.
        Err(error) => log::debug!(
            "{}: the script was not looked at: {}",
            script.path,
            super::exceptions::describe(py, error)
        ),
    }
    Ok(())
}

fn refuse(py: Python<'_>, script: &Script) -> Result<(), Refusal> {
    let failed =
        |error: PyErr| Refusal::about(&script.path, super::exceptions::describe(py, error));
    let inspect = py.import("inspect").map_err(failed)?;
    for callback in Callback::all() {
        let Some(found) = script.find(py, callback) else {
            continue;
        };
        let (version, other) = match script.api {
            Api::V1 => (1, Api::V2),
            Api::V2 => (2, Api::V1),
        };
        let (args, others) = (callback.args(script.api), callback.args(other));
        let is = |question: &str| -> bool {
            let answer = inspect.call_method1(question, (&found,));
            answer
                .and_then(|answer| answer.is_truthy())
                .unwrap_or(false)
        };
        let refuse = |what: &str| {
            let place = line(&found).map_or_else(String::new, |line| format!(" (line {line})"));
            script.refuse(callback, format_args!("{what}{place}"))
        };
        if is("isasyncgenfunction") {
            return Err(refuse(
                "an `async def` with `yield` in it cannot be awaited: return a list",
            ));
        }
        if callback.returns_nothing() && is("isgeneratorfunction") {
            return Err(refuse("a callback with `yield` in it never runs"));
        }
        if !accepts(&inspect, &found, args) {
            let refusal = refuse(&format!(
                "API version {version} calls it as `{callback}({args})`, which it does not accept"
            ));
            if version == 1 && accepts(&inspect, &found, others) {
                return Err(refusal.hint(format!(
                    "version 2 calls it as `{callback}({others})`: add `API_VERSION = 2`"
                )));
            }
            return Err(refusal);
        }
    }
    Ok(())
}

/// The line of the script in which a callback begins, if it is a function.
pub(super) fn line(callback: &Bound<'_, PyAny>) -> Option<u32> {
    let py = callback.py();
    let code = callback.getattr_opt(intern!(py, "__code__")).ok()??;
    code.getattr(intern!(py, "co_firstlineno"))
        .ok()?
        .extract()
        .ok()
}

/// The lines in which the callbacks of a script begin.
pub(super) fn lines(py: Python<'_>, script: &Script) -> Vec<(String, u32)> {
    Callback::all()
        .filter_map(|callback| {
            let found = script.find(py, callback)?;
            Some((callback.name().to_owned(), line(&found)?))
        })
        .collect()
}

/// Apply the rules about the text.
fn look(py: Python<'_>, script: &Script, source: &[u8]) -> PyResult<Vec<Finding>> {
    let code = CString::new(SOURCE)?;
    let rules = PyModule::from_code(py, &code, c"pydisk/lint.py", c"_pydisk_lint")?;
    // It is not for plugins to import.
    py.import("sys")?
        .getattr("modules")?
        .del_item("_pydisk_lint")?;
    let defined = PyDict::new(py);
    for callback in Callback::all() {
        if let Some(callable) = script.has(py, callback) {
            defined.set_item(callback.python_name(py), callable)?;
        }
    }
    let names: Vec<_> = Callback::all().map(|each| each.python_name(py)).collect();
    let names = PyTuple::new(py, names)?;
    let version = if script.api == Api::V1 { 1 } else { 2 };
    let bytes = pyo3::types::PyBytes::new(py, source);
    let found = rules
        .getattr("findings")?
        .call1((bytes, defined, names, version))?;
    let found: Vec<(u32, String, String)> = found.extract()?;
    let found = found.into_iter();
    Ok(found
        .map(|(line, name, text)| Finding {
            line: Some(line),
            name,
            text,
        })
        .collect())
}

/// Whether `callback` can be called with these arguments. What has no signature to look at may.
///
/// A decorated function is judged by the arguments of what stands in its place, not by those of the
/// function that it wraps: a decorator may well add some.
fn accepts(inspect: &Bound<'_, PyModule>, callback: &Bound<'_, PyAny>, args: &str) -> bool {
    let options = [("follow_wrapped", false)].into_py_dict(inspect.py());
    let signature = options.and_then(|options| {
        let signature = inspect.getattr("signature")?;
        signature.call((callback,), Some(&options))
    });
    let Ok(signature) = signature else {
        return true;
    };
    let count = args.split(", ").filter(|arg| !arg.is_empty()).count();
    let values = PyTuple::new(inspect.py(), std::iter::repeat_n(0, count));
    values
        .and_then(|values| signature.call_method1("bind", values))
        .is_ok()
}

/// The callbacks that a script defines, in nbdkit's order of calls.
pub(super) fn defined(py: Python<'_>, script: &Script) -> Vec<Callback> {
    Callback::all()
        .filter(|callback| script.find(py, *callback).is_some())
        .collect()
}

/// The callbacks of a script that are coroutines.
pub(super) fn coroutines(py: Python<'_>, script: &Script) -> Vec<Callback> {
    let Ok(inspect) = py.import("inspect") else {
        return Vec::new();
    };
    let is_coroutine = |callback: &Callback| {
        let found = script.find(py, *callback)?;
        let answer = inspect.call_method1("iscoroutinefunction", (found,));
        answer.ok()?.is_truthy().ok()
    };
    Callback::all()
        .filter(|callback| is_coroutine(callback).unwrap_or(false))
        .collect()
}
