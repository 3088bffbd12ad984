//! Which callbacks run, and since when: for whoever wonders why a disk does not answer.
//!
//! Each thread that calls the plugin has one word of its own, which says what it does. To change that takes
//! some nanoseconds and no lock; to read those of all threads takes neither Python nor any of them. The clock is
//! the kernel's coarse one, which is read from memory and right to some milliseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use pydisk_kernel::process::coarse_milliseconds;

use super::callbacks::Callback;

/// In a thread's word: the number of the callback, from 1; whether its turn is waited for; since when, in
/// milliseconds. It is 0 outside of the plugin.
const NUMBER: u64 = 0x7f;
const WAITS: u64 = 0x80;
const TIME_SHIFT: u32 = 8;

/// The number of a turn for any callbacks.
const ANY: u64 = NUMBER;

/// Of all threads that have called the plugin. Locked when a thread calls it for the first time, and to read.
static WORDS: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());

thread_local! {
    static WORD: Arc<AtomicU64> = registered();
}

fn registered() -> Arc<AtomicU64> {
    let word = Arc::default();
    let mut words = WORDS.lock();
    words.retain(|word| word.strong_count() > 0);
    words.push(Arc::downgrade(&word));
    word
}

/// What this thread does until it is dropped; then what it did before.
#[derive(Debug)]
pub(super) struct Doing {
    before: u64,
}

impl Doing {
    /// It waits for its turn to run this callback.
    pub(super) fn wait(callback: Callback) -> Self {
        Self::now(number(callback) | WAITS)
    }

    /// It waits for a turn in which it may run any.
    pub(super) fn wait_for_any() -> Self {
        Self::now(ANY | WAITS)
    }

    /// It runs this callback.
    pub(super) fn run(callback: Callback) -> Self {
        Self::now(number(callback))
    }

    fn now(what: u64) -> Self {
        Self {
            before: replace(since_now(what)),
        }
    }

    /// Its turn to run this callback has come.
    pub(super) fn begin(&self, callback: Callback) {
        replace(since_now(number(callback)));
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        replace(self.before);
    }
}

/// Only the thread itself writes its word, so what it says last is not lost.
fn replace(word: u64) -> u64 {
    let replaced = WORD.try_with(|mine| {
        let before = mine.load(Ordering::Relaxed);
        mine.store(word, Ordering::Relaxed);
        before
    });
    // A thread that ends has none any more.
    replaced.unwrap_or(0)
}

fn number(callback: Callback) -> u64 {
    u64::from(callback as u8) + 1
}

fn since_now(what: u64) -> u64 {
    (coarse_milliseconds() << TIME_SHIFT) | what
}

/// What the plugin is busy with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Requests of callbacks that run or whose turn is waited for.
    pub under_way: u64,
    /// The callback that runs for longest, and how long it has.
    pub longest: Option<(&'static str, Duration)>,
}

/// What the plugin of this process is busy with.
#[must_use]
pub fn busy() -> Busy {
    let words: Vec<u64> = {
        let words = WORDS.lock();
        let words = words.iter().filter_map(Weak::upgrade);
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    };
    told(&words, coarse_milliseconds())
}

fn told(words: &[u64], now: u64) -> Busy {
    let under_way = words.iter().filter(|word| **word != 0);
    let running = under_way.clone().filter(|word| *word & WAITS == 0);
    let longest = running.min_by_key(|word| *word >> TIME_SHIFT);
    Busy {
        under_way: under_way.count() as u64,
        longest: longest.map(|word| {
            let number = u8::try_from((word & NUMBER).wrapping_sub(1)).ok();
            let name = number.and_then(Callback::numbered).map(Callback::name);
            let time = now.saturating_sub(*word >> TIME_SHIFT);
            (name.unwrap_or("a callback"), Duration::from_millis(time))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_does_one_thing_inside_another() {
        let mine = || WORD.with(|word| word.load(Ordering::Relaxed));
        let outer = Doing::wait(Callback::Close);
        assert_eq!(mine() & (NUMBER | WAITS), number(Callback::Close) | WAITS);
        outer.begin(Callback::Close);
        let inner = Doing::run(Callback::Pread);
        assert_eq!(mine() & (NUMBER | WAITS), number(Callback::Pread));
        drop(inner);
        assert_eq!(mine() & (NUMBER | WAITS), number(Callback::Close));
        drop(outer);
        assert_eq!(mine(), 0);
    }

    #[test]
    fn the_longest_is_told_of_those_that_run() {
        let at = |callback, ms: u64| number(callback) | ms << TIME_SHIFT;
        let waits = at(Callback::Zero, 10) | WAITS;
        let words = [at(Callback::Pread, 70), 0, at(Callback::Flush, 40), waits];
        let busy = told(&words, 100);
        assert_eq!(busy.under_way, 3);
        assert_eq!(busy.longest, Some(("flush", Duration::from_millis(60))));
        assert_eq!(told(&[0, 0], 100), Busy::default());
        let any = told(&[ANY | WAITS | 10 << TIME_SHIFT], 100);
        assert_eq!((any.under_way, any.longest), (1, None));
    }

    #[test]
    fn a_thread_that_has_ended_is_forgotten() {
        let thread = std::thread::spawn(|| {
            drop(Doing::run(Callback::Pread));
            WORD.with(Arc::downgrade)
        });
        assert_eq!(thread.join().unwrap().strong_count(), 0);
    }
}
