//! A Python exception in words: one line that says what happened, and the traceback below it.
//!
//! The words are the plugin's, and may be anything: whatever is no text is replaced, what would move
//! the cursor of a terminal is escaped, and what is too long for a log is cut.

use std::fmt::Write;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use crate::escape;

/// Most bytes of a description; what is longer loses its middle.
const LONGEST: usize = 32 << 10;

/// Most bytes of a value that a message shows.
const LONGEST_VALUE: usize = 200;

/// `OSError: [Errno 28] No space left on device`, and then the traceback, if there is one.
///
/// Never fails, whatever the exception: text that Python cannot produce or that is no Unicode is
/// replaced. The exception is dropped with its frames, so that it keeps nothing alive.
pub(super) fn describe(py: Python<'_>, error: PyErr) -> String {
    let line = one_line(py, &error);
    match traceback(py, error) {
        Some(traceback) => format!("{line}\n{}", tidy(traceback.trim_end(), LONGEST)),
        None => line,
    }
}

/// A fault in the text of a script, as Python shows it: file, line, text and a caret below what is wrong.
/// Nothing ran, so there is no traceback.
pub(super) fn describe_syntax(py: Python<'_>, error: &PyErr) -> String {
    let line = one_line(py, error);
    let shown = py
        .import(pyo3::intern!(py, "traceback"))
        .and_then(|module| {
            let args = (error.get_type(py), error.value(py));
            module.call_method1("format_exception_only", args)
        });
    let shown: Vec<String> = shown.and_then(|lines| lines.extract()).unwrap_or_default();
    // The last one is the sentence once more.
    match shown.split_last() {
        Some((_, place)) if !place.is_empty() => {
            format!("{line}\n{}", tidy(place.concat().trim_end(), LONGEST))
        }
        _ => line,
    }
}

/// A value as a message shows it.
pub(super) fn shown(value: &Bound<'_, PyAny>) -> String {
    match value.repr() {
        Ok(text) => format!("`{}`", tidy(&lossy(&text), LONGEST_VALUE)),
        Err(_) => "something odd".to_owned(),
    }
}

/// The type and message of an exception, the first line of a longer message only.
pub(super) fn one_line(py: Python<'_>, error: &PyErr) -> String {
    let value = error.value(py);
    let name = match value.get_type().name() {
        Ok(name) => tidy(&lossy(&name), LONGEST_VALUE),
        Err(_) => "exception".to_owned(),
    };
    let message = match value.str() {
        Ok(message) => lossy(&message),
        Err(_) => "<exception str() failed>".to_owned(),
    };
    match message.lines().next() {
        Some(first) if !first.is_empty() => format!("{name}: {}", tidy(first, LONGEST)),
        _ => name,
    }
}

/// The file of the function that raised it, or that called what is not written in Python and raised it.
pub(super) fn raised_in(py: Python<'_>, error: &PyErr) -> Option<String> {
    let mut innermost = error.traceback(py)?.into_any();
    while let Some(next) = innermost.getattr("tb_next").ok().filter(|it| !it.is_none()) {
        innermost = next;
    }
    let code = innermost
        .getattr("tb_frame")
        .and_then(|frame| frame.getattr("f_code"));
    code.and_then(|code| code.getattr("co_filename")?.extract())
        .ok()
}

/// What `traceback.format_exception` says; nothing for an exception that no Python frame raised.
fn traceback(py: Python<'_>, error: PyErr) -> Option<String> {
    error.traceback(py)?;
    let error = error.into_value(py);
    let lines = py
        .import(pyo3::intern!(py, "traceback"))
        .and_then(|module| module.call_method1("format_exception", (&error,)));
    // Python adds to the traceback of an exception that is raised again, by a plugin that has one for
    // all failures or a future that remembers its own: it would grow with each request.
    let forgotten = error.setattr(py, pyo3::intern!(py, "__traceback__"), py.None());
    if let Err(refused) = forgotten {
        log::debug!("an exception keeps its traceback: {refused}");
    }
    let lines = lines.ok()?;
    let lines = lines.cast_into::<PyList>().ok()?;
    Some(
        lines
            .iter()
            .filter_map(|line| line.cast_into().ok().map(|line| lossy(&line)))
            .collect(),
    )
}

/// Text as a log can hold it: without its middle where it has more than `longest` bytes, and with
/// control characters escaped, but for line ends and tabs.
fn tidy(text: &str, longest: usize) -> String {
    let middle = (text.len() > longest).then(|| {
        let head = text.floor_char_boundary(longest / 4 * 3);
        let tail = text.ceil_char_boundary(text.len() - longest / 4);
        (&text[..head], tail - head, &text[tail..])
    });
    let (head, cut, tail) = middle.unwrap_or((text, 0, ""));
    let mut tidied = String::with_capacity(head.len() + tail.len());
    tidied.push_str(&escape::lines(head));
    if cut > 0 {
        write!(tidied, " [{cut} bytes left out] ").unwrap_or_default();
        tidied.push_str(&escape::lines(tail));
    }
    tidied
}

/// The text of a string that may hold lone surrogates.
pub(super) fn lossy(text: &Bound<'_, PyString>) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_loses_what_moves_a_cursor() {
        let odd = "a\x1b[2Jb\r\0\u{85}\n\tc\u{fffd}\u{e9}";
        assert_eq!(
            tidy(odd, LONGEST),
            "a\\u{1b}[2Jb\\r\\u{0}\\u{85}\n\tc\u{fffd}\u{e9}"
        );
    }

    #[test]
    fn long_text_loses_its_middle() {
        let long = "\u{e9}".repeat(1 << 20);
        let short = tidy(&long, 100);
        assert!(short.len() < 140, "{short}");
        assert!(short.starts_with("\u{e9}\u{e9}") && short.ends_with("\u{e9}"));
        assert!(short.contains(" [2097054 bytes left out] "), "{short}");
        assert_eq!(tidy("short", 5), "short");
    }
}
