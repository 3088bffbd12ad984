//! Several threads at the same time, where the plugin says that it takes them.

use std::thread;

use fastrand::Rng;
use pydisk_kernel::threads;

use super::Trial;
use crate::disk::{Op, Request};

const THREADS: u64 = 8;
/// Bytes that are read by all.
const SHARED: u64 = 4 << 20;

/// All threads read the same bytes; they get what one alone gets.
pub(super) fn read(trial: &Trial<'_>) {
    if !trial.limits.parallel {
        return;
    }
    let unit = trial.unit();
    let size = trial.size().min(SHARED.next_multiple_of(unit));
    let mut alone = Vec::new();
    while (alone.len() as u64) < size {
        let at = alone.len() as u64;
        let len = trial.longest().min(size - at);
        let Some(data) = trial.read(at, len) else {
            return;
        };
        alone.extend(data);
    }
    let body = |mut random: Rng| {
        for _ in 0..trial.plan.steps / 8 + 1 {
            let (at, len) = trial.range(&mut random, 0..size, trial.longest());
            let Some(data) = trial.read(at, len) else {
                return;
            };
            let from = usize::try_from(at).expect("what is shared is in memory");
            let differs = data
                .iter()
                .zip(&alone[from..])
                .position(|(one, other)| one != other);
            if let Some(index) = differs {
                trial.report.problem(
                    "thread_model",
                    "reads",
                    format!(
                        "says that callbacks may overlap, but byte {} reads as {:#04x} when others \
                         read as well, and as {:#04x} alone",
                        at + index as u64,
                        data[index],
                        alone[from + index]
                    ),
                );
            }
        }
    };
    on_threads(trial, 100, |_, random| body(random));
}

/// Each thread writes and reads a part of its own.
pub(super) fn write(trial: &Trial<'_>) {
    if !trial.limits.parallel {
        return;
    }
    let unit = trial.unit();
    let part = trial.size().min(SHARED) / THREADS / unit * unit;
    if part == 0 {
        return;
    }
    on_threads(trial, 200, |thread, random| {
        alone_in(trial, thread * part, part, random);
    });
}

/// Write to a range that nobody else writes to, and read it back.
fn alone_in(trial: &Trial<'_>, start: u64, part: u64, mut random: Rng) {
    for _ in 0..trial.plan.steps / 16 + 1 {
        let (at, len) = trial.range(&mut random, start..start + part, trial.longest());
        let mut data = vec![0; usize::try_from(len).expect("a write is in memory")];
        random.fill(&mut data);
        if !trial.serve(Request::new(Op::Write(&data), at)) {
            return;
        }
        let Some(found) = trial.read(at, len) else {
            return;
        };
        let differs = found
            .iter()
            .zip(&data)
            .position(|(one, other)| one != other);
        if let Some(index) = differs {
            trial.report.problem(
                "thread_model",
                "writes",
                format!(
                    "says that callbacks may overlap, but byte {} reads as {:#04x} after {:#04x} was \
                     written, while other threads wrote elsewhere",
                    at + index as u64,
                    found[index],
                    data[index]
                ),
            );
        }
    }
}

fn on_threads(trial: &Trial<'_>, part: u64, body: impl Fn(u64, Rng) + Sync) {
    thread::scope(|scope| {
        for number in 0..THREADS {
            let random = trial.random(part + number);
            let body = &body;
            let work = move || {
                trial
                    .disk
                    .below()
                    .lane(&mut || body(number, random.clone()))
            };
            if let Err(error) = threads::deep("check").spawn_scoped(scope, work) {
                trial
                    .report
                    .note(format!("fewer threads than wanted: {error}"));
            }
        }
    });
}
