//! What the plugin is doing right now, so that one that never returns can be named.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::callback;
use crate::disk::{OpKind, Request};

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

    /// What has been under way for longer than `patience`.
    #[must_use]
    pub fn overdue(&self, patience: Duration) -> Option<Doing> {
        let under_way = self.under_way.lock();
        let late = under_way
            .values()
            .find(|(_, since)| since.elapsed() > patience);
        late.map(|(doing, _)| *doing)
    }
}
