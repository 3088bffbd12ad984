//! Looks again for a short while before it goes to sleep, where that has been worth it.
//!
//! To be woken costs the sleeper, who wakes it, and above all time: in a virtual machine more than
//! a small request takes. So whoever was woken soon after he had gone to sleep looks again a few times the
//! next time, giving the processor to anybody else who wants it; who slept long goes to sleep at
//! once. An idle connection sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// How long to look. About what it costs to sleep and to be woken.
const LONGEST: Duration = Duration::from_micros(100);

/// What was learnt from the last wait.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    /// Looking again is worth it.
    awake: bool,
}

impl Vigil {
    /// `look` until it finds something, for a while; then `sleep`, which waits for it. Both get
    /// `with`.
    pub(super) fn keep<W: ?Sized, T>(
        &mut self,
        with: &mut W,
        mut look: impl FnMut(&mut W) -> Option<T>,
        sleep: impl FnOnce(&mut W) -> T,
    ) -> T {
        let begun = Instant::now();
        while self.awake && begun.elapsed() < LONGEST {
            if let Some(found) = look(with) {
                return found;
            }
            thread::yield_now();
        }
        let found = sleep(with);
        self.awake = begun.elapsed() < 2 * LONGEST;
        found
    }
}
