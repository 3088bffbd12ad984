//! What the `extents` callback says, brought into order by nbdkit's rules.

use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::disk::{ExtentKind, Extents};

/// Why an answer is none.
pub(super) enum Wrong {
    /// The iterator raised.
    Raised(PyErr),
    /// One sentence that says which rule was broken.
    Told(String),
    /// There are extents, and not a byte of them is in the range.
    Nothing,
}

impl From<&str> for Wrong {
    fn from(what: &str) -> Self {
        Self::Told(what.to_owned())
    }
}

/// Add what a plugin answered for `range` to `found`, up to the end of `range` at most.
///
/// Extents ascend without gaps and the first one starts at the range's start or before; what lies
/// outside the range is cut off. Less than the range may be described, but not nothing.
///
/// # Errors
/// The rule that was broken, or the exception of a generator.
pub(super) fn add(
    answer: &Bound<'_, PyAny>,
    range: Range<u64>,
    found: &mut Extents,
) -> Result<(), Wrong> {
    let before = found.end();
    let mut expected: Option<u64> = None;
    for item in answer.try_iter().map_err(Wrong::Raised)? {
        let item = item.map_err(Wrong::Raised)?;
        let (at, len, kind) = parts(&item).map_err(Wrong::Told)?;
        match expected {
            Some(expected) if at != expected => {
                return Err("extents must be in ascending order and without gaps".into());
            }
            None if at > range.start => {
                return Err("the first extent must start at or before the requested offset".into());
            }
            _ => {}
        }
        let end = at.checked_add(len).ok_or("an extent must end below 2^64")?;
        expected = Some(end);
        let from = at.max(range.start);
        let to = end.min(range.end);
        if to > from {
            found.push(to - from, ExtentKind::from_bits_truncate(kind));
        }
    }
    if expected.is_none() {
        return Err("extents must not be empty".into());
    }
    if found.end() == before {
        return Err(Wrong::Nothing);
    }
    Ok(())
}

fn parts(item: &Bound<'_, PyAny>) -> Result<(u64, u64, u32), String> {
    let wrong = || "each extent must be a tuple (offset, length, type) of ints".to_owned();
    let tuple = item
        .cast::<PyTuple>()
        .ok()
        .filter(|tuple| tuple.len() == 3)
        .ok_or_else(wrong)?;
    tuple
        .extract()
        .map_err(|error| format!("{} ({})", wrong(), error))
}
