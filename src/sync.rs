//! What threads meet with: locks, threads, the clock. The files that hand turns, errands and answers from
//! one thread to another take them from here and from nowhere else, because `tests/models` compiles
//! those files a second time, with a model checker's in this one's place.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU16};
pub(crate) use std::thread;
pub(crate) use std::time::Instant;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

/// The standard library's, whose `notify_one` reads no clock.
pub(crate) mod clockless {
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
}
