//! What an open handle can do: nbdkit's capability callbacks, asked once and turned into [`Limits`].

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyList, PyTuple};

use super::ThreadModel;
use super::callbacks::Callback;
use super::exceptions::shown;
use super::script::{Api, Script};
use crate::Refusal;
use crate::disk::{BlockSizes, Cache, Fua, Limits};

/// Largest read or write that a callback is called with, in bytes; nbdkit's.
const MAX_REQUEST: u32 = 64 << 20;

/// Asks one handle, in nbdkit's order.
pub(super) struct Question<'py, 'a> {
    pub(super) py: Python<'py>,
    pub(super) script: &'a Script,
    pub(super) handle: &'a Bound<'py, PyAny>,
}

impl<'py> Question<'py, '_> {
    /// All capabilities of the handle. Where nothing can be written, the callbacks about writing are
    /// not called.
    pub(super) fn limits(&self, read_only: bool, model: ThreadModel) -> Result<Limits, Refusal> {
        let mut limits = Limits::read_only(self.size()?);
        limits.parallel = model == ThreadModel::Parallel;
        limits.read_only =
            read_only || !self.can(Callback::CanWrite, self.has(Callback::Pwrite))?;
        if !limits.read_only {
            limits.zero = self.can(Callback::CanZero, self.has(Callback::Zero))?;
            limits.fast_zero = self.can(Callback::CanFastZero, !limits.zero)?;
            limits.trim = self.can(Callback::CanTrim, self.has(Callback::Trim))?;
            limits.fua = self.fua()?;
        }
        limits.flush = self.can(Callback::CanFlush, self.has(Callback::Flush))?;
        limits.rotational = self.can(Callback::IsRotational, false)?;
        // A second connection would wait for the first one to end.
        limits.multi_conn =
            self.can(Callback::CanMultiConn, false)? && model != ThreadModel::SerializeConnections;
        limits.cache = self.cache()?;
        limits.extents = self.can(Callback::CanExtents, self.has(Callback::Extents))?;
        limits.block = self.block_sizes()?;
        limits.strict_blocks = true;
        Ok(limits)
    }

    fn has(&self, callback: Callback) -> bool {
        self.script.find(self.py, callback).is_some()
    }

    fn ask(&self, callback: Callback) -> Result<Option<Bound<'py, PyAny>>, Refusal> {
        self.script.call(self.py, callback, (self.handle,))
    }

    /// A boolean capability. Only the object `True` says yes, as in nbdkit.
    fn can(&self, callback: Callback, default: bool) -> Result<bool, Refusal> {
        let Some(answer) = self.ask(callback)? else {
            return Ok(default);
        };
        if !answer.is_instance_of::<PyBool>() {
            let said = format!(
                "returned {}, which counts as False: only True counts as True",
                shown(&answer)
            );
            self.script.warn(self.py, callback, said);
        }
        Ok(answer.is(PyBool::new(self.py, true)))
    }

    fn size(&self) -> Result<u64, Refusal> {
        let answer = self
            .ask(Callback::GetSize)?
            .ok_or_else(|| self.script.refuse(Callback::GetSize, "is gone"))?;
        // As PyLong_AsLongLong: ints, bools and what has __index__; no floats.
        answer
            .extract::<i64>()
            .ok()
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| {
                self.script.refuse(
                    Callback::GetSize,
                    format_args!(
                        "returned {}: an int from 0 to 9223372036854775807 is accepted",
                        shown(&answer)
                    ),
                )
            })
    }

    fn fua(&self) -> Result<Fua, Refusal> {
        let has_flush = self.has(Callback::Flush);
        let Some(answer) = self.ask(Callback::CanFua)? else {
            return Ok(if has_flush { Fua::Emulate } else { Fua::None });
        };
        let wanted = match self.level(Callback::CanFua, &answer, "nbdkit.FUA_")? {
            0 => return Ok(Fua::None),
            2 if self.script.api == Api::V2 => return Ok(Fua::Native),
            2 => "FUA_NATIVE, which API version 1 cannot express",
            _ => "FUA_EMULATE",
        };
        match (has_flush, self.script.api) {
            // Version 1 has no flag to pass; nbdkit then loses FUA without a word.
            (true, _) => Ok(Fua::Emulate),
            (false, Api::V1) if wanted != "FUA_EMULATE" => Ok(Fua::None),
            (false, _) => Err(self.script.refuse(
                Callback::CanFua,
                format_args!("returned {wanted}, but there is no `flush` to emulate it with"),
            )),
        }
    }

    fn cache(&self) -> Result<Cache, Refusal> {
        let Some(answer) = self.ask(Callback::CanCache)? else {
            return Ok(if self.has(Callback::Cache) {
                Cache::Native
            } else {
                Cache::None
            });
        };
        Ok(
            match self.level(Callback::CanCache, &answer, "nbdkit.CACHE_")? {
                0 => Cache::None,
                1 => Cache::Emulate,
                // nbdkit takes every larger number for NATIVE here, and for EMULATE above.
                _ => Cache::Native,
            },
        )
    }

    /// An answer of the form none, emulate, native: 0, 1, 2, or a larger number.
    fn level(
        &self,
        callback: Callback,
        answer: &Bound<'py, PyAny>,
        constants: &str,
    ) -> Result<i64, Refusal> {
        match answer.extract::<i64>() {
            Ok(level @ 0..) => Ok(level),
            _ => Err(self.script.refuse(
                callback,
                format_args!(
                    "returned {}: a {constants} constant is accepted",
                    shown(answer)
                ),
            )),
        }
    }

    fn block_sizes(&self) -> Result<BlockSizes, Refusal> {
        let unasked = BlockSizes {
            maximum: MAX_REQUEST,
            ..BlockSizes::ANY
        };
        let Some(answer) = self.ask(Callback::BlockSize)? else {
            return Ok(unasked);
        };
        let refuse = |what: &str| {
            Err(self.script.refuse(
                Callback::BlockSize,
                format_args!("returned {}: {what}", shown(&answer)),
            ))
        };
        if !(answer.is_instance_of::<PyTuple>() || answer.is_instance_of::<PyList>()) {
            return refuse("a tuple (minimum, preferred, maximum) is accepted");
        }
        let Ok((minimum, preferred, maximum)) = triple(&answer) else {
            return refuse("three ints from 0 to 4294967295 are accepted");
        };
        if (minimum, preferred, maximum) == (0, 0, 0) {
            return Ok(unasked);
        }
        if !minimum.is_power_of_two() || minimum > 65536 {
            return refuse("the minimum must be a power of two from 1 to 65536");
        }
        if !preferred.is_power_of_two() || !(512..=32 << 20).contains(&preferred) {
            return refuse("the preferred size must be a power of two from 512 to 33554432");
        }
        if preferred < minimum {
            return refuse("the preferred size must not be below the minimum");
        }
        if maximum != u32::MAX && (maximum < minimum || maximum % minimum != 0) {
            return refuse("the maximum must be a multiple of the minimum, or 4294967295");
        }
        if preferred > maximum {
            return refuse("the preferred size must not be above the maximum");
        }
        // The callbacks are never called with more than this, whatever they would take.
        Ok(BlockSizes {
            minimum,
            preferred,
            maximum: maximum.min(MAX_REQUEST),
        })
    }
}

fn triple(answer: &Bound<'_, PyAny>) -> PyResult<(u32, u32, u32)> {
    let items: Vec<u32> = answer.extract()?;
    <[u32; 3]>::try_from(items)
        .map(|[minimum, preferred, maximum]| (minimum, preferred, maximum))
        .map_err(|items| pyo3::exceptions::PyValueError::new_err(items.len()))
}
