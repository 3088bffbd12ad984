//! The calls that the disk has, and an early answer for those whose caller is being killed.
//!
//! A thread that waits for the answer of a FUSE server cannot end before that, not by SIGKILL either: with a
//! plugin that hangs it would stay for as long as the plugin does. So a thread looks at calls that take long, and
//! answers those with EINTR whose caller is being killed. The caller leaves the kernel by its end only, so no
//! program sees that answer. The disk goes on, with memory that is its own until it is done; what comes
//! of it is dropped.
//!
//! The kernel's FUSE_INTERRUPT is of no use here: it comes for any signal, but once for each call, among the
//! calls that wait for a thread to read them, and never for asynchronous I/O.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use pydisk_kernel::callers;
use pydisk_kernel::fuse::{self, Reply};
use rustix::io::Errno;

/// How often the calls under way are looked at. A call that is not there twice costs no more than that.
const PERIOD: Duration = Duration::from_millis(200);

/// How often whoever waits for a range asks whether it still shall.
const SLICE: Duration = Duration::from_millis(100);

/// Where a thread that serves notes which call the disk has.
#[derive(Debug, Default)]
pub(super) struct Spot {
    /// Held only while it is looked at or changed. Taken before [`UnderWay::forsaken`].
    call: Mutex<Option<Noted>>,
}

/// A call that waits for the disk.
#[derive(Debug)]
struct Noted {
    unique: u64,
    caller: u32,
    /// The bytes that it changes, from when the disk is asked until it is done.
    changes: Range<u64>,
    /// It was answered; nobody waits for it any more.
    forsaken: bool,
}

impl Spot {
    fn is_taken(&self) -> bool {
        self.call.lock().is_some()
    }

    /// Whether the call here was answered early.
    pub(super) fn is_forsaken(&self) -> bool {
        self.call.lock().as_ref().is_some_and(|call| call.forsaken)
    }
}

/// What becomes of a call that is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// The disk is asked.
    Now,
    /// It was answered; the disk is not asked any more.
    Never,
    /// Bytes of it are still being changed by an earlier call, and the file is given up.
    GivenUp,
}

/// All calls that the disk of a file has.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    /// Those of all threads. Held while one is added, and copied to be looked at.
    spots: Mutex<Vec<Arc<Spot>>>,
    /// Bytes that calls go on changing which were answered early. A later change of the same bytes waits, or it
    /// would be undone. Held only while it is looked at or changed.
    forsaken: Mutex<Vec<Range<u64>>>,
    /// How many there are in `forsaken`, for those who need not look.
    ranges: AtomicUsize,
    /// One of them is done.
    done: Condvar,
    /// Whoever looks sleeps until there is a call.
    asleep: AtomicBool,
    /// Nobody shall look any more. Held only while it is looked at or changed; taken before the spots.
    over: Mutex<bool>,
    wake: Condvar,
}

impl UnderWay {
    /// A place for calls of one thread, one at a time.
    pub(super) fn spot(&self) -> Arc<Spot> {
        let spot = Arc::default();
        self.spots.lock().push(Arc::clone(&spot));
        spot
    }

    /// Note a call that was received and waits for the disk.
    pub(super) fn take(&self, spot: &Spot, unique: u64, caller: u32) {
        *spot.call.lock() = Some(Noted {
            unique,
            caller,
            changes: 0..0,
            forsaken: false,
        });
        // Whoever is about to sleep looks at the spot after it has said so.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            let _over = self.over.lock();
            self.wake.notify_one();
        }
    }

    /// The disk is about to be asked to change these bytes, if any. Wait for those which go on changing them although
    /// they were answered, unless the file is `given_up` before that.
    pub(super) fn begin(
        &self,
        spot: &Spot,
        changes: Range<u64>,
        given_up: impl Fn() -> bool,
    ) -> Begin {
        if !changes.is_empty() && self.ranges.load(Ordering::Acquire) > 0 {
            let overlaps =
                |other: &Range<u64>| other.start < changes.end && changes.start < other.end;
            loop {
                if spot.is_forsaken() {
                    return Begin::Never;
                }
                let mut forsaken = self.forsaken.lock();
                if !forsaken.iter().any(overlaps) {
                    break;
                }
                if given_up() {
                    return Begin::GivenUp;
                }
                self.done.wait_for(&mut forsaken, SLICE);
            }
        }
        match &mut *spot.call.lock() {
            Some(call) if call.forsaken => return Begin::Never,
            Some(call) => call.changes = changes,
            None => {}
        }
        Begin::Now
    }

    /// The disk is done with the call.
    pub(super) fn end(&self, spot: &Spot) {
        if let Some(call) = &mut *spot.call.lock() {
            self.done_with(call);
        }
    }

    fn done_with(&self, call: &mut Noted) {
        let changed = std::mem::take(&mut call.changes);
        if call.forsaken && !changed.is_empty() {
            let mut forsaken = self.forsaken.lock();
            if let Some(index) = forsaken.iter().position(|range| *range == changed) {
                forsaken.swap_remove(index);
                self.ranges.store(forsaken.len(), Ordering::Release);
                self.done.notify_all();
            }
        }
    }

    /// The call is over, and this thread is to answer it; false if it was answered.
    #[must_use]
    pub(super) fn leave(&self, spot: &Spot) -> bool {
        let mut noted = spot.call.lock();
        if let Some(call) = &mut *noted {
            self.done_with(call);
        }
        noted.take().is_none_or(|call| !call.forsaken)
    }

    /// Take the answer of the call `unique` away from the thread that serves it; false if that is over.
    pub(super) fn forsake(&self, spot: &Spot, unique: u64) -> bool {
        match &mut *spot.call.lock() {
            Some(call) if call.unique == unique && !call.forsaken => {
                call.forsaken = true;
                if !call.changes.is_empty() {
                    // Before anybody hears of the answer, and so before a later change.
                    let mut forsaken = self.forsaken.lock();
                    forsaken.push(call.changes.clone());
                    self.ranges.store(forsaken.len(), Ordering::Release);
                }
                true
            }
            _ => false,
        }
    }

    /// Answer calls whose caller is being killed, until [`UnderWay::stop`].
    pub(super) fn watch(&self, device: BorrowedFd<'_>) {
        if !callers::are_seen() {
            log::debug!(
                "FUSE: /proc does not show who calls; who waits for the disk cannot be killed"
            );
            return;
        }
        let mut seen = Vec::new();
        while self.sleep() {
            // What /proc tells may take its time.
            let spots = self.spots.lock().clone();
            seen.resize_with(spots.len(), Seen::default);
            for (spot, seen) in spots.iter().zip(&mut seen) {
                if let Some(unique) = seen.look(spot)
                    && self.forsake(spot, unique)
                {
                    log::info!("FUSE: the plugin still has a request of a program that was killed");
                    if let Err(error) =
                        fuse::answer(device, unique, &Reply::failed(Errno::INTR), &[])
                    {
                        log::error!("FUSE: an early answer: {error}");
                    }
                }
            }
        }
    }

    /// Wait for a call, and then for a while; false if this is over.
    fn sleep(&self) -> bool {
        let mut over = self.over.lock();
        self.asleep.store(true, Ordering::Relaxed);
        while !*over && self.asleep.load(Ordering::Relaxed) && !self.has_call() {
            self.wake.wait(&mut over);
        }
        self.asleep.store(false, Ordering::Relaxed);
        if !*over {
            self.wake.wait_for(&mut over, PERIOD);
        }
        !*over
    }

    fn has_call(&self) -> bool {
        self.spots.lock().iter().any(|spot| spot.is_taken())
    }

    /// End [`UnderWay::watch`].
    pub(super) fn stop(&self) {
        *self.over.lock() = true;
        self.wake.notify_all();
    }
}

