//! Whose turn it is to read: one lane of a connection at a time takes a request off it.
//!
//! To wake another lane for each request costs more than most requests. So a lane that took one goes
//! on reading when it has served it, as long as requests are quick. One of the lanes that wait watches:
//! where a request turns out to be slow, it takes over. From then on the reading side is handed on
//! with every request, until they are quick again.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// How often the watching lane looks, while there are requests.
const TICK: Duration = Duration::from_millis(1);
/// Requests for which the reading side is handed on after a slow one.
const CAREFUL: u32 = 64;

/// Whose turn it is to read.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Held for a moment only; no other lock is taken meanwhile.
    state: Mutex<State>,
    /// For the one lane that watches.
    watch: Condvar,
    /// For the others that wait.
    called: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A lane has the turn.
    reading: bool,
    /// Nobody reads any more.
    over: bool,
    /// Requests that were taken so far.
    taken: u64,
    /// Requests for which the turn is still handed on.
    careful: u32,
    /// Lanes that wait.
    idle: u16,
    /// One of them watches.
    watched: bool,
    /// It looks again only when it is told to.
    asleep: bool,
    /// A lane that waits was told that the turn is free.
    handed: bool,
}

/// What the lane that had the turn does after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct After {
    /// Nobody waits: another lane should be started, if there may be one.
    pub(super) alone: bool,
    /// Requests are quick; replies may wait for the next ones.
    pub(super) quick: bool,
}

impl Turns {
    /// Take the turn if it is free. `slow` tells of the request that the lane has served just now.
    pub(super) fn begin(&self, slow: bool) -> bool {
        let mut state = self.state.lock();
        if slow {
            state.careful = CAREFUL;
        }
        if state.reading || state.over {
            return false;
        }
        state.reading = true;
        state.handed = false;
        true
    }

    /// Wait for the turn, which comes also when the lane that had it is stuck in a slow request; false
    /// when it is over.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        state.idle += 1;
        while state.reading && !state.over {
            if state.watched {
                self.called.wait(&mut state);
                continue;
            }
            state.watched = true;
            self.watch(&mut state);
            state.watched = false;
        }
        state.idle -= 1;
        if state.over {
            return false;
        }
        state.reading = true;
        state.handed = false;
        if !state.watched && state.idle > 0 {
            // Who watched has the turn now.
            self.called.notify_one();
        }
        true
    }

    /// A request was taken.
    pub(super) fn pass(&self) -> After {
        let mut state = self.state.lock();
        state.reading = false;
        state.taken += 1;
        let quick = state.careful == 0;
        state.careful = state.careful.saturating_sub(1);
        let others = state.idle - u16::from(state.watched);
        if !quick && state.idle > 0 {
            state.handed = true;
            match others {
                0 => self.watch.notify_one(),
                _ => self.called.notify_one(),
            };
        } else if state.asleep {
            self.watch.notify_one();
        }
        After {
            alone: state.idle == 0,
            quick,
        }
    }

    /// Nobody shall read any more.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.reading = false;
        state.over = true;
        self.watch.notify_all();
        self.called.notify_all();
    }

    /// Wait until the turn is handed on, or the lane that had it does not come back.
    fn watch(&self, state: &mut MutexGuard<'_, State>) {
        let mut seen = state.taken;
        let mut calm = false;
        loop {
            if calm {
                state.asleep = true;
                self.watch.wait(state);
                state.asleep = false;
            } else {
                self.watch.wait_for(state, TICK);
            }
            if state.over || state.handed {
                return;
            }
            let same = state.taken == seen;
            seen = state.taken;
            if same && !state.reading {
                return;
            }
            calm = same;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_lane_reads_at_a_time_and_all_end() {
        let turns = Turns::default();
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for lane in 0..4 {
                let (turns, inside, taken) = (&turns, &inside, &taken);
                scope.spawn(move || {
                    let mut slow = false;
                    while turns.begin(slow) || turns.wait() {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        let number = taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        if number == 5000 {
                            return turns.end();
                        }
                        turns.pass();
                        slow = number % 700 < 100 + lane;
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 5000);
    }

    /// Another lane waits, and then this one takes a request.
    fn hand_over(turns: &Turns) -> After {
        thread::scope(|scope| {
            let other = scope.spawn(|| turns.wait());
            while turns.state.lock().idle == 0 {
                thread::yield_now();
            }
            let after = turns.pass();
            assert!(other.join().unwrap(), "the other lane has the turn");
            after
        })
    }

    #[test]
    fn a_lane_that_does_not_come_back_is_not_waited_for() {
        let turns = Turns::default();
        assert!(turns.begin(false));
        assert!(!turns.begin(false));
        let after = hand_over(&turns);
        assert!(!after.alone && after.quick);
    }

    #[test]
    fn after_a_slow_request_the_turn_is_handed_on() {
        let turns = Turns::default();
        assert!(turns.begin(true));
        assert!(!hand_over(&turns).quick);
    }
}
