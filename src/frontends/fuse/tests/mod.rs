//! A disk as a file on this machine's kernel, used by real programs and system calls.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};

use super::*;
use crate::disk::{Flags, Fua, Limits, OpKind};
use crate::frontends::Target;
use crate::frontends::testing::{
    Bench, Mood, Recorder, a_hundred_times, can_mount, childs_folder, have, serve_and_kill, sh,
    soon,
};

const MIB: u64 = 1 << 20;

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn code(error: &io::Error) -> Option<i32> {
    error.raw_os_error()
}

fn code_of<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_raw_os_error(code(&result.unwrap_err()).unwrap())
}

mod calls;
mod killed;
mod life;
