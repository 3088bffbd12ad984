//! The callbacks of a plugin, and all that is known of each before it is called: its name, whether a script must
//! have it, the arguments that it is called with, and what it serves.
//!
//! Whoever asks about callbacks, the checks of a script, its calls and what a thread is busy with, asks here.

use std::fmt;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use super::script::Api;
use crate::disk::OpKind;

/// A callback, in nbdkit's order of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Callback {
    Config,
    ConfigComplete,
    ThreadModel,
    GetReady,
    AfterFork,
    Cleanup,
    DumpPlugin,
    Preconnect,
    ListExports,
    DefaultExport,
    Open,
    Close,
    GetSize,
    BlockSize,
    IsRotational,
    CanWrite,
    CanFlush,
    CanTrim,
    CanZero,
    CanFastZero,
    CanExtents,
    CanMultiConn,
    CanFua,
    CanCache,
    ExportDescription,
    Pread,
    Pwrite,
    Flush,
    Trim,
    Zero,
    Cache,
    Extents,
}

use Callback::{
    AfterFork, BlockSize, Cache, CanCache, CanExtents, CanFastZero, CanFlush, CanFua, CanMultiConn,
    CanTrim, CanWrite, CanZero, Cleanup, Close, Config, ConfigComplete, DefaultExport, DumpPlugin,
    ExportDescription, Extents, Flush, GetReady, GetSize, IsRotational, ListExports, Open, Pread,
    Preconnect, Pwrite, ThreadModel, Trim, Zero,
};

/// What is known of one.
#[derive(Clone, Copy)]
struct Row {
    callback: Callback,
    name: &'static str,
    is_required: bool,
    /// The arguments in API version 1 and 2.
    args: [&'static str; 2],
    serves: Serves,
}

/// Which requests a callback serves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    Nothing,
    /// An operation; what it returns says nothing.
    Operation(OpKind),
    /// The question what lies where.
    Extents,
}

/// One row for each callback, in their order.
const TABLE: &[Row; 32] = &[
    row(Config, "config", "key, value"),
    row(ConfigComplete, "config_complete", ""),
    row(ThreadModel, "thread_model", ""),
    row(GetReady, "get_ready", ""),
    row(AfterFork, "after_fork", ""),
    row(Cleanup, "cleanup", ""),
    row(DumpPlugin, "dump_plugin", ""),
    row(Preconnect, "preconnect", "readonly"),
    row(ListExports, "list_exports", "readonly, is_tls"),
    row(DefaultExport, "default_export", "readonly, is_tls"),
    row(Open, "open", "readonly").required(),
    row(Close, "close", "h"),
    row(GetSize, "get_size", "h").required(),
    row(BlockSize, "block_size", "h"),
    row(IsRotational, "is_rotational", "h"),
    row(CanWrite, "can_write", "h"),
    row(CanFlush, "can_flush", "h"),
    row(CanTrim, "can_trim", "h"),
    row(CanZero, "can_zero", "h"),
    row(CanFastZero, "can_fast_zero", "h"),
    row(CanExtents, "can_extents", "h"),
    row(CanMultiConn, "can_multi_conn", "h"),
    row(CanFua, "can_fua", "h"),
    row(CanCache, "can_cache", "h"),
    row(ExportDescription, "export_description", "h"),
    row(Pread, "pread", "h, buf, offset, flags")
        .in_version_1("h, count, offset")
        .serving(OpKind::Read)
        .required(),
    row(Pwrite, "pwrite", "h, buf, offset, flags")
        .in_version_1("h, buf, offset")
        .serving(OpKind::Write),
    row(Flush, "flush", "h, flags")
        .in_version_1("h")
        .serving(OpKind::Flush),
    row(Trim, "trim", "h, count, offset, flags")
        .in_version_1("h, count, offset")
        .serving(OpKind::Trim),
    row(Zero, "zero", "h, count, offset, flags")
        .in_version_1("h, count, offset, may_trim")
        .serving(OpKind::Zero),
    row(Cache, "cache", "h, count, offset, flags").serving(OpKind::Cache),
    Row {
        serves: Serves::Extents,
        ..row(Extents, "extents", "h, count, offset, flags")
    },
];