/// The call that was in a spot when it was last looked at.
#[derive(Debug, Default)]
struct Seen {
    unique: Option<u64>,
    /// When its caller was started: a thread that is gone may leave its number to another one.
    started: Option<u64>,
}

impl Seen {
    /// The call in `spot`, if it has been there for a while and its caller is being killed.
    fn look(&mut self, spot: &Spot) -> Option<u64> {
        let found = match &*spot.call.lock() {
            Some(call) if !call.forsaken && call.caller != 0 => Some((call.unique, call.caller)),
            _ => None,
        };
        let Some((unique, caller)) = found else {
            *self = Self::default();
            return None;
        };
        if self.unique != Some(unique) {
            *self = Self {
                unique: Some(unique),
                started: None,
            };
            return None;
        }
        let started = callers::started(caller)?;
        (*self.started.get_or_insert(started) == started && callers::is_being_killed(caller))
            .then_some(unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call of a thread that serves, as far as `begin`.
    fn begun(calls: &UnderWay, unique: u64, changes: Range<u64>) -> Arc<Spot> {
        let spot = calls.spot();
        calls.take(&spot, unique, 1);
        assert_eq!(calls.begin(&spot, changes, || false), Begin::Now);
        spot
    }

    #[test]
    fn every_call_is_answered_once() {
        let calls = UnderWay::default();
        let spot = begun(&calls, 1, 0..0);
        assert!(!calls.forsake(&spot, 2), "another call");
        assert!(calls.forsake(&spot, 1) && !calls.forsake(&spot, 1));
        assert!(!calls.leave(&spot), "it was answered");
        assert!(!calls.forsake(&spot, 1), "it is over");
        calls.take(&spot, 2, 1);
        assert_eq!(calls.begin(&spot, 0..0, || false), Begin::Now);
        assert!(calls.leave(&spot) && !calls.forsake(&spot, 2));
        assert!(calls.leave(&spot), "what does not ask the disk");
    }

    #[test]
    fn what_was_answered_before_its_turn_does_not_reach_the_disk() {
        let calls = UnderWay::default();
        let spot = calls.spot();
        calls.take(&spot, 1, 1);
        assert!(calls.forsake(&spot, 1));
        assert_eq!(calls.begin(&spot, 0..10, || false), Begin::Never);
        assert!(!calls.leave(&spot));
        begun(&calls, 2, 0..10);
    }

    #[test]
    fn bytes_that_a_forsaken_call_changes_are_its_own_until_it_is_done() {
        let calls = UnderWay::default();
        let forsaken = begun(&calls, 1, 10..20);
        assert!(calls.forsake(&forsaken, 1));
        for free in [0..10, 20..30, 0..0] {
            let spot = begun(&calls, 2, free);
            assert!(calls.leave(&spot));
        }
        let spot = calls.spot();
        for taken in [0..11, 19..30, 12..13, 0..u64::MAX] {
            calls.take(&spot, 3, 1);
            assert_eq!(calls.begin(&spot, taken, || true), Begin::GivenUp);
        }
        assert!(calls.forsake(&spot, 3));
        assert_eq!(calls.begin(&spot, 10..20, || false), Begin::Never);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| begun(&calls, 4, 10..20));
            calls.end(&forsaken);
            assert!(calls.leave(&waits.join().unwrap()));
        });
        assert!(!calls.leave(&forsaken));
        begun(&calls, 5, 10..20);
    }
}
