//! What can be told about a script before any of its callbacks is called: what cannot work is
//! refused, what is probably not meant is warned of.

use std::ffi::CString;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyModule, PyString, PyTuple};

use super::findings::Finding;
use super::script::{Api, Script};
use crate::Refusal;

/// The arguments that each callback is called with, in API version 1 and 2.
const CALLBACKS: &[(&str, &str, &str)] = &[
    ("config", "key, value", "key, value"),
    ("config_complete", "", ""),
    ("thread_model", "", ""),
    ("get_ready", "", ""),
    ("after_fork", "", ""),
    ("cleanup", "", ""),
    ("dump_plugin", "", ""),
    ("preconnect", "readonly", "readonly"),
    ("list_exports", "readonly, is_tls", "readonly, is_tls"),
    ("default_export", "readonly, is_tls", "readonly, is_tls"),
    ("open", "readonly", "readonly"),
    ("close", "h", "h"),
    ("get_size", "h", "h"),
    ("block_size", "h", "h"),
    ("is_rotational", "h", "h"),
    ("can_write", "h", "h"),
    ("can_flush", "h", "h"),
    ("can_trim", "h", "h"),
    ("can_zero", "h", "h"),
    ("can_fast_zero", "h", "h"),
    ("can_extents", "h", "h"),
    ("can_multi_conn", "h", "h"),
    ("can_fua", "h", "h"),
    ("can_cache", "h", "h"),
    ("export_description", "h", "h"),
    ("pread", "h, count, offset", "h, buf, offset, flags"),
    ("pwrite", "h, buf, offset", "h, buf, offset, flags"),
    ("flush", "h", "h, flags"),
    ("trim", "h, count, offset", "h, count, offset, flags"),
    (
        "zero",
        "h, count, offset, may_trim",
        "h, count, offset, flags",
    ),
    (
        "cache",
        "h, count, offset, flags",
        "h, count, offset, flags",
    ),
    (
        "extents",
        "h, count, offset, flags",
        "h, count, offset, flags",
    ),
];

/// Callbacks whose return value says nothing, so that a generator would pass for success without a
/// line of it having run.
const NO_RESULT: &[&str] = &["pread", "pwrite", "flush", "trim", "zero", "cache"];

/// Callbacks that serve requests.
pub(super) const SERVING: &[&str] = &[
    "pread", "pwrite", "flush", "trim", "zero", "cache", "extents",
];

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
    let failed = |error: PyErr| {
        Refusal::new(format!(
            "{}: {}",
            script.path,
            super::exceptions::describe(py, error)
        ))
    };
    let inspect = py.import("inspect").map_err(failed)?;
    for (name, v1, v2) in CALLBACKS {
        let Some(callback) = script.find(py, &PyString::intern(py, name)) else {
            continue;
        };
        let (version, args, others) = match script.api {
            Api::V1 => (1, v1, v2),
            Api::V2 => (2, v2, v1),
        };
        let is = |question: &str| -> bool {
            let answer = inspect.call_method1(question, (&callback,));
            answer
                .and_then(|answer| answer.is_truthy())
                .unwrap_or(false)
        };
        let refuse = |what: &str| {
            let place = line(&callback).map_or_else(String::new, |line| format!(" (line {line})"));
            script.refuse(name, format_args!("{what}{place}"))
        };
        if is("isasyncgenfunction") {
            return Err(refuse(
                "an `async def` with `yield` in it cannot be awaited: return a list",
            ));
        }
        if NO_RESULT.contains(name) && is("isgeneratorfunction") {
            return Err(refuse("a callback with `yield` in it never runs"));
        }
        if !accepts(&inspect, &callback, args) {
            let refusal = refuse(&format!(
                "API version {version} calls it as `{name}({args})`, which it does not accept"
            ));
            if version == 1 && accepts(&inspect, &callback, others) {
                return Err(refusal.hint(format!(
                    "version 2 calls it as `{name}({others})`: add `API_VERSION = 2`"
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
    let names = CALLBACKS.iter().map(|(name, ..)| *name);
    names
        .filter_map(|name| {
            let callback = script.find(py, &PyString::intern(py, name))?;
            Some((name.to_owned(), line(&callback)?))
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
    for (name, ..) in CALLBACKS {
        if let Some(callable) = script.has(py, &PyString::intern(py, name)) {
            defined.set_item(name, callable)?;
        }
    }
    let names = PyTuple::new(py, CALLBACKS.iter().map(|(name, ..)| *name))?;
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
pub(super) fn defined(py: Python<'_>, script: &Script) -> Vec<&'static str> {
    let names = CALLBACKS.iter().map(|(name, ..)| *name);
    names
        .filter(|name| script.find(py, &PyString::intern(py, name)).is_some())
        .collect()
}

/// The callbacks of a script that are coroutines.
pub(super) fn coroutines(py: Python<'_>, script: &Script) -> Vec<&'static str> {
    let Ok(inspect) = py.import("inspect") else {
        return Vec::new();
    };
    let is_coroutine = |name: &&str| {
        let callback = script.find(py, &PyString::intern(py, name))?;
        let answer = inspect.call_method1("iscoroutinefunction", (callback,));
        answer.ok()?.is_truthy().ok()
    };
    let names = CALLBACKS.iter().map(|(name, ..)| *name);
    names
        .filter(|name| is_coroutine(name).unwrap_or(false))
        .collect()
}
