//! What can be tried without changing anything.

use super::Trial;
use super::watch::Doing;
use crate::disk::{Cache, Disk, ExtentKind, Extents, Op, Request};

/// Bytes of the longest read that is compared with its pieces.
const LONG: u64 = 1 << 20;
/// Bytes that are asked about in one question for extents.
const QUESTION: u64 = 1 << 30;

/// Reads at the ends of the disk, of the shortest and the longest kind.
pub(super) fn edges(trial: &Trial<'_>) {
    let (size, unit) = (trial.size(), trial.unit());
    let longest = trial.longest().min(size);
    let block = 4096_u64.next_multiple_of(unit).min(longest);
    for len in [unit, block, longest] {
        trial.read(0, len);
        trial.read(size - len, len);
    }
    if size > 2 * block && 2 * unit <= longest {
        trial.read(block - unit, 2 * unit);
        trial.read(size / 2 / unit * unit, unit);
    }
}

/// The same bytes read at once and in pieces.
pub(super) fn pieces(trial: &Trial<'_>) {
    let mut random = trial.random(1);
    let longest = trial.longest().min(LONG);
    for _ in 0..trial.plan.steps / 4 + 1 {
        let (at, len) = trial.range(&mut random, 0..trial.size(), longest);
        let Some(whole) = trial.read(at, len) else {
            continue;
        };
        let mut done = 0;
        while done < len {
            let piece = random.u64(1..=(len - done)).next_multiple_of(trial.unit());
            let piece = piece
                .max(len / 8 / trial.unit() * trial.unit())
                .min(len - done);
            let Some(part) = trial.read(at + done, piece) else {
                break;
            };
            let from = usize::try_from(done).expect("a read is in memory");
            let differs = part
                .iter()
                .zip(&whole[from..])
                .position(|(one, other)| one != other);
            if let Some(index) = differs {
                let byte = at + done + index as u64;
                trial.report.problem(
                    "pread",
                    "pieces",
                    format!(
                        "byte {byte} reads as {:#04x} in {piece} bytes at {} and as {:#04x} in {len} \
                         bytes at {at}, although nothing was written",
                        part[index],
                        at + done,
                        whole[from + index]
                    ),
                );
            }
            done += piece;
        }
    }
}

/// What is said to read as zeroes does.
pub(super) fn extents(trial: &Trial<'_>) {
    if !trial.limits.extents {
        return;
    }
    let mut random = trial.random(2);
    let (size, unit) = (trial.size(), trial.unit());
    ask(trial, 0, size.min(QUESTION));
    ask(trial, size - size.min(QUESTION), size.min(QUESTION));
    ask(trial, size - unit, unit);
    for _ in 0..trial.plan.steps / 8 {
        let (at, len) = trial.range(&mut random, 0..size, QUESTION);
        ask(trial, at, len);
    }
}

/// Ask for the extents of a range and look at the bytes that are said to be zero. None if it failed.
pub(super) fn ask(trial: &Trial<'_>, at: u64, len: u64) {
    let mut found = Extents::starting_at(at);
    let doing = Doing::range("extents", at, len);
    let outcome = trial
        .watch
        .during(doing, || trial.disk.extents(at..at + len, &mut found));
    trial.report.count("extents");
    if let Err(error) = outcome {
        trial.report.failure(doing, &error);
        return;
    }
    let unit = trial.unit();
    // The first, the last, and some in between: a disk may have millions.
    let list = found.list();
    let step = (list.len() / 16).max(1);
    let looked_at = list.iter().step_by(step).chain(list.last());
    for extent in looked_at.filter(|extent| extent.kind.contains(ExtentKind::ZERO)) {
        let from = extent.at.max(at).next_multiple_of(unit);
        let to = (extent.at + extent.len).min(at + len) / unit * unit;
        let most = (64 << 10_u64).max(unit).min(trial.longest());
        for (at, to) in [
            (from, to.min(from + most)),
            (to.saturating_sub(most).max(from), to),
        ] {
            if at >= to {
                continue;
            }
            let Some(data) = trial.read(at, to - at) else {
                return;
            };
            if let Some(index) = data.iter().position(|byte| *byte != 0) {
                trial.report.problem(
                    "extents",
                    "zero",
                    format!(
                        "{len} bytes at {at}: says that {} bytes at {} read as zeroes, but byte {} is \
                         {:#04x}",
                        extent.len,
                        extent.at,
                        at + index as u64,
                        data[index],
                        len = to - at
                    ),
                );
            }
        }
    }
}

/// The hint to cache a range is taken.
pub(super) fn cache(trial: &Trial<'_>) {
    if trial.limits.cache != Cache::Native {
        return;
    }
    let mut random = trial.random(3);
    for _ in 0..4 {
        let (at, len) = trial.range(&mut random, 0..trial.size(), LONG);
        trial.serve(Request::new(Op::Cache(len), at));
    }
}
