//! The end of the attachment, as a plugin asks for it, and sleeps that end with it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;

use super::connection;

/// What the worker does when the plugin wants to end.
static HOOK: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Whether the plugin asked for the end.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the end has begun; guards nothing else, and is held only while looked at.
static ENDING: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// Have `hook` called when the plugin calls `nbdkit.shutdown`, at once if it has already. Only the
/// first hook counts.
pub(in crate::python) fn on_shutdown(hook: Box<dyn Fn() + Send + Sync>) {
    if HOOK.set(hook).is_ok()
        && ASKED.load(Ordering::SeqCst)
        && let Some(hook) = HOOK.get()
    {
        hook();
    }
}

/// End every `nbdkit.nanosleep`, now and from here on: the plugin is about to be closed.
pub(in crate::python) fn interrupt_sleeps() {
    *ENDING.lock() = true;
    wake_all();
}

/// Let everybody who sleeps look again whether there is a reason to wake up.
pub(super) fn wake_all() {
    // With the lock, so that nobody is between looking and falling asleep.
    let _looked_at = ENDING.lock();
    CHANGED.notify_all();
}

/// Ask for the disk to be detached, as a signal would. Returns at once; the request at hand is
/// answered first.
#[pyfunction]
pub(super) fn shutdown() {
    ASKED.store(true, Ordering::SeqCst);
    match HOOK.get() {
        Some(hook) => hook(),
        None => log::debug!("nbdkit.shutdown: remembered until the disk is attached"),
    }
}

/// Sleep, and let other threads run meanwhile. Ends early, without an error, when the disk is being
/// detached or the client was cut off. Errors: OverflowError for anything negative.
#[pyfunction]
pub(super) fn nanosleep(py: Python<'_>, sec: u32, nsec: u32) {
    let client = connection::current_client(py);
    let cut_off = || client.as_ref().is_some_and(|client| client.is_cut_off());
    let until = Instant::now() + Duration::new(sec.into(), 0) + Duration::from_nanos(nsec.into());
    let slept = py.detach(|| {
        let mut ending = ENDING.lock();
        while !*ending && !cut_off() {
            if CHANGED.wait_until(&mut ending, until).timed_out() {
                return true;
            }
        }
        false
    });
    if !slept {
        log::debug!("nbdkit.nanosleep: ended early");
    }
}
