//! Writes, zeroes, trims and flushes at random, against a model of what must be there.

use std::sync::Arc;

use fastrand::Rng;

use super::model::{Model, Wrong};
use super::{Open, Plan, Report, Trial, Watch, reading};
use crate::Refusal;
use crate::check::Doing;
use crate::disk::{Disk, Errno, Flags, Fua, Op, OpenDisk, Request};
use crate::layers::Check;

/// Bytes that are read at a time to learn what is there.
const LEARN: u64 = 1 << 20;

/// Change and read the disk at random; what is known of it afterwards.
pub(super) fn at_random(trial: &Trial<'_>) -> Model {
    let mut random = trial.random(4);
    let mut model = Model::new(trial.size(), trial.unit(), &mut random);
    learn(trial, &mut model);
    edges(trial, &mut model, &mut random);
    for _ in 0..trial.plan.steps {
        step(trial, &mut model, &mut random);
    }
    // Everything that was changed is looked at once more.
    learn(trial, &mut model);
    model
}

/// Read all parts of the model, and compare what is known.
pub(super) fn learn(trial: &Trial<'_>, model: &mut Model) {
    let most = trial.longest().min(LEARN.next_multiple_of(trial.unit()));
    for range in model.ranges() {
        let mut at = range.start;
        while at < range.end {
            let len = most.min(range.end - at);
            read(trial, model, at, len);
            at += len;
        }
    }
}

/// Writes at both ends of the disk, of the shortest and the longest kind.
fn edges(trial: &Trial<'_>, model: &mut Model, random: &mut Rng) {
    for range in model.ranges() {
        let longest = trial.longest().min(range.end - range.start);
        let block = 4096_u64.next_multiple_of(trial.unit()).min(longest);
        for len in [longest, block, trial.unit()] {
            for at in [range.start, range.end - len] {
                write(trial, model, random, at, len);
                read(trial, model, at, len);
            }
        }
    }
}

fn step(trial: &Trial<'_>, model: &mut Model, random: &mut Rng) {
    let ranges = model.ranges();
    let part = ranges[random.usize(..ranges.len())].clone();
    let (at, len) = trial.range(random, part, trial.longest().min(LEARN));
    match random.u8(..100) {
        0..35 => read(trial, model, at, len),
        35..70 => write(trial, model, random, at, len),
        70..82 => zero(trial, model, random, at, len),
        82..90 => trim(trial, model, at, len),
        90..95 if trial.limits.extents => reading::ask(trial, at, len),
        _ => flush(trial),
    }
}

fn read(trial: &Trial<'_>, model: &mut Model, at: u64, len: u64) {
    if let Some(data) = trial.read(at, len)
        && let Some(wrong) = model.compare(at, &data)
    {
        complain(trial, &wrong, &format!("{len} bytes at {at}"));
    }
}

fn complain(trial: &Trial<'_>, wrong: &Wrong, range: &str) {
    let Wrong {
        at,
        found,
        expected,
        by,
    } = wrong;
    let text = if *by == "pread" {
        format!(
            "{range}: byte {at} reads as {found:#04x}, and as {expected:#04x} before, although \
             nothing was written there"
        )
    } else {
        format!(
            "byte {at} reads as {found:#04x} in {range}, but `{by}` was called to make it \
             {expected:#04x} and succeeded"
        )
    };
    trial.report.problem(by, "read back", text);
}

fn fua(trial: &Trial<'_>, random: &mut Rng) -> Flags {
    if trial.limits.fua == Fua::Native && random.bool() {
        return Flags::FUA;
    }
    Flags::empty()
}

fn write(trial: &Trial<'_>, model: &mut Model, random: &mut Rng, at: u64, len: u64) {
    let mut data = vec![0; usize::try_from(len).expect("a write is in memory")];
    random.fill(&mut data);
    let request = Request::new(Op::Write(&data), at).with_flags(fua(trial, random));
    if trial.serve(request) {
        model.hold(at, &data, "pwrite");
    } else {
        model.forget(at, len, "pwrite");
    }
}

