//! What waits to be run on the event loop: the core of the inbox, which only carries what it is given.
//!
//! `tests/models` has it pushed, taken and ended in every order.

use std::sync::atomic::Ordering;

use super::inbox::Work;
use super::wake::Wake;
use crate::sync::{AtomicBool, Mutex};

/// What the loop's thread and the others have in common.
pub(super) struct Queue {
    /// Held while looked at, so that it may be waited for inside Python.
    waiting: Mutex<Vec<Work>>,
    /// Up when there is something that the loop does not know of.
    wake: Wake,
    ending: AtomicBool,
    dead: AtomicBool,
}

impl Queue {
    pub(super) fn new(wake: Wake) -> Self {
        Self {
            waiting: Mutex::default(),
            wake,
            ending: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        }
    }

    pub(super) fn wake(&self) -> &Wake {
        &self.wake
    }

    /// Have the loop run something; whether it still does.
    #[must_use]
    pub(super) fn push(&self, work: Work) -> bool {
        let mut waiting = self.waiting.lock();
        if self.dead.load(Ordering::Acquire) {
            return false;
        }
        let first = waiting.is_empty();
        waiting.push(work);
        drop(waiting);
        if first {
            // Whoever finds something there already knows that the loop was woken for it.
            self.wake.up();
        }
        true
    }

    /// All that waits.
    pub(super) fn take(&self) -> Vec<Work> {
        // Before the list is taken: what comes after that wakes the loop anew.
        self.wake.taken();
        std::mem::take(&mut *self.waiting.lock())
    }

    /// From here on the loop is to end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.wake.up();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether nothing will be run any more.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Nothing is run any more. What still waits is forgotten, which tells those who wait for it.
    pub(super) fn dies(&self) {
        let mut waiting = self.waiting.lock();
        self.dead.store(true, Ordering::Release);
        let forgotten = std::mem::take(&mut *waiting);
        drop(waiting);
        drop(forgotten);
    }
}
