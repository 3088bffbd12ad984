//! The text of a parameter as a value, by the rules of [`crate::params`], which hold for pydisk's own
//! options as well.

use std::fmt;

use pyo3::prelude::*;

use super::unable;
use crate::Refusal;
use crate::params;

fn parsed<T>(what: impl fmt::Display, outcome: Result<T, Refusal>) -> PyResult<T> {
    outcome.map_err(|refusal| {
        // The hint stands on a line of its own, and an exception is read by its first.
        let text = refusal.with_hint_after(": ");
        unable(&format!("parse string as {what}"), text)
    })
}

/// Bytes from a size such as "1G", "512k" or "100s". Errors: ValueError.
#[pyfunction]
pub(super) fn parse_size(s: &str) -> PyResult<u64> {
    parsed("size", params::parse_size(s))
}

/// A probability such as "0.1", "10%", "1:10" or "1/10"; what names the parameter. Errors: ValueError.
#[pyfunction]
pub(super) fn parse_probability(what: &str, s: &str) -> PyResult<f64> {
    parsed("probability", params::parse_probability(what, s))
}

/// (seconds, nanoseconds) from a delay such as "2", "0.5s", "100ms" or "20us"; what names the
/// parameter. Errors: ValueError.
#[pyfunction]
pub(super) fn parse_delay(what: &str, s: &str) -> PyResult<(u64, u32)> {
    let delay = parsed("delay", params::parse_delay(what, s))?;
    Ok((delay.as_secs(), delay.subsec_nanos()))
}

/// True from "1", "true", "t", "yes", "y" or "on", False from their opposites. Errors: ValueError.
#[pyfunction]
pub(super) fn parse_bool(s: &str) -> PyResult<bool> {
    parsed("boolean", params::parse_bool(s))
}
