//! Threads that call what may recurse deeply: a plugin, by whatever is between.

use std::thread;

/// As much as the C library gives to a thread, and with it CPython and nbdkit. Rust gives a quarter, in
/// which the 1000 calls that Python allows do not find room where they go through C (`sorted` that
/// calls `__lt__` that calls `sorted`): it overflowed after 400. Only what is touched takes memory, also
/// where memory is locked (`--swap`), but the limit of what may be locked counts all of it.
const STACK_BYTES: usize = 8 << 20;

/// A thread of this name that has room for deep recursion.
pub fn deep(name: impl Into<String>) -> thread::Builder {
    thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES)
}

/// Whether this thread runs at real-time priority (`SCHED_FIFO`, `SCHED_RR`). What it gives up by
/// sched_yield(2) then goes to threads of its own priority only: not to the kernel's workers.
#[must_use]
pub fn is_real_time() -> bool {
    // SAFETY: sched_getscheduler(2) of the calling thread takes a number and gives one.
    let policy = unsafe { libc::sched_getscheduler(0) };
    matches!(
        policy & !libc::SCHED_RESET_ON_FORK,
        libc::SCHED_FIFO | libc::SCHED_RR
    )
}
