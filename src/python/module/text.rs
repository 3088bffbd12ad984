//! What a plugin writes to the log, and what it may know for that.

use std::time::SystemTime;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Bytes in a line of a dump.
const ROW: usize = 16;

fn say(line: &str) {
    log::debug!(
        "plugin: {}",
        line.escape_debug().to_string().replace("\\\"", "\"")
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

/// Write bytes to the log in the usual form if pydisk runs with --verbose: prefix and start stand in
/// front of each line, start is the offset of the first byte.
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
            say(&format!("{}{row}", prefix.unwrap_or_default()));
        }
    }
    Ok(())
}

/// As debug_hexdump, the lines of two buffers that differ, one below the other behind - and +.
#[pyfunction]
#[pyo3(signature = (buf1, buf2, prefix = None, start = 0))]
pub(super) fn debug_hexdiff(
    buf1: &Bound<'_, PyAny>,
    buf2: &Bound<'_, PyAny>,
    prefix: Option<&str>,
    start: u64,
) -> PyResult<()> {
    let (old, new) = (bytes(buf1)?, bytes(buf2)?);
    if log::log_enabled!(log::Level::Debug) {
        for line in differences(&rows(&old, start), &rows(&new, start)) {
            say(&format!("{}{line}", prefix.unwrap_or_default()));
        }
    }
    Ok(())
}

/// The current time as text, to be put into messages.
#[pyfunction]
pub(super) fn timestamp() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

/// The name of the attachment.
#[pyfunction]
pub(super) fn name() -> &'static str {
    crate::logging::name()
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

/// `00000010: 31 32 ..  39 ..  |12...|`, a line for each 16 bytes, aligned to multiples of 16.
fn rows(bytes: &[u8], start: u64) -> Vec<String> {
    let skipped = usize::try_from(start % ROW as u64).unwrap_or(0);
    let first = start - skipped as u64;
    let cells: Vec<Option<u8>> = std::iter::repeat_n(None, skipped)
        .chain(bytes.iter().copied().map(Some))
        .collect();
    let lines = cells.chunks(ROW).enumerate();
    lines
        .map(|(index, row)| {
            let mut hex = String::new();
            for column in 0..ROW {
                hex += match column {
                    0 => "",
                    8 => "  ",
                    _ => " ",
                };
                hex += &match row.get(column).copied().flatten() {
                    Some(byte) => format!("{byte:02x}"),
                    None => "  ".to_owned(),
                };
            }
            let text: String = row.iter().map(|cell| shown(*cell)).collect();
            let at = first.wrapping_add(index as u64 * ROW as u64);
            format!("{at:08x}: {hex}  |{text}|")
        })
        .collect()
}

fn shown(cell: Option<u8>) -> char {
    match cell {
        None => ' ',
        Some(byte @ 0x20..=0x7e) => byte.into(),
        Some(_) => '.',
    }
}

/// The lines that are not the same in both.
fn differences(old: &[String], new: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for index in 0..old.len().max(new.len()) {
        let (old, new) = (old.get(index), new.get(index));
        if old == new {
            continue;
        }
        found.extend(old.map(|line| format!("-{line}")));
        found.extend(new.map(|line| format!("+{line}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_dumped_in_aligned_lines() {
        assert_eq!(
            rows(b"12345678123456781\n", 0),
            [
                "00000000: 31 32 33 34 35 36 37 38  31 32 33 34 35 36 37 38  |1234567812345678|",
                "00000010: 31 0a                                             |1.|",
            ]
        );
        assert_eq!(
            rows(b"ab", 0x1f),
            [
                "00000010:                                               61  |               a|",
                "00000020: 62                                                |b|",
            ]
        );
        assert!(rows(b"", 5).len() <= 1);
    }

    #[test]
    fn only_lines_that_differ_are_shown() {
        let mut new = [0; 48];
        let old = rows(&new, 0);
        assert!(differences(&old, &rows(&new, 0)).is_empty());
        new[20] = 1;
        let found = differences(&old, &rows(&new, 0));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("-00000010: 00") && found[1].starts_with("+00000010: 00"));
        assert_eq!(differences(&old, &old[..2]).len(), 1);
    }
}
