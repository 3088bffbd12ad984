//! Which errno a callback that failed reports: the one that it chose by `nbdkit.set_error`; where the
//! plugin asked for it the exception's own; else `EIO`.

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use super::{exceptions, module};
use crate::disk::Errno;
use crate::params::ErrnoSource;

/// The last error number of Linux, `EHWPOISON`. Some above it mean something within the kernel only
/// (512 is "start this system call anew") and must not be answered.
const LAST_ERRNO: i32 = 133;

/// Exceptions that derive from `OSError`, but whose `errno` is a number of their library's: 1 means
/// "a certificate was refused" or "no such host" there, not `EPERM`.
const OTHER_NUMBERS: [(&str, &str); 3] = [
    ("ssl", "SSLError"),
    ("socket", "gaierror"),
    ("socket", "herror"),
];

/// What the script's `PYDISK_ERRNO` asks for; none if it has none.
///
/// # Errors
/// The value, as a message shows it, and what is accepted.
pub(super) fn asked_for(main: &Bound<'_, PyModule>) -> Result<Option<ErrnoSource>, String> {
    // A script whose own `__getattr__` raises for what it does not know asks for nothing.
    let asked = main
        .as_any()
        .getattr_opt(intern!(main.py(), "PYDISK_ERRNO"));
    let Ok(Some(asked)) = asked else {
        return Ok(None);
    };
    let word = asked.cast::<PyString>().ok().map(exceptions::lossy);
    let parsed = word.unwrap_or_default().parse();
    let refused = |accepted| format!("is {}: {accepted}", exceptions::shown(&asked));
    parsed.map(Some).map_err(refused)
}

/// The errno of what a callback on this thread raised.
pub(super) fn raised(source: ErrnoSource, py: Python<'_>, error: &PyErr) -> Errno {
    if module::chosen_error() != 0 || source == ErrnoSource::Nbdkit {
        return chosen();
    }
    own(error.value(py)).unwrap_or(Errno::IO)
}

/// The errno that the callback on this thread chose by `nbdkit.set_error`, else `EIO`.
pub(super) fn chosen() -> Errno {
    match module::chosen_error() {
        0 => Errno::IO,
        chosen @ 1..=LAST_ERRNO => Errno::from_raw_os_error(chosen),
        _ => Errno::INVAL,
    }
}

/// The errno that an exception carries, if it is one of the system's.
fn own(error: &Bound<'_, pyo3::exceptions::PyBaseException>) -> Option<Errno> {
    if !error.is_instance_of::<PyOSError>() || has_other_numbers(error) {
        return None;
    }
    let number = error.getattr(intern!(error.py(), "errno")).ok()?;
    if number.is_instance_of::<PyBool>() {
        return None;
    }
    let number: i32 = number.cast::<PyInt>().ok()?.extract().ok()?;
    (1..=LAST_ERRNO)
        .contains(&number)
        .then(|| Errno::from_raw_os_error(number))
}

fn has_other_numbers(error: &Bound<'_, PyAny>) -> bool {
    error.get_type().mro().iter().any(|class| {
        let text = |name| {
            class
                .getattr(name)
                .and_then(|text| text.extract::<String>())
        };
        let py = class.py();
        match (
            text(intern!(py, "__module__")),
            text(intern!(py, "__name__")),
        ) {
            (Ok(module), Ok(name)) => OTHER_NUMBERS.contains(&(module.as_str(), name.as_str())),
            _ => false,
        }
    })
}
