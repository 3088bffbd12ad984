//! How long requests took: counts in intervals that grow with the time, so that a percentile costs
//! no memory a request and is right to within 2%.

use std::time::Duration;

/// Intervals in each doubling.
const FINE: u32 = 64;

/// Times that were noted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u64>,
    count: u64,
}

impl Latencies {
    /// Note a time.
    pub fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let index = interval(nanos);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.count += 1;
    }

    /// How many were noted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that `percent` of all stayed below; zero if there is none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(Duration::ZERO, |index| Duration::from_nanos(middle(index)))
    }
}

/// The interval of a time: the first ones have a nanosecond each, and from there on each doubling has
/// [`FINE`] of them.
fn interval(nanos: u64) -> usize {
    let fine = u64::from(FINE);
    if nanos < fine {
        return usize::try_from(nanos).unwrap_or_default();
    }
    let doubling = nanos.ilog2() - FINE.ilog2();
    let within = (nanos >> doubling) - fine;
    let index = u64::from(doubling + 1) * fine + within;
    usize::try_from(index).expect("64 doublings of 64 intervals")
}

/// The time in the middle of an interval.
fn middle(index: usize) -> u64 {
    let fine = u64::from(FINE);
    let index = index as u64;
    let Some(doubling) = (index / fine).checked_sub(1) else {
        return index;
    };
    let low = (index % fine + fine) << doubling;
    low + (1 << doubling) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_narrow_and_in_order() {
        for nanos in 0..2000 {
            assert!(interval(nanos) <= interval(nanos + 1));
        }
        let edges = (7..64).flat_map(|power| {
            let edge = 1_u64 << power;
            [edge - 1, edge, edge + edge / 3]
        });
        for nanos in (0..2000).chain(edges) {
            let found = middle(interval(nanos));
            assert!(found.abs_diff(nanos) <= nanos / 64, "{nanos}: {found}");
        }
        assert!(interval(u64::MAX) < 64 * 64);
    }

    #[test]
    fn percentiles_are_those_of_what_was_noted() {
        let mut found = Latencies::default();
        assert_eq!(found.percentile(50), Duration::ZERO);
        for micros in 1..=1000 {
            found.add(Duration::from_micros(micros));
        }
        for (percent, micros) in [(50, 500), (99, 990), (100, 1000)] {
            let found = found.percentile(percent);
            let off = found.abs_diff(Duration::from_micros(micros));
            assert!(off * 64 <= found, "{percent}: {found:?}");
        }
        assert_eq!(found.count(), 1000);
    }
}
