//! Passwords, which do not belong on a command line: from a file, from a descriptor that the user
//! passed along, or from the terminal.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};

use super::unable;
use crate::refusal::words;

/// Longest password; a device as a password file would go on for ever.
const LONGEST: u64 = 64 << 10;

/// The descriptors that were passed to this process, where that was looked at in time.
static PASSED: OnceLock<BTreeSet<i32>> = OnceLock::new();

/// Look which descriptors were passed to this process: those that close when a program is started
/// are its own. Called before anything else, lest `-FD` should take one of those.
pub(in crate::python) fn remember_descriptors() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = entries.flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let passed = numbers.filter(|number| *number > 2 && is_passed(*number));
    PASSED.get_or_init(|| passed.collect());
}

/// Let `-FD` take no descriptors but these.
pub(in crate::python) fn allow_descriptors(numbers: &[i32]) {
    PASSED.get_or_init(|| numbers.iter().copied().collect());
}

/// Whether a descriptor stays open when a program is started.
fn is_passed(number: i32) -> bool {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    let closes = rustix::fs::OFlags::CLOEXEC.bits();
    flags.is_some_and(|flags| flags & closes == 0)
}

/// The password that a parameter means: "-" asks at the terminal, "-FD" reads a line from a
/// descriptor and closes it, "+FILE" reads the first line of a file, anything else is the password.
/// Errors: ValueError.
#[pyfunction]
pub(super) fn read_password<'py>(py: Python<'py>, value: &str) -> PyResult<Bound<'py, PyBytes>> {
    let refused = |cause: String| unable("parse parameter as a password", cause);
    if value == "-" {
        let line = py.detach(ask).map_err(&refused)?;
        return Ok(PyBytes::new(py, &line));
    }
    if let Some(number) = value.strip_prefix('-') {
        let number = descriptor(number).map_err(refused)?;
        return from_descriptor(py, number)
            .map_err(|error| refused(format!("descriptor {number}: {}", error.value(py))));
    }
    if let Some(path) = value.strip_prefix('+') {
        let line = py.detach(|| from_file(Path::new(path)));
        let line = line.map_err(|error| refused(format!("`{path}`: {error}")))?;
        return Ok(PyBytes::new(py, &line));
    }
    Ok(PyBytes::new(py, value.as_bytes()))
}

fn descriptor(text: &str) -> Result<i32, String> {
    let number = text.parse::<i32>().ok().filter(|number| *number >= 0);
    let number = number.ok_or_else(|| format!("`-{text}`: a descriptor's number is expected"))?;
    if number <= 2 {
        return Err(format!(
            "descriptor {number} is standard input, output or error: pass another one"
        ));
    }
    if PASSED.get().is_some_and(|passed| !passed.contains(&number)) {
        return Err(format!("descriptor {number} was not passed to pydisk"));
    }
    Ok(number)
}

/// Through Python, which owns no descriptor and takes any.
fn from_descriptor(py: Python<'_>, number: i32) -> PyResult<Bound<'_, PyBytes>> {
    let os = py.import("os")?;
    let mut line = Vec::new();
    let outcome = loop {
        let byte = os.call_method1("read", (number, 1))?;
        let byte = byte.cast_into::<PyBytes>()?;
        match byte.as_bytes() {
            [] | [b'\n'] => break Ok(()),
            _ if line.len() as u64 >= LONGEST => {
                break Err(unable("read it", "the line is too long"));
            }
            bytes => line.extend_from_slice(bytes),
        }
    };
    os.call_method1("close", (number,))?;
    outcome.map(|()| PyBytes::new(py, &line))
}

fn from_file(path: &Path) -> std::io::Result<Vec<u8>> {
    first_line(File::open(path)?)
}

/// The first line without its end; nothing at the end of the file, as in nbdkit.
fn first_line(file: impl Read) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(file.take(LONGEST + 1)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() as u64 > LONGEST {
        return Err(std::io::Error::other("the line is too long"));
    }
    Ok(line)
}

/// Ask at the terminal that standard error is; standard input belongs to pydisk.
fn ask() -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("the terminal: {}", words(error));
    if !isatty(rustix::stdio::stderr()) {
        return Err("standard error is no terminal to ask at".to_owned());
    }
    let terminal = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
        .open("/proc/self/fd/2")
        .map_err(failed)?;
    let silent = Silent::new(terminal.as_fd()).map_err(|error| failed(error.into()))?;
    (&terminal).write_all(b"password: ").map_err(failed)?;
    let line = first_line(&terminal).map_err(failed);
    drop(silent);
    (&terminal).write_all(b"\n").map_err(failed)?;
    line
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent<'a> {
    terminal: std::os::fd::BorrowedFd<'a>,
    before: rustix::termios::Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: std::os::fd::BorrowedFd<'a>) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(self.terminal, OptionalActions::Flush, &self.before) {
            log::warn!("the terminal goes on without showing what is typed: {error}");
        }
    }
}
