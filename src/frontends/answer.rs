//! Serve one request and say what to answer: the one place where a failure is logged.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::{Disk, Errno, Extents, Request, Result as Served};
use crate::logging::Limiter;

/// Serve `request` and give the errno to answer, if it failed.
///
/// A failure is logged here with its cause. A panic below is a failure with `EIO`: whatever a disk
/// does, its request is answered and the thread lives on.
///
/// # Errors
/// The errno for the kernel or the client; the memory of a read must then not be handed out.
pub fn answer(disk: &dyn Disk, request: Request<'_>) -> Result<(), Errno> {
    let (word, at, len) = (request.op.kind().word(), request.at, request.op.len());
    outcome(word, at, len, || disk.serve(request))
}

/// Ask for the extents of `range` and give the errno to answer, if that failed; as [`answer`].
///
/// # Errors
/// The errno for the client; what was found must then not be told.
pub fn answer_extents(
    disk: &dyn Disk,
    range: Range<u64>,
    found: &mut Extents,
) -> Result<(), Errno> {
    let len = range.end.saturating_sub(range.start);
    outcome("extents", range.start, len, || disk.extents(range, found))
}

fn outcome(
    word: &'static str,
    at: u64,
    len: u64,
    ask: impl FnOnce() -> Served,
) -> Result<(), Errno> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            log_failure(word, error.errno, || {
                format!("{word} at {at}+{len}: {error}")
            });
            Err(error.errno)
        }
        Err(_panic) => {
            log::error!("{word} at {at}+{len}: internal error, answered with EIO");
            Err(Errno::IO)
        }
    }
}

/// Failures of one kind that are logged in each [`WINDOW`].
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// How often each kind of failure was logged of late. Held only while counting.
static LOGGED: Mutex<Option<HashMap<(&'static str, Errno), Limiter>>> = Mutex::new(None);

/// Log a failure, unless there were many of its kind of late.
pub(super) fn log_failure(word: &'static str, errno: Errno, text: impl FnOnce() -> String) {
    let admitted = LOGGED
        .lock()
        .get_or_insert_default()
        .entry((word, errno))
        .or_insert_with(|| Limiter::new(BURST, WINDOW))
        .admit();
    if let Some(hidden) = admitted {
        say_hidden(word, errno, hidden);
        log::error!("{}", text());
    }
}

fn say_hidden(word: &str, errno: Errno, hidden: u64) {
    if hidden > 0 {
        log::error!("{word}: {hidden} more failures with {errno} were not logged");
    }
}

/// Say how many failures were not logged since the last one that was. To be called at the end.
pub fn tell_hidden() {
    let counts = LOGGED.lock().take().unwrap_or_default();
    for ((word, errno), mut limiter) in counts {
        say_hidden(word, errno, limiter.take_hidden());
    }
}