const fn row(callback: Callback, name: &'static str, args: &'static str) -> Row {
    Row {
        callback,
        name,
        is_required: false,
        args: [args, args],
        serves: Serves::Nothing,
    }
}

impl Row {
    const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    const fn in_version_1(self, args: &'static str) -> Self {
        Self {
            args: [args, self.args[1]],
            ..self
        }
    }

    const fn serving(self, kind: OpKind) -> Self {
        Self {
            serves: Serves::Operation(kind),
            ..self
        }
    }
}

/// The callback that serves each operation.
const SERVING: [Callback; 6] = {
    let mut serving = [Callback::Config; 6];
    let mut number = 0;
    while number < TABLE.len() {
        let row = TABLE[number];
        assert!(row.callback as usize == number, "a row is out of order");
        if let Serves::Operation(kind) = row.serves {
            serving[kind as usize] = row.callback;
        }
        number += 1;
    }
    let mut kind = 0;
    while kind < serving.len() {
        assert!(
            !matches!(serving[kind], Callback::Config),
            "nobody serves it"
        );
        kind += 1;
    }
    serving
};

/// The names as Python's strings, made when they are first asked for.
static NAMES: [PyOnceLock<Py<PyString>>; TABLE.len()] = [const { PyOnceLock::new() }; TABLE.len()];

impl Callback {
    /// All of them, in nbdkit's order of calls.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.callback)
    }

    /// The one with this number, which is what `as u8` gives.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        TABLE.get(usize::from(number)).map(|row| row.callback)
    }

    /// The one that serves these operations.
    pub(super) fn serving(kind: OpKind) -> Self {
        SERVING[kind as usize]
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// As the script spells it.
    pub(super) fn name(self) -> &'static str {
        self.row().name
    }

    /// As [`Callback::name`], for Python.
    pub(super) fn python_name(self, py: Python<'_>) -> &Bound<'_, PyString> {
        NAMES[self as usize]
            .get_or_init(py, || PyString::intern(py, self.name()).unbind())
            .bind(py)
    }

    /// Whether a script must have it.
    pub(super) fn is_required(self) -> bool {
        self.row().is_required
    }

    /// The arguments that it is called with.
    pub(super) fn args(self, api: Api) -> &'static str {
        let [v1, v2] = self.row().args;
        match api {
            Api::V1 => v1,
            Api::V2 => v2,
        }
    }

    /// Whether it serves requests.
    pub(super) fn serves(self) -> bool {
        self.row().serves != Serves::Nothing
    }

    /// Whether its return value says nothing, so that a generator would pass for success without a line of it
    /// having run.
    pub(super) fn returns_nothing(self) -> bool {
        matches!(self.row().serves, Serves::Operation(_))
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_is_served_by_the_callback_that_says_so() {
        for (kind, name) in [
            (OpKind::Read, "pread"),
            (OpKind::Write, "pwrite"),
            (OpKind::Zero, "zero"),
            (OpKind::Trim, "trim"),
            (OpKind::Cache, "cache"),
            (OpKind::Flush, "flush"),
        ] {
            let callback = Callback::serving(kind);
            assert_eq!(callback.name(), name);
            assert!(callback.serves() && callback.returns_nothing());
        }
        assert!(Extents.serves() && !Extents.returns_nothing());
        assert!(!Open.serves() && !Open.returns_nothing());
    }

    #[test]
    fn a_number_and_a_name_stand_for_one_callback() {
        for callback in Callback::all() {
            assert_eq!(Callback::numbered(callback as u8), Some(callback));
            let namesakes = Callback::all().filter(|other| other.name() == callback.name());
            assert_eq!(namesakes.count(), 1, "{callback}");
        }
        assert_eq!(Callback::numbered(u8::MAX), None);
    }
}
