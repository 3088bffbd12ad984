//! How much time is spent inside the plugin's callbacks, where somebody wants to know: two readings of
//! the clock a call, about 50 ns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts the calls and their time, over all threads.
#[derive(Debug, Default)]
pub struct Stopwatch {
    calls: AtomicU64,
    nanos: AtomicU64,
}

impl Stopwatch {
    /// Do `work`, a callback, and count it.
    pub(super) fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.count(start.elapsed());
        done
    }

    /// Count a callback that took so long.
    pub(super) fn count(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Calls that have returned, and the time that they took; callbacks of several threads at a time
    /// each count in full.
    #[must_use]
    pub fn read(&self) -> (u64, Duration) {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let calls = self.calls.load(Ordering::Relaxed);
        (calls, Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_several_threads_are_summed() {
        let watch = Stopwatch::default();
        let nap = Duration::from_millis(5);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| watch.time(|| std::thread::sleep(nap)));
            }
        });
        let (calls, time) = watch.read();
        assert_eq!(calls, 4);
        assert!(time >= 4 * nap, "{time:?}");
    }
}
