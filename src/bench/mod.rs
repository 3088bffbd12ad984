//! Puts a load on a disk, for `pydisk bench`: one thread keeps so many requests under way for so long,
//! and notes how long each took.
//!
//! It sees what the disk's users see, a device, a file or a server, and neither the plugin nor the
//! processes that serve it: `cli/bench` joins the two.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

mod report;
mod way;

pub use report::{Figures, FrontEnd, Report, Row};
pub use way::{Place, Way};

use hdrhistogram::Histogram;
use pydisk_kernel::aio::{Direction, Done};

use crate::refusal::words;

/// Where the requests of a workload go, and which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere, to read.
    RandomReads,
    /// Anywhere, to write.
    RandomWrites,
    /// One behind the other, to read.
    SequentialReads,
}

impl Pattern {
    /// The words that people and scripts see.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::RandomReads => "random reads",
            Self::RandomWrites => "random writes",
            Self::SequentialReads => "sequential reads",
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::RandomReads | Self::SequentialReads => Direction::Read,
            Self::RandomWrites => Direction::Write,
        }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Where the requests go.
    pub pattern: Pattern,
    /// Bytes of a request.
    pub len: u32,
    /// Requests under way at a time; at least 1.
    pub depth: usize,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.len {
            len if len % (1 << 20) == 0 => (len >> 20, "M"),
            len if len % (1 << 10) == 0 => (len >> 10, "k"),
            len => (len, ""),
        };
        let words = self.pattern.words();
        write!(f, "{number}{unit} {words}, depth {}", self.depth)
    }
}

/// Told how a load goes on; asked whether it shall.
pub trait Watch {
    /// Requests have been answered.
    fn alive(&self);
    /// Whether to end early.
    fn is_over(&self) -> bool;
}

/// Decimal digits of a latency that are kept: a percentile is right to within 0.1%.
const DIGITS: u8 = 3;

/// What a load found.
#[derive(Debug)]
pub struct Measured {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// How long the requests took that succeeded, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// How many failed, by what the system says of their errors.
    pub failed: BTreeMap<String, u64>,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            elapsed: Duration::ZERO,
            latencies: Histogram::new(DIGITS).expect("at most five digits are kept"),
            failed: BTreeMap::new(),
        }
    }
}

impl Measured {
    /// Requests that were answered, one way or the other.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.latencies.len() + self.failures()
    }

    /// Requests that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    fn succeeded(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latencies
            .record(nanos)
            .expect("it grows to hold any number");
    }

    fn note(&mut self, done: &Done, took: Duration, len: u32) {
        let error = match &done.outcome {
            Ok(count) if *count == u64::from(len) => {
                self.succeeded(took);
                return;
            }
            Ok(count) => format!("{count} bytes of {len} were transferred"),
            Err(error) => words(error),
        };
        *self.failed.entry(error).or_default() += 1;
    }
}

/// How long to wait for answers before the watch is asked again.
const TICK: Duration = Duration::from_millis(100);

/// Keep requests under way for `time`; every one is answered when this returns.
///
/// # Errors
/// The device or the server is gone, or takes no requests at all.
pub fn run(
    way: &mut Way,
    workload: Workload,
    time: Duration,
    watch: &impl Watch,
) -> io::Result<Measured> {
    let mut places = Places::new(workload, way.size())?;
    let mut found = Measured::default();
    let mut sent_at = vec![Instant::now(); workload.depth];
    let mut done = Vec::with_capacity(workload.depth);
    watch.alive();
    let start = Instant::now();
    let mut under_way = 0;
    for (slot, sent_at) in sent_at.iter_mut().enumerate() {
        *sent_at = Instant::now();
        way.start(slot, workload.pattern.direction(), places.next());
        under_way += 1;
    }
    while under_way > 0 {
        way.wait(TICK, &mut done)?;
        let now = Instant::now();
        let goes_on = now - start < time && !watch.is_over();
        if !done.is_empty() {
            watch.alive();
        }
        for done in done.drain(..) {
            found.note(&done, now - sent_at[done.slot], workload.len);
            under_way -= 1;
            if goes_on {
                sent_at[done.slot] = now;
                way.start(done.slot, workload.pattern.direction(), places.next());
                under_way += 1;
            }
        }
    }
    found.elapsed = start.elapsed();
    Ok(found)
}

