//! Looks again for a short while before it goes to sleep, where that has been worth it.
//!
//! To be woken costs the sleeper, who wakes it, and above all time: in a virtual machine more than
//! a small request takes. So whoever was woken soon after he had gone to sleep looks again a few times
//! the next time, giving the processor to anybody else who wants it. Who looked in vain, or slept long,
//! goes to sleep at once: an idle connection sleeps, and one with a request now and then spends no
//! more than before.

use std::time::Duration;

use crate::sync::{Instant, thread};

/// How long to look. About what it costs to sleep and to be woken.
const LONGEST: Duration = Duration::from_micros(100);

/// What was learnt from the last wait.
#[derive(Debug, Default)]
pub(in crate::frontends) struct Vigil {
    /// Looking again is worth it.
    awake: bool,
}

impl Vigil {
    /// `look` until it finds something, for a while; then `sleep`, which waits for it. Both get
    /// `with`.
    pub(in crate::frontends) fn keep<W: ?Sized, T>(
        &mut self,
        with: &mut W,
        mut look: impl FnMut(&mut W) -> Option<T>,
        sleep: impl FnOnce(&mut W) -> T,
    ) -> T {
        let begun = Instant::now();
        let looks = std::mem::take(&mut self.awake);
        if looks && let Some(found) = look_since(begun, || look(with)) {
            self.awake = true;
            return found;
        }
        let found = sleep(with);
        self.learn(looks, begun.elapsed());
        found
    }

    /// From a wait that took so long, and that began with looking in vain or not.
    fn learn(&mut self, looked: bool, waited: Duration) {
        self.awake = !looked && waited < LONGEST;
    }
}

/// Look once at least.
fn look_since<T>(begun: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let found = look();
        if found.is_some() || begun.elapsed() >= LONGEST {
            return found;
        }
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it looks the next time. It finds something then.
    fn looks(vigil: &mut Vigil) -> bool {
        vigil.keep(&mut (), |()| Some(true), |()| false)
    }

    #[test]
    fn who_slept_long_goes_to_sleep_at_once() {
        let mut vigil = Vigil { awake: true };
        vigil.learn(false, LONGEST);
        assert!(!looks(&mut vigil));
    }

    #[test]
    fn who_was_woken_soon_looks_as_long_as_that_is_worth_it() {
        let mut vigil = Vigil::default();
        vigil.learn(false, LONGEST - Duration::from_nanos(1));
        assert!(looks(&mut vigil) && looks(&mut vigil));
    }

    #[test]
    fn who_looked_in_vain_goes_to_sleep_at_once() {
        let mut vigil = Vigil { awake: true };
        assert!(!vigil.keep(&mut (), |()| None, |()| false), "in vain");
        assert!(!looks(&mut vigil));
    }
}
