//! What the plugin is doing right now, so that one that never returns can be named.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::callback;
use crate::disk::{OpKind, Request};

/// A read, a write or a zeroing has the patience of a call once more for each of so many bytes: what is long may
/// rightly take long, as over a slow network.
const LONG: u64 = 8 << 20;

/// A call of the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doing {
    /// The callback.
    pub callback: &'static str,
    at: u64,
    len: u64,
}

impl Doing {
    /// A callback that is not about a range of the disk.
    #[must_use]
    pub fn call(callback: &'static str) -> Self {
        Self::range(callback, 0, 0)
    }

    pub(super) fn range(callback: &'static str, at: u64, len: u64) -> Self {
        Self { callback, at, len }
    }

    pub(super) fn request(request: &Request<'_>) -> Self {
        let kind = request.op.kind();
        match kind {
            OpKind::Flush => Self::call(callback(kind)),
            _ => Self::range(callback(kind), request.at, request.op.len()),
        }
    }

    /// How long it may take, where other callbacks may take `patience`.
    fn allowance(&self, patience: Duration) -> Duration {
        let moves = ["pread", "pwrite", "zero"].contains(&self.callback);
        let times = if moves { 1 + self.len / LONG } else { 1 };
        patience.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
    }

    /// `512 bytes at 4096`, or `called` for what has no range.
    #[must_use]
    pub fn what(&self) -> String {
        match self.len {
            0 => "called".to_owned(),
            len => format!("{len} bytes at {}", self.at),
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.callback, self.len) {
            ("the script", _) => f.write_str("the script to be loaded"),
            (callback, 0) => write!(f, "`{callback}`"),
            (callback, _) => write!(f, "`{callback}` of {}", self.what()),
        }
    }
}

/// Knows what is being done, on all threads.
#[derive(Debug, Default)]
pub struct Watch {
    next: AtomicU64,
    /// Held only while looked at.
    under_way: Mutex<BTreeMap<u64, (Doing, Instant)>>,
}

impl Watch {
    /// Do `work`, which is `doing`.
    pub fn during<T>(&self, doing: Doing, work: impl FnOnce() -> T) -> T {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = (doing, Instant::now());
        self.under_way.lock().insert(number, entry);
        let outcome = work();
        self.under_way.lock().remove(&number);
        outcome
    }

    /// What has been under way for longest, and since when.
    #[must_use]
    pub fn oldest(&self) -> Option<(Doing, Instant)> {
        let under_way = self.under_way.lock();
        under_way.values().min_by_key(|(_, since)| *since).copied()
    }

    /// What has been under way for longer than it may be, and how long that is. `patience` is for what moves few
    /// bytes.
    #[must_use]
    pub fn overdue(&self, patience: Duration) -> Option<(Doing, Duration)> {
        let under_way = self.under_way.lock();
        let mut calls = under_way.values();
        let late = calls.find(|(doing, since)| since.elapsed() > doing.allowance(patience));
        late.map(|(doing, _)| (*doing, doing.allowance(patience)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_many_bytes_may_take_longer() {
        let second = Duration::from_secs(1);
        for (callback, len, times) in [
            ("pread", 0, 1),
            ("pread", 1 << 20, 1),
            ("pread", 64 << 20, 9),
            ("pwrite", 64 << 20, 9),
            ("zero", 64 << 20, 9),
            ("extents", 1 << 30, 1),
            ("trim", 1 << 30, 1),
        ] {
            let allowed = Doing::range(callback, 0, len).allowance(second);
            assert_eq!(allowed, second * times, "{callback} {len}");
        }
    }
}
