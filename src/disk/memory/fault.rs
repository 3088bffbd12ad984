//! Failures on purpose: which requests of a [`super::Memory`] fail, and how.

use std::ops::Range;
use std::time::Duration;

use crate::disk::{Errno, OpKind, Request};

/// What becomes of a request that a fault matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and changes nothing.
    Fail(Errno),
    /// It does the first half of its work, then fails.
    Tear(Errno),
    /// The disk panics.
    Panic,
    /// It succeeds later.
    Delay(Duration),
}

/// Requests that shall go wrong: the next one, unless told otherwise.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Option<OpKind>,
    within: Option<Range<u64>>,
    skip: u64,
    left: u64,
    effect: Effect,
}

impl Fault {
    /// The next request of any kind gets `effect`.
    #[must_use]
    pub fn new(effect: Effect) -> Self {
        Self {
            kind: None,
            within: None,
            skip: 0,
            left: 1,
            effect,
        }
    }

    /// The next request fails with `errno` and changes nothing.
    #[must_use]
    pub fn fail(errno: Errno) -> Self {
        Self::new(Effect::Fail(errno))
    }

    /// Only requests of this kind.
    #[must_use]
    pub fn on(mut self, kind: OpKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Only requests that touch a byte of `range`; this leaves out flushes.
    #[must_use]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.within = Some(range);
        self
    }

    /// Let `count` matching requests pass first.
    #[must_use]
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Strike `count` times, not once.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.left = count;
        self
    }

    /// Strike every matching request from now on.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(u64::MAX)
    }

    /// The effect on `request`, if this fault is for it; counts it.
    pub(super) fn strike(&mut self, request: &Request<'_>) -> Option<Effect> {
        if self.left == 0 || self.kind.is_some_and(|kind| kind != request.op.kind()) {
            return None;
        }
        let range = request.range();
        if let Some(within) = &self.within
            && (range.start.max(within.start) >= range.end.min(within.end))
        {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.left -= 1;
        Some(self.effect)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}
