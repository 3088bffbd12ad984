//! What a plugin writes to the log, and what it may know for that.

use std::sync::OnceLock;
use std::time::SystemTime;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Bytes in a line of a dump.
const ROW: usize = 16;

fn say(line: &str) {
    log::debug!(
        "plugin: {}",
        line.escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'")
    );
}

/// Write a message to the log if pydisk runs with --verbose.
#[pyfunction]
pub(super) fn debug(msg: &str) -> PyResult<()> {
    if msg.contains('\0') {
        return Err(PyValueError::new_err("embedded null character"));
    }
    say(msg);
    Ok(())
}

/// Write bytes to the log in the usual form if pydisk runs with --verbose: prefix stands in front of
/// each line, start is the offset of the first byte.
#[pyfunction]
#[pyo3(signature = (buf, prefix = None, start = 0))]
pub(super) fn debug_hexdump(
    buf: &Bound<'_, PyAny>,
    prefix: Option<&str>,
    start: u64,
) -> PyResult<()> {
    let bytes = bytes(buf)?;
    if log::log_enabled!(log::Level::Debug) {
        for row in rows(&bytes, start) {
            say(&format!("{}{}", prefix.unwrap_or_default(), row.line()));
        }
    }
    Ok(())
}

/// As debug_hexdump, for two buffers of one length: lines that are the same stand behind a blank. Those
/// that differ stand one below the other behind - and +, the second with nothing but the bytes that differ.
/// Errors: RuntimeError if one is longer.
#[pyfunction]
#[pyo3(signature = (buf1, buf2, prefix = None, start = 0))]
pub(super) fn debug_hexdiff(
    buf1: &Bound<'_, PyAny>,
    buf2: &Bound<'_, PyAny>,
    prefix: Option<&str>,
    start: u64,
) -> PyResult<()> {
    let (old, new) = (bytes(buf1)?, bytes(buf2)?);
    if old.len() != new.len() {
        return Err(PyRuntimeError::new_err(
            "nbdkit.debug_hexdiff: buffers must have equal length",
        ));
    }
    if log::log_enabled!(log::Level::Debug) {
        for line in differences(&rows(&old, start), &rows(&new, start)) {
            say(&format!("{}{line}", prefix.unwrap_or_default()));
        }
    }
    Ok(())
}

/// The current time as text, to be put into messages: `2026-07-14 12:30:00.000001`, by UTC.
#[pyfunction]
pub(super) fn timestamp() -> String {
    let text = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    text.trim_end_matches('Z').replace('T', " ")
}

/// What the plugin is told to be called, once that was said.
static CALLED: OnceLock<Option<String>> = OnceLock::new();

/// Tell plugins what they are called from here on. Only the first call counts.
pub(in crate::python) fn go_by(name: Option<String>) {
    CALLED.get_or_init(|| name);
}

/// The name of the attachment, or of the server by nbdkit's --name; None where nobody gave it one.
#[pyfunction]
pub(super) fn name() -> Option<&'static str> {
    match CALLED.get() {
        Some(called) => called.as_deref(),
        None => Some(crate::logging::name()),
    }
}

/// Whether standard input and output may be used. They never may: pydisk uses them itself.
#[pyfunction]
pub(super) fn stdio_safe() -> bool {
    false
}

fn bytes(buf: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let memory = pyo3::types::PyMemoryView::from(buf)?;
    let flat = memory.call_method1("cast", ("B",))?;
    PyBuffer::<u8>::get(&flat)?.to_vec(buf.py())
}

/// The part of a dump that stands in one line.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// The offset of its first cell, a multiple of [`ROW`].
    at: u64,
    /// Those before the first byte and behind the last one are empty.
    cells: [Option<u8>; ROW],
}

impl Row {
    /// `00000010: 31 32 ..  39 ..  |12...|`
    fn line(&self) -> String {
        let mut hex = String::new();
        for (column, cell) in self.cells.iter().enumerate() {
            hex += match column {
                0 => "",
                8 => "  ",
                _ => " ",
            };
            hex += &cell.map_or_else(|| "  ".to_owned(), |byte| format!("{byte:02x}"));
        }
        let text: String = self.cells.iter().map(|cell| shown(*cell)).collect();
        format!("{:08x}: {hex}  |{text}|", self.at)
    }

    /// With nothing but what is not the same in the other one.
    fn beside(&self, other: &Self) -> Self {
        let cells = std::array::from_fn(|column| {
            self.cells[column].filter(|byte| other.cells[column] != Some(*byte))
        });
        Self { at: self.at, cells }
    }
}

/// A row for each 16 bytes, aligned to multiples of 16; one without a byte if there is none.
fn rows(bytes: &[u8], start: u64) -> Vec<Row> {
    let skipped = usize::try_from(start % ROW as u64).unwrap_or(0);
    let first = start - skipped as u64;
    let count = (skipped + bytes.len()).div_ceil(ROW).max(1);
    let row = |index: usize| Row {
        at: first.wrapping_add(index as u64 * ROW as u64),
        cells: std::array::from_fn(|column| {
            let place = (index * ROW + column).checked_sub(skipped)?;
            bytes.get(place).copied()
        }),
    };
    (0..count).map(row).collect()
}

fn shown(cell: Option<u8>) -> char {
    match cell {
        None => ' ',
        Some(byte @ 0x20..=0x7e) => byte.into(),
        Some(_) => '.',
    }
}

/// The lines of both, which have the same offsets.
fn differences(old: &[Row], new: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for (old, new) in old.iter().zip(new) {
        if old == new {
            lines.push(format!(" {}", old.line()));
            continue;
        }
        lines.push(format!("-{}", old.line()));
        lines.push(format!("+{}", new.beside(old).line()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(bytes: &[u8], start: u64) -> Vec<String> {
        rows(bytes, start).iter().map(Row::line).collect()
    }

    // As nbdkit 1.48 shows them.
    #[test]
    fn bytes_are_dumped_in_aligned_lines() {
        assert_eq!(
            dumped(b"hello", 0x1fffe),
            [
                "0001fff0:                                            68 65  |              he|",
                "00020000: 6c 6c 6f                                          |llo             |",
            ]
        );
        assert_eq!(
            dumped(b"\x00123456781234567\n", 1 << 40),
            [
                "10000000000: 00 31 32 33 34 35 36 37  38 31 32 33 34 35 36 37  |.123456781234567|",
                "10000000010: 0a                                                |.               |",
            ]
        );
        assert_eq!(
            dumped(b"", 3),
            ["00000000:                                                   |                |"]
        );
        assert_eq!(
            dumped(b"x", u64::MAX),
            [
                "fffffffffffffff0:                                               78  |               x|"
            ]
        );
    }

    #[test]
    fn of_lines_that_differ_the_second_shows_only_the_bytes_that_do() {
        let mut new = [0; 36];
        let old = rows(&new, 0);
        new[2] = 1;
        new[35] = 0x41;
        assert_eq!(
            differences(&old, &rows(&new, 0)),
            [
                "-00000000: 00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
                "+00000000:       01                                          |  .             |",
                " 00000010: 00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|",
                "-00000020: 00 00 00 00                                       |....            |",
                "+00000020:          41                                       |   A            |",
            ]
        );
    }

    #[test]
    fn the_time_is_written_as_nbdkit_does() {
        let text = timestamp();
        let parts: Vec<_> = text.split([' ', '-', ':', '.']).map(str::len).collect();
        assert_eq!(parts, [4, 2, 2, 2, 2, 2, 6], "{text}");
    }
}
