//! What a worker holds while it is given work: its memory, its descriptors and its log.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use support::nbd::{Held, KIB, MIB};
use support::say;

/// What a kind may add to the worker's resident memory after a tenth of it was done before. A leak of 18
/// bytes a request or of 180 bytes an exception adds more; at the scale of 34 half a byte and 5 bytes do.
/// Measured were 0 to 64 KiB. It is not nothing because the allocators of Python and of the C library take
/// memory by the page and in an order of their own, with threads that come and go.
const GROWTH: u64 = 512 * KIB;

/// The log starts anew when it has grown to 4 MiB; one entry more is at most 32 KiB of text, twice.
const LOG: u64 = 4 * MIB + 128 * KIB;

/// Watches a worker while it is given work.
pub(super) struct Watched {
    worker: i32,
    log: PathBuf,
    /// What grew, in words.
    grown: Vec<String>,
    /// The most bytes that the log had.
    longest: u64,
}

impl Watched {
    pub(super) fn new(worker: i32, log: PathBuf) -> Self {
        Self {
            worker,
            log,
            grown: Vec::new(),
            longest: 0,
        }
    }

    /// Have `ask` do something so often, and once for a tenth of that before.
    pub(super) fn during(&mut self, name: &str, count: u32, mut ask: impl FnMut(u32)) {
        ask(count / 10);
        let before = Held::by(self.worker);
        for _ in 0..10 {
            ask(count / 10);
            self.longest = self
                .longest
                .max(std::fs::metadata(&self.log).unwrap().len());
        }
        // The last client may just be leaving.
        let mut after = Held::by(self.worker);
        for _ in 0..600 {
            if after.descriptors <= before.descriptors {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            after = Held::by(self.worker);
        }
        let growth = after.resident.saturating_sub(before.resident);
        say(&format!(
            "{count:8} times {name}: {} + {growth} bytes",
            before.resident
        ));
        if growth > GROWTH || after.descriptors > before.descriptors {
            self.grown
                .push(format!("{name}: {before:?} became {after:?}"));
        }
    }

    pub(super) fn all_is_flat(&self) {
        assert!(self.grown.is_empty(), "{:#?}", self.grown);
        assert!(self.longest <= LOG, "the log had {} bytes", self.longest);
    }
}
