//! What ends a bench before its time: the user, or a plugin that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::agent::Recall;
use crate::bench::Watch;
use crate::{Refusal, ResultExt};

/// How often a guard looks.
const TICK: Duration = Duration::from_millis(20);

/// The status of a process that the user interrupts twice: the agent removes the disk all the same.
const INTERRUPTED: i32 = 130;

/// Recalls the disk that is measured when it is time.
#[derive(Debug)]
pub(super) struct Guard(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    recall: Recall,
    patience: Duration,
    interrupted: Arc<AtomicBool>,
    hangs: AtomicBool,
    start: Instant,
    /// Milliseconds from the start to the last answer of a load, and one more; 0 if there is no load.
    alive_ms: AtomicU64,
}

impl Guard {
    /// Hear signals from here on, and watch over loads.
    pub(super) fn start(patience: Duration) -> Result<Self, Refusal> {
        let about = "signal handlers";
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let again = Arc::clone(&interrupted);
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, again)
                .refuse(about)?;
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).refuse(about)?;
        }
        let shared = Arc::new(Shared {
            recall: Recall::default(),
            patience,
            interrupted,
            hangs: AtomicBool::new(false),
            start: Instant::now(),
            alive_ms: AtomicU64::new(0),
        });
        let watched = Arc::clone(&shared);
        let body = move || {
            while !watched.is_over() {
                thread::sleep(TICK);
            }
            watched.recall.now();
        };
        let started = thread::Builder::new().name("guard".into()).spawn(body);
        started.refuse("a thread that watches")?;
        Ok(Self(shared))
    }

    /// What takes the disk back.
    pub(super) fn recall(&self) -> &Recall {
        &self.0.recall
    }

    /// Do `work`, in which the disk has to answer now and then.
    pub(super) fn watching<T>(&self, work: impl FnOnce() -> T) -> T {
        self.alive();
        let done = work();
        self.0.alive_ms.store(0, Ordering::Relaxed);
        done
    }

    /// Refuse to go on if it is over.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.0.interrupted.load(Ordering::Relaxed) {
            return Err(Refusal::about("bench", "interrupted"));
        }
        if self.0.hangs.load(Ordering::Relaxed) {
            let patience = self.0.patience.as_secs();
            let what = format!("bench: the disk has not answered for {patience} s");
            return Err(Refusal::new(what).hint("--patience waits longer"));
        }
        Ok(())
    }
}

impl Shared {
    fn since_start_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_over(&self) -> bool {
        let alive_ms = self.alive_ms.load(Ordering::Relaxed);
        let silent_ms = self
            .since_start_ms()
            .saturating_sub(alive_ms.saturating_sub(1));
        if alive_ms > 0 && u128::from(silent_ms) > self.patience.as_millis() {
            self.hangs.store(true, Ordering::Relaxed);
        }
        self.hangs.load(Ordering::Relaxed) || self.interrupted.load(Ordering::Relaxed)
    }
}

impl Watch for Guard {
    fn alive(&self) {
        let now_ms = self.0.since_start_ms() + 1;
        self.0.alive_ms.store(now_ms, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.0.recall.is_done()
    }
}
