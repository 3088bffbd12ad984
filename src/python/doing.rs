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

/// The callbacks that may run while somebody asks; those first that are called most.
const NAMES: [&str; 21] = [
    "pread",
    "pwrite",
    "flush",
    "zero",
    "trim",
    "extents",
    "cache",
    "open",
    "close",
    "get_size",
    "preconnect",
    "list_exports",
    "default_export",
    "export_description",
    "block_size",
    "can_write",
    "can_fua",
    "can_multi_conn",
    "can_cache",
    "cleanup",
    "after_fork",
];

/// In a thread's word: the number of the callback, from 1; whether its turn is waited for; since when, in
/// milliseconds. It is 0 outside of the plugin.
const NUMBER: u64 = 0x7f;
const WAITS: u64 = 0x80;
const TIME_SHIFT: u32 = 8;

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
    pub(super) fn wait(callback: &str) -> Self {
        Self {
            before: replace(word(callback) | WAITS),
        }
    }

    /// It runs this callback.
    pub(super) fn run(callback: &str) -> Self {
        Self {
            before: replace(word(callback)),
        }
    }

    /// Its turn to run this callback has come.
    pub(super) fn begin(&self, callback: &str) {
        replace(word(callback));
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

fn word(callback: &str) -> u64 {
    let number = NAMES.iter().position(|name| *name == callback);
    let number = number.map_or(NUMBER, |number| number as u64 + 1);
    (coarse_milliseconds() << TIME_SHIFT) | number
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
            let number = usize::try_from(word & NUMBER).unwrap_or(usize::MAX);
            let name = NAMES.get(number.wrapping_sub(1)).copied();
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
        let outer = Doing::wait("close");
        assert_eq!(mine() & (NUMBER | WAITS), 9 | WAITS);
        outer.begin("close");
        let inner = Doing::run("pread");
        assert_eq!(mine() & (NUMBER | WAITS), 1);
        drop(inner);
        assert_eq!(mine() & (NUMBER | WAITS), 9);
        drop(outer);
        assert_eq!(mine(), 0);
    }

    #[test]
    fn the_longest_is_told_of_those_that_run() {
        let at = |callback, ms: u64| word(callback) & NUMBER | ms << TIME_SHIFT;
        let words = [at("pread", 70), 0, at("flush", 40), at("zero", 10) | WAITS];
        let busy = told(&words, 100);
        assert_eq!(busy.under_way, 3);
        assert_eq!(busy.longest, Some(("flush", Duration::from_millis(60))));
        assert_eq!(told(&[0, 0], 100), Busy::default());
        let other = told(&[at("no such", 90)], 100).longest.unwrap();
        assert_eq!(other.0, "a callback");
    }

    #[test]
    fn a_thread_that_has_ended_is_forgotten() {
        let thread = std::thread::spawn(|| {
            drop(Doing::run("pread"));
            WORD.with(Arc::downgrade)
        });
        assert_eq!(thread.join().unwrap().strong_count(), 0);
    }
}
