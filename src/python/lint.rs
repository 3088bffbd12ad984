//! What can be told about a script's callbacks before any of them is called.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyString, PyTuple};

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

/// Callbacks whose return value says nothing, so that a coroutine or a generator would pass for
/// success without a line of it having run.
const NO_RESULT: &[&str] = &["pread", "pwrite", "flush", "trim", "zero", "cache"];

/// Refuse callbacks that cannot be called as nbdkit calls them.
pub(super) fn check(py: Python<'_>, script: &Script) -> Result<(), Refusal> {
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
        let (version, args) = match script.api {
            Api::V1 => (1, v1),
            Api::V2 => (2, v2),
        };
        let is = |question: &str| -> bool {
            let answer = inspect.call_method1(question, (&callback,));
            answer
                .and_then(|answer| answer.is_truthy())
                .unwrap_or(false)
        };
        if is("iscoroutinefunction") {
            return Err(script.refuse(name, "`async def` callbacks are not supported"));
        }
        if NO_RESULT.contains(name) && (is("isgeneratorfunction") || is("isasyncgenfunction")) {
            return Err(script.refuse(name, "a callback with `yield` in it never runs"));
        }
        if !accepts(&inspect, &callback, args) {
            return Err(script.refuse(
                name,
                format_args!(
                    "API version {version} calls it as `{name}({args})`, which it does not accept"
                ),
            ));
        }
    }
    Ok(())
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