/// Where the next request goes.
struct Places {
    workload: Workload,
    blocks: u64,
    next: u64,
    random: fastrand::Rng,
}

impl Places {
    fn new(workload: Workload, size: u64) -> io::Result<Self> {
        let blocks = size / u64::from(workload.len);
        if blocks == 0 {
            let what = format!("a disk of {size} bytes is smaller than a request");
            return Err(io::Error::other(what));
        }
        Ok(Self {
            workload,
            blocks,
            next: 0,
            // The same places each time: who compares two runs compares the same requests.
            random: fastrand::Rng::with_seed(1),
        })
    }

    fn next(&mut self) -> u64 {
        let block = match self.workload.pattern {
            Pattern::RandomReads | Pattern::RandomWrites => self.random.u64(..self.blocks),
            Pattern::SequentialReads => {
                let block = self.next;
                self.next = (block + 1) % self.blocks;
                block
            }
        };
        block * u64::from(self.workload.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const READS: Workload = Workload {
        pattern: Pattern::RandomReads,
        len: 4096,
        depth: 4,
    };

    /// Over after so many batches of answers.
    struct Until(Cell<u32>);

    impl Watch for Until {
        fn alive(&self) {
            self.0.set(self.0.get().saturating_sub(1));
        }
        fn is_over(&self) -> bool {
            self.0.get() == 0
        }
    }

    fn file(size: u64) -> Way {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        Way::file(file, size, READS.depth, READS.len).unwrap()
    }

    #[test]
    fn a_load_ends_when_the_watch_says_so_with_every_answer() {
        let mut way = file(1 << 20);
        let time = Duration::from_secs(600);
        let found = run(&mut way, READS, time, &Until(Cell::new(10))).unwrap();
        assert!(found.requests() >= 10 + 3, "{found:?}");
        assert_eq!(found.failures(), 0);
        assert_eq!(found.requests(), found.latencies.len());
    }

    #[test]
    fn a_load_ends_with_its_time() {
        let mut way = file(1 << 20);
        let time = Duration::from_millis(20);
        let found = run(&mut way, READS, time, &Until(Cell::new(u32::MAX))).unwrap();
        assert!(found.elapsed >= time);
    }

    #[test]
    fn requests_that_fail_are_counted_by_their_errors() {
        // As large as is said, but for the second half.
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 19).unwrap();
        let mut way = Way::file(file, 1 << 20, READS.depth, READS.len).unwrap();
        let found = run(
            &mut way,
            READS,
            Duration::from_millis(50),
            &Until(Cell::new(u32::MAX)),
        )
        .unwrap();
        let errors: Vec<_> = found.failed.keys().collect();
        assert_eq!(errors, ["0 bytes of 4096 were transferred"]);
        assert!(!found.latencies.is_empty() && found.failures() > 0);
    }

    #[test]
    fn latencies_of_any_length_keep_three_digits() {
        let mut found = Measured::default();
        for micros in 1..=1000 {
            found.succeeded(Duration::from_micros(micros));
        }
        for (percent, micros) in [(0.50, 500), (0.99, 990), (1.0, 1000)] {
            let nanos = found.latencies.value_at_quantile(percent);
            assert!(
                nanos.abs_diff(micros * 1000) <= micros,
                "{percent}: {nanos}"
            );
        }
        found.succeeded(Duration::ZERO);
        found.succeeded(Duration::MAX);
        assert_eq!(found.requests(), 1002);
        assert_eq!(found.latencies.max(), u64::MAX);
    }

    #[test]
    fn sequential_requests_begin_anew_at_the_end() {
        let workload = Workload {
            pattern: Pattern::SequentialReads,
            len: 3,
            depth: 1,
        };
        let mut places = Places::new(workload, 10).unwrap();
        let all: Vec<_> = (0..5).map(|_| places.next()).collect();
        assert_eq!(all, [0, 3, 6, 0, 3]);
        assert!(Places::new(workload, 2).is_err());
    }

    #[test]
    fn workloads_in_words() {
        assert_eq!(READS.to_string(), "4k random reads, depth 4");
        let odd = Workload {
            pattern: Pattern::SequentialReads,
            len: 513,
            depth: 1,
        };
        assert_eq!(odd.to_string(), "513 sequential reads, depth 1");
    }
}
