//! Whose turn it is to read: one lane's at a time, and somebody's as long as there are requests.

use std::sync::atomic::Ordering;

use super::turns::Turns;
use crate::sync::{AtomicBool, Condvar, Mutex, stand_still, thread};

/// Where lanes meet: each waits until so many have come.
#[derive(Debug, Default)]
struct Meeting {
    came: Mutex<u16>,
    changed: Condvar,
}

impl Meeting {
    fn wait_for(&self, number: u16) {
        let mut came = self.came.lock();
        *came += 1;
        self.changed.notify_all();
        while *came < number {
            self.changed.wait(&mut came);
        }
    }
}

/// Three lanes take requests, some of them slow, and one ends it.
pub fn one_lane_reads_at_a_time_and_all_end() {
    let turns = Turns::default();
    let (inside, over, taken) = (
        AtomicBool::new(false),
        AtomicBool::new(false),
        Mutex::new(0),
    );
    let lane = |mut slow: bool| {
        while turns.begin(slow) || turns.wait() {
            assert!(!inside.swap(true, Ordering::SeqCst), "two lanes read");
            assert!(!over.load(Ordering::SeqCst), "it is over");
            let number = {
                let mut taken = taken.lock();
                *taken += 1;
                *taken
            };
            inside.store(false, Ordering::SeqCst);
            if number == 5 {
                turns.end();
                over.store(true, Ordering::SeqCst);
                return;
            }
            turns.pass();
            slow = number == 3;
        }
        assert!(!turns.begin(false) && !turns.wait(), "it is over");
    };
    thread::scope(|scope| {
        for slow in [false, true] {
            let lane = &lane;
            scope.spawn(move || lane(slow));
        }
        lane(false);
    });
    assert_eq!(*taken.lock(), 5);
}

/// A lane that took a request does not come back before all others have taken one as well.
fn lanes_that_meet(slow: bool, lanes: u16) {
    let turns = Turns::default();
    let meeting = Meeting::default();
    let lane = |slow: bool| {
        if turns.begin(slow) || turns.wait() {
            turns.pass();
            meeting.wait_for(lanes);
        }
    };
    thread::scope(|scope| {
        for _ in 1..lanes {
            scope.spawn(|| lane(slow));
        }
        lane(slow);
    });
}

/// Requests were quick so far: who watches finds out.
pub fn a_lane_that_does_not_come_back_is_not_waited_for() {
    lanes_that_meet(false, 3);
}

/// No watching is needed after a slow request: who has the turn says so.
pub fn after_a_slow_request_the_turn_is_handed_on_without_a_clock() {
    stand_still();
    lanes_that_meet(true, 3);
}

/// The same with one lane that waits, or comes later.
pub fn the_turn_is_handed_on_to_one_lane_without_a_clock() {
    stand_still();
    let turns = Turns::default();
    assert!(turns.begin(true));
    thread::scope(|scope| {
        scope.spawn(|| assert!(turns.begin(false) || turns.wait(), "it is not over"));
        turns.pass();
    });
}

/// A lane that has no turn ends it, as when its reply cannot be sent.
pub fn anybody_may_end_it() {
    let turns = Turns::default();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for request in 0..4 {
                    if !turns.begin(request == 1) && !turns.wait() {
                        return;
                    }
                    turns.pass();
                }
            });
        }
        turns.end();
    });
    assert!(!turns.begin(false) && !turns.wait(), "it is over");
}
