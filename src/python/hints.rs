//! What can be done about an exception of a plugin, where it can be told from the exception itself.

use std::path::{Path, PathBuf};

use pyo3::exceptions::{PyModuleNotFoundError, PyOSError};
use pyo3::prelude::*;

use super::exceptions;

/// What to do about `error`, which the plugin at `script` raised: in `callback`, or while it ran.
pub(super) fn hint(
    py: Python<'_>,
    script: &str,
    callback: Option<&str>,
    error: &PyErr,
) -> Option<String> {
    if error.is_instance_of::<PyModuleNotFoundError>(py) {
        return missing_module(py, script, error);
    }
    if error.is_instance_of::<PyOSError>(py) {
        return relative_path(py, callback?, error);
    }
    None
}

/// A module that is not installed, or lies where Python does not look.
fn missing_module(py: Python<'_>, script: &str, error: &PyErr) -> Option<String> {
    let name: String = error.value(py).getattr("name").ok()?.extract().ok()?;
    let top = name.split('.').next()?;
    let sys = py.import("sys").ok()?;
    // What is missing is a part of a package that is there.
    if sys.getattr("modules").ok()?.contains(top).ok()? {
        return None;
    }
    let beside = Path::new(script).with_file_name(top);
    if beside.is_dir() || beside.with_extension("py").is_file() {
        return Some(format!(
            "`{top}` lies beside the plugin, whose folder is not searched: \
             `sys.path.append(os.path.dirname(__file__))` before the import changes that"
        ));
    }
    let text = |name: &str| sys.getattr(name).ok()?.extract::<String>().ok();
    let of = text("executable").filter(|path| !path.is_empty());
    let of = of.or_else(|| text("prefix"))?;
    Some(format!(
        "install `{top}` for the Python that runs plugins, {} of `{of}`, or choose an environment that has it with \
         --python or VIRTUAL_ENV",
        super::python_version(py)
    ))
}

/// A path that meant something in the folder in which pydisk was started.
fn relative_path(py: Python<'_>, callback: &str, error: &PyErr) -> Option<String> {
    // Not where it is the number of a descriptor.
    let name = error.value(py).getattr("filename").ok()?;
    let name = py.import("os").ok()?.call_method1("fsdecode", (name,));
    let name: PathBuf = name.ok()?.extract().ok()?;
    let has_moved = std::env::current_dir().is_ok_and(|folder| folder == Path::new("/"));
    // A program that is not found in PATH is named in the same way.
    let by_subprocess = exceptions::raised_in(py, error).is_some_and(|file| {
        Path::new(&file)
            .file_name()
            .is_some_and(|name| name == "subprocess.py")
    });
    if !has_moved || by_subprocess || name.is_absolute() || name.as_os_str().is_empty() {
        return None;
    }
    Some(format!(
        "`{callback}` runs in the folder `/`: let `config`, which does not, make the path absolute by \
         `os.path.abspath(value)`"
    ))
}
