//! What depends on a kernel: disks as devices and files, on each front end that the kernel has.

#![allow(clippy::unwrap_used, reason = "test code")]

mod blocks;
mod buffers;
mod coroutines;
mod endurance;
mod errors;
mod filesystems;
mod forced;
mod hanging;
mod killed;
mod lanes;
mod leftovers;
mod nasty;
mod native_errno;
mod one_thread;
mod semantics;
mod shutdown;
mod vectors;
