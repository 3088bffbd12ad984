//! The `nbdkit` module that plugins import: what each function does stands in the file of its kind,
//! what differs from nbdkit in `docs/nbdkit.md`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

mod calling;
mod connection;
mod paths;
mod peer;
mod stop;
mod text;
mod values;

mod password;

pub(super) use calling::{Calling, chosen_error, clear_error, look_in};
pub(super) use connection::Connection;
pub(super) use password::{allow_descriptors, remember_descriptors};
pub(super) use stop::{interrupt_sleeps, on_shutdown};
pub(super) use text::go_by;

/// What the server of a plugin offers it: errors to choose, parameters to read, its client to look at.
#[pymodule(gil_used = true)]
pub(super) mod nbdkit {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::calling::set_error;
    #[pymodule_export]
    use super::connection::{disconnect, export_name, is_tls};
    #[pymodule_export]
    use super::password::read_password;
    #[pymodule_export]
    use super::paths::{absolute_path, realpath};
    #[pymodule_export]
    use super::peer::{
        peer_gid, peer_name, peer_pid, peer_security_context, peer_tls_dn, peer_tls_issuer_dn,
        peer_uid,
    };
    #[pymodule_export]
    use super::stop::{nanosleep, shutdown};
    #[pymodule_export]
    use super::text::{debug, debug_hexdiff, debug_hexdump, name, stdio_safe, timestamp};
    #[pymodule_export]
    use super::values::{parse_bool, parse_delay, parse_probability, parse_size};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        for (name, value) in super::CONSTANTS {
            module.add(*name, *value)?;
        }
        Ok(())
    }
}

/// As in nbdkit's headers; the values are part of the plugin contract.
const CONSTANTS: &[(&str, u32)] = &[
    ("THREAD_MODEL_SERIALIZE_CONNECTIONS", 0),
    ("THREAD_MODEL_SERIALIZE_ALL_REQUESTS", 1),
    ("THREAD_MODEL_SERIALIZE_REQUESTS", 2),
    ("THREAD_MODEL_PARALLEL", 3),
    ("FUA_NONE", 0),
    ("FUA_EMULATE", 1),
    ("FUA_NATIVE", 2),
    ("CACHE_NONE", 0),
    ("CACHE_EMULATE", 1),
    ("CACHE_NATIVE", 2),
    ("EXTENT_HOLE", 1),
    ("EXTENT_ZERO", 2),
    ("FLAG_MAY_TRIM", 1),
    ("FLAG_FUA", 2),
    ("FLAG_REQ_ONE", 4),
    ("FLAG_FAST_ZERO", 8),
];

/// The exception of a function that could not do what it is for: nbdkit's words, and then the cause,
/// which nbdkit only logs.
fn unable(what: &str, cause: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("Unable to {what}: {cause}"))
}
