//! How a model is run: again and again, each time in another order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Steps of one run; a model that takes more goes round in circles.
const STEPS: usize = 20_000;
/// Orders of each kind that are tried where not every one can be.
const MANY: usize = 4000;
/// Orders that are tried at most where every one is wanted.
const MOST: usize = 200_000;

/// Run `scene` in every order that there is.
///
/// # Panics
/// If it fails in one of them, or if there are too many.
pub fn every_order(scene: fn()) {
    let runs = run(DfsScheduler::new(Some(MOST), false), scene);
    assert!(runs < MOST, "there are more orders than {MOST}");
}

/// Run `scene` in many orders. Half of them are thrown anew at each step; in the others the threads have
/// ranks that change seldom. A failure says how to repeat it.
///
/// # Panics
/// If it fails in one of them.
pub fn many_orders(scene: fn()) {
    run(RandomScheduler::new(MANY), scene);
    run(PctScheduler::new(3, MANY), scene);
}

fn run(scheduler: impl Scheduler + 'static, scene: fn()) -> usize {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    Runner::new(scheduler, config).run(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        crate::sync::begin();
        scene();
    });
    runs.load(Ordering::Relaxed)
}
