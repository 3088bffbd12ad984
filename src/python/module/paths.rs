//! Paths that go on to mean the same after the process has left its folder. nbdkit has them for C
//! only; Python's own `os.path` does the same.

use pyo3::prelude::*;

fn path<'py>(name: &str, path: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let module = path.py().import("os.path")?;
    let text = module.py().import("os")?.call_method1("fspath", (path,))?;
    module.call_method1(name, (text,))
}

/// The path with the current folder in front of it, if it is relative. It need not exist.
#[pyfunction(name = "absolute_path")]
pub(super) fn absolute_path<'py>(path: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    self::path("abspath", path)
}

/// The path without links in it. Errors: OSError if it does not exist.
#[pyfunction]
pub(super) fn realpath<'py>(path: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let found = self::path("abspath", path)?;
    found.py().import("os")?.call_method1("stat", (&found,))?;
    self::path("realpath", &found)
}
