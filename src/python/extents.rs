//! What the `extents` callback says, brought into order by nbdkit's rules.

use std::fmt;
use std::ops::Range;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::exceptions;
use crate::disk::{ExtentKind, Extents};

/// What is wrong with an answer.
#[derive(Debug)]
pub(super) enum Wrong {
    /// A rule was broken, or a generator raised an exception.
    Answer(String),
    /// There are extents, and not a byte of them is in the range.
    Nothing,
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Answer(what)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(what) => f.write_str(what),
            Self::Nothing => f.write_str("the extents must reach the requested offset"),
        }
    }
}

/// Add what a plugin answered for `range` to `found`, up to the end of `range` at most.
///
/// Extents ascend without gaps and the first one starts at the range's start or before; what lies
/// outside the range is cut off. Less than the range may be described, but not nothing.
///
/// # Errors
/// One sentence that says which rule was broken, or the exception of a generator.
pub(super) fn add(
    answer: &Bound<'_, PyAny>,
    range: Range<u64>,
    found: &mut Extents,
) -> Result<(), Wrong> {
    let py = answer.py();
    let before = found.end();
    let mut expected: Option<u64> = None;
    let items = answer
        .try_iter()
        .map_err(|error| exceptions::describe(py, error))?;
    for item in items {
        let item = item.map_err(|error| exceptions::describe(py, error))?;
        let (at, len, kind) = parts(&item)?;
        match expected {
            Some(expected) if at != expected => {
                let what = "extents must be in ascending order and without gaps";
                return Err(what.to_owned().into());
            }
            None if at > range.start => {
                let what = "the first extent must start at or before the requested offset";
                return Err(what.to_owned().into());
            }
            _ => {}
        }
        let end = at
            .checked_add(len)
            .ok_or_else(|| "an extent must end below 2^64".to_owned())?;
        expected = Some(end);
        let from = at.max(range.start);
        let to = end.min(range.end);
        if to > from {
            found.push(to - from, ExtentKind::from_bits_truncate(kind));
        }
    }
    if expected.is_none() {
        return Err("extents must not be empty".to_owned().into());
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
