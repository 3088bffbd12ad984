//! Requests on the event loop: each is answered once, whatever becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::promise::{Promise, Waiting};
use super::queue::Queue;
use super::wake::Wake;
use super::{Begun, Job, Outcome, PYTHON, Python};
use crate::sync::{stand_still, thread};

/// A request, and how often it has come to an end.
struct Request {
    number: u64,
    /// What calling its callback gives.
    begins: Result<Option<Begun>, &'static str>,
    ends: Arc<AtomicU64>,
    /// Counts one while its memory is lent.
    lent: Arc<AtomicU64>,
}

impl Job for Request {
    fn begin(&mut self, _: Python<'_>) -> Result<Option<Begun>, &'static str> {
        self.begins
    }

    fn end(self: Box<Self>, _: Python<'_>, outcome: Outcome) -> Result<u64, &'static str> {
        self.ends.fetch_add(1, Ordering::SeqCst);
        outcome.map(|value| value + self.number)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.lent.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What who has asked holds.
struct Asked {
    waiting: Waiting,
    ends: Arc<AtomicU64>,
    lent: Arc<AtomicU64>,
}

fn ask(number: u64, begins: Result<Option<Begun>, &'static str>) -> (Promise, Asked) {
    let (ends, lent) = (Arc::default(), Arc::new(AtomicU64::new(1)));
    let (promise, waiting) = Promise::of_job(Box::new(Request {
        number,
        begins,
        ends: Arc::clone(&ends),
        lent: Arc::clone(&lent),
    }));
    let asked = Asked {
        waiting,
        ends,
        lent,
    };
    (promise, asked)
}

impl Asked {
    /// The answer, as `serve` waits for it; none if it is not for the loop. There is one, and nothing holds
    /// the request's memory then.
    fn answer(self, gives_up: impl Fn() -> bool) -> Option<Result<u64, &'static str>> {
        while !self.waiting.wait() {
            if gives_up() {
                break;
            }
        }
        let answer = match self.waiting.served() {
            Ok(served) => served,
            Err(Some(job)) => Some(job.end(PYTHON, Err("given up"))),
            Err(None) => panic!("who has the job has not told what came of it"),
        };
        assert_eq!(self.lent.load(Ordering::SeqCst), 0, "its memory is lent");
        assert!(self.ends.load(Ordering::SeqCst) <= 1, "it has ended twice");
        answer
    }
}

/// The event loop: it runs what comes until it is to end, and dies.
fn run(queue: &Queue, serve: impl Fn(Promise)) {
    while !queue.is_ending() {
        queue.wake().watch();
        queue.take().into_iter().for_each(&serve);
    }
    queue.dies();
}

/// As a coroutine that is never suspended.
fn serve(promise: Promise) {
    let Some((promise, value)) = promise.begin(PYTHON) else {
        return;
    };
    promise.ends(Ok(value));
    promise.done(PYTHON);
}

/// Whoever asks gets an answer without looking for it, and the loop sleeps until somebody asks.
pub fn every_request_that_was_pushed_is_served() {
    stand_still();
    let queue = Queue::new(Wake::default());
    thread::scope(|scope| {
        scope.spawn(|| run(&queue, serve));
        let both = [10, 20].map(|number| {
            let queue = &queue;
            scope.spawn(move || {
                for number in [number, number + 1] {
                    let (promise, asked) = ask(number, Ok(Some(100)));
                    assert!(queue.push(promise), "it does not end yet");
                    assert_eq!(asked.answer(|| false), Some(Ok(100 + number)));
                }
            })
        });
        for one in both {
            one.join().expect("it has an answer");
        }
        queue.end();
    });
}

/// The loop ends while requests come: they are served, or told that they are not.
pub fn who_asks_while_the_loop_ends_is_told() {
    stand_still();
    let queue = Queue::new(Wake::default());
    thread::scope(|scope| {
        scope.spawn(|| run(&queue, serve));
        let one = || {
            for number in [1, 2] {
                let (promise, asked) = ask(number, Ok(Some(100)));
                if queue.push(promise) {
                    let answer = asked.answer(|| false);
                    assert!(answer == Some(Ok(100 + number)) || answer == Some(Err("given up")));
                }
            }
        };
        scope.spawn(one);
        scope.spawn(one);
        queue.end();
    });
    let (promise, _) = ask(3, Ok(None));
    assert!(queue.is_dead() && !queue.push(promise), "it is dead");
}

/// The loop does with one request what `becomes` does, while who asked waits.
fn one(
    begins: Result<Option<Begun>, &'static str>,
    becomes: impl FnOnce(Promise) + Send + 'static,
) -> Option<Result<u64, &'static str>> {
    let (promise, asked) = ask(1, begins);
    let becomes = thread::spawn(move || becomes(promise));
    let answer = asked.answer(|| false);
    becomes.join().expect("the answer is there");
    answer
}

/// The coroutine returns.
pub fn a_request_that_is_served_is_answered_with_what_came_of_it() {
    stand_still();
    assert_eq!(one(Ok(Some(100)), serve), Some(Ok(101)));
}

/// The same where who waits looks now and then.
pub fn looking_now_and_then_changes_nothing() {
    assert_eq!(one(Ok(Some(100)), serve), Some(Ok(101)));
}

/// The callback gave nothing to await.
pub fn a_request_that_is_not_for_the_loop_is_answered() {
    stand_still();
    assert_eq!(one(Ok(None), serve), None);
}

/// The callback failed.
pub fn a_request_that_is_not_begun_is_answered() {
    stand_still();
    assert_eq!(one(Err("no"), serve), Some(Err("no")));
}

/// The loop forgets it before its callback was called.
pub fn a_request_that_is_forgotten_is_answered() {
    stand_still();
    assert_eq!(one(Ok(Some(100)), drop), Some(Err("given up")));
}

/// The loop forgets it after its callback was called.
pub fn a_request_that_is_forgotten_later_is_answered() {
    stand_still();
    let begun = one(Ok(Some(100)), |promise| drop(promise.begin(PYTHON)));
    assert_eq!(begun, Some(Err("given up")));
}

/// It is cancelled: nothing is told but that it is done.
pub fn a_request_that_is_cancelled_is_answered() {
    stand_still();
    let cancelled = one(Ok(Some(100)), |promise| {
        let begun = promise.begin(PYTHON);
        begun.expect("it gives a number").0.done(PYTHON);
    });
    assert_eq!(cancelled, Some(Err("cancelled")));
}

/// A task factory that fails after the task has run tells once more.
pub fn what_is_told_after_the_end_changes_nothing() {
    stand_still();
    let first = one(Ok(Some(100)), |promise| {
        let (promise, value) = promise.begin(PYTHON).expect("it gives a number");
        promise.ends(Ok(value));
        promise.done(PYTHON);
        promise.ends(Err("late"));
        promise.done(PYTHON);
        promise.runs(Box::new(7));
    });
    assert_eq!(first, Some(Ok(101)));
}

/// A callback that was called already has no job; its outcome is what is told.
pub fn the_outcome_of_a_callback_reaches_who_waits() {
    stand_still();
    for outcome in [Some(Ok(5)), Some(Err("no")), None] {
        let (promise, waiting) = Promise::new();
        let tells = thread::spawn(move || {
            promise.runs(Box::new(7));
            outcome.into_iter().for_each(|it| promise.ends(it));
            promise.done(PYTHON);
            // An eager task has run before the loop has it.
            promise.runs(Box::new(7));
        });
        while !waiting.wait() {}
        assert_eq!(waiting.outcome(), outcome);
        tells.join().expect("the outcome is there");
        assert!(waiting.with_task(|_| ()).is_none(), "it is kept alive");
    }
}
