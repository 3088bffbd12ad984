//! A Python exception in words: one line that says what happened, and the traceback below it.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

/// `OSError: [Errno 28] No space left on device`, and then the traceback, if there is one.
///
/// Never fails, whatever the exception: text that Python cannot produce or that is no Unicode is
/// replaced. The exception is dropped with its frames, so that it keeps nothing alive.
pub(super) fn describe(py: Python<'_>, error: PyErr) -> String {
    let line = one_line(py, &error);
    match traceback(py, error) {
        Some(traceback) => format!("{line}\n{}", traceback.trim_end()),
        None => line,
    }
}

/// The type and message of an exception, the first line of a longer message only.
pub(super) fn one_line(py: Python<'_>, error: &PyErr) -> String {
    let value = error.value(py);
    let name = match value.get_type().name() {
        Ok(name) => lossy(&name),
        Err(_) => "exception".to_owned(),
    };
    let message = match value.str() {
        Ok(message) => lossy(&message),
        Err(_) => "<exception str() failed>".to_owned(),
    };
    match message.lines().next() {
        Some(first) if !first.is_empty() => format!("{name}: {first}"),
        _ => name,
    }
}

/// What `traceback.format_exception` says; nothing for an exception that no Python frame raised.
fn traceback(py: Python<'_>, error: PyErr) -> Option<String> {
    error.traceback(py)?;
    let lines = py
        .import(pyo3::intern!(py, "traceback"))
        .and_then(|module| module.call_method1("format_exception", (error.into_value(py),)))
        .ok()?;
    let lines = lines.cast_into::<PyList>().ok()?;
    Some(
        lines
            .iter()
            .filter_map(|line| line.cast_into().ok().map(|line| lossy(&line)))
            .collect(),
    )
}

/// The text of a string that may hold lone surrogates.
pub(super) fn lossy(text: &Bound<'_, PyString>) -> String {
    text.to_string_lossy().into_owned()
}