fn zero(trial: &Trial<'_>, model: &mut Model, random: &mut Rng, at: u64, len: u64) {
    if !trial.limits.zero {
        return;
    }
    let mut flags = fua(trial, random);
    flags.set(Flags::MAY_TRIM, random.bool());
    flags.set(
        Flags::FAST_ZERO,
        trial.limits.fast_zero && random.u8(..4) == 0,
    );
    let request = Request::new(Op::Zero(len), at).with_flags(flags);
    let doing = Doing::request(&request);
    let outcome = trial.watch.during(doing, || trial.disk.serve(request));
    trial.report.count("zero");
    match outcome {
        Ok(()) => {
            let zeroes = vec![0; usize::try_from(len).expect("a part is in memory")];
            model.hold(at, &zeroes, "zero");
        }
        // Declined: it is for the host to write zeroes.
        Err(error) if error.errno == Errno::OPNOTSUPP => model.forget(at, len, "zero"),
        Err(error) => {
            trial.report.failure(doing, &error);
            model.forget(at, len, "zero");
        }
    }
}

fn trim(trial: &Trial<'_>, model: &mut Model, at: u64, len: u64) {
    if !trial.limits.trim {
        return;
    }
    trial.serve(Request::new(Op::Trim(len), at));
    model.forget(at, len, "trim");
}

pub(super) fn flush(trial: &Trial<'_>) {
    if trial.limits.flush {
        trial.serve(Request::new(Op::Flush, 0));
    }
}

/// Where the plugin says that connections may be used together: what was flushed on one is read on
/// another one.
pub(super) fn between_connections(trial: &Trial<'_>, open: &Open<'_>) -> Result<(), Refusal> {
    if !trial.limits.multi_conn {
        return Ok(());
    }
    let other = Trial {
        disk: Check::new(trial.watch.during(Doing::call("open"), open)?),
        limits: trial.limits.clone(),
        ..*trial
    };
    let mut random = trial.random(5);
    for _ in 0..8 {
        let (at, len) = trial.range(&mut random, 0..trial.size(), LEARN.min(trial.longest()));
        let mut data = vec![0; usize::try_from(len).expect("a write is in memory")];
        random.fill(&mut data);
        if !trial.serve(Request::new(Op::Write(&data), at)) {
            break;
        }
        flush(trial);
        if let Some(found) = other.read(at, len)
            && let Some(index) = found
                .iter()
                .zip(&data)
                .position(|(one, other)| one != other)
        {
            trial.report.problem(
                "can_multi_conn",
                "stale",
                format!(
                    "returned True, but byte {} reads as {:#04x} on one connection after another one \
                     wrote {:#04x} and flushed",
                    at + index as u64,
                    found[index],
                    data[index]
                ),
            );
        }
    }
    trial.watch.during(Doing::call("close"), || drop(other));
    Ok(())
}

/// Whether a handle that is opened anew reads what was written through the one before.
pub(super) fn after_reopening(
    open: &Open<'_>,
    plan: Plan,
    report: &Report,
    watch: &Watch,
    model: &mut Model,
) -> Result<(), Refusal> {
    let disk: Arc<dyn OpenDisk> = watch.during(Doing::call("open"), open)?;
    let again = Trial {
        limits: disk.limits().clone(),
        disk: Check::new(disk),
        plan,
        report,
        watch,
    };
    for range in model.ranges() {
        if range.end > again.size() {
            report.note("the size is another one when the disk is opened again");
            break;
        }
        let mut at = range.start;
        while at < range.end {
            let len = again.longest().min(LEARN).min(range.end - at);
            if let Some(data) = again.read(at, len)
                && model.compare(at, &data).is_some()
            {
                report.note(
                    "what was written is not there when the disk is closed and opened again: each \
                     client of an NBD server has a disk of its own",
                );
            }
            at += len;
        }
    }
    watch.during(Doing::call("close"), || drop(again));
    Ok(())
}
