//! So many lines of one kind in a while and no more. Whoever repeats himself, a plugin that fails every
//! request or a client that comes and goes, does not fill the disk that holds the log.

use std::time::{Duration, Instant};

/// Counts the lines of one kind.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst: u32,
    window: Duration,
    /// When the first line of this window was to be logged.
    since: Option<Instant>,
    logged: u32,
    hidden: u64,
}

impl Limiter {
    /// At most `burst` lines in each `window`.
    pub(crate) const fn new(burst: u32, window: Duration) -> Self {
        Self {
            burst,
            window,
            since: None,
            logged: 0,
            hidden: 0,
        }
    }

    /// Whether to log another line now; then how many were hidden since the last one that was logged.
    pub(crate) fn admit(&mut self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&mut self, now: Instant) -> Option<u64> {
        let is_over = |since| now.saturating_duration_since(since) >= self.window;
        if self.since.is_none_or(is_over) {
            self.since = Some(now);
            self.logged = 0;
        }
        if self.logged == self.burst {
            self.hidden += 1;
            return None;
        }
        self.logged += 1;
        Some(self.take_hidden())
    }

    /// How many were hidden since the last one that was logged; counted anew from here on.
    pub(crate) fn take_hidden(&mut self) -> u64 {
        std::mem::take(&mut self.hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_and_what_is_hidden_is_told_with_the_next() {
        let window = Duration::from_secs(10);
        let mut limiter = Limiter::new(2, window);
        let start = Instant::now();
        let mut at = |after| limiter.admit_at(start + after);
        for _ in 0..2 {
            assert_eq!(at(Duration::ZERO), Some(0));
        }
        let end = window - Duration::from_nanos(1);
        assert_eq!((at(Duration::ZERO), at(end)), (None, None));
        assert_eq!(at(window), Some(2));
        assert_eq!(at(window), Some(0));
        assert_eq!(at(window + end), None);
        // The next window begins with what is to be logged.
        assert_eq!(at(window * 5), Some(1));
        assert_eq!(at(window * 5 + end), Some(0));
        assert_eq!(at(window * 5 + end), None);
        assert_eq!(limiter.take_hidden(), 1);
        assert_eq!(limiter.take_hidden(), 0);
    }
}
