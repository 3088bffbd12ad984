//! Tries a disk out: whether what it says of itself is so, and what was written is read back.
//!
//! Called by `pydisk check` with the handle of a plugin, below everything that pydisk puts around it,
//! so that what goes wrong is the plugin's. It never writes unless the plan says so, and it sends
//! nothing that the disk's limits do not allow.

use std::sync::Arc;

use fastrand::Rng;

use crate::Refusal;
use crate::disk::{Disk, Limits, Op, OpKind, OpenDisk, Request};
use crate::layers::Check;

mod model;
mod reading;
mod report;
mod together;
mod watch;
mod writing;

pub use report::{Report, Trouble};
pub use watch::{Doing, Watch};

/// How thoroughly, and whether the disk may be changed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the random requests begin; the same seed sends the same ones.
    pub seed: u64,
    /// Requests in each part of the check.
    pub steps: u32,
    /// Change what the disk holds.
    pub write: bool,
}

/// Opens a handle, for writing if the plan says so.
pub type Open<'a> = dyn Fn() -> Result<Arc<dyn OpenDisk>, Refusal> + 'a;

/// Try out what `open` opens. What is wrong goes to the report, as soon as it is known.
///
/// # Errors
/// The disk cannot be opened.
pub fn run(open: &Open<'_>, plan: Plan, report: &Report, watch: &Watch) -> Result<(), Refusal> {
    let disk = watch.during(Doing::call("open"), open)?;
    let trial = Trial {
        limits: disk.limits().clone(),
        disk: Check::new(Arc::clone(&disk)),
        plan,
        report,
        watch,
    };
    trial.sizes();
    if trial.size() == 0 {
        watch.during(Doing::call("close"), || drop(trial));
        watch.during(Doing::call("close"), || drop(disk));
        return Ok(());
    }
    reading::edges(&trial);
    reading::pieces(&trial);
    reading::extents(&trial);
    reading::cache(&trial);
    together::read(&trial);
    let written = (plan.write && !trial.limits.read_only).then(|| {
        let model = writing::at_random(&trial);
        together::write(&trial);
        model
    });
    if let Some(mut model) = written {
        writing::between_connections(&trial, open)?;
        // What the other parts of the check wrote is learned anew.
        model.forget_all();
        writing::learn(&trial, &mut model);
        writing::flush(&trial);
        watch.during(Doing::call("close"), || {
            drop(trial);
            drop(disk);
        });
        writing::after_reopening(open, plan, report, watch, &mut model)?;
        return Ok(());
    }
    watch.during(Doing::call("close"), || {
        drop(trial);
        drop(disk);
    });
    Ok(())
}

/// A disk that is being tried out.
struct Trial<'a> {
    disk: Check<Arc<dyn OpenDisk>>,
    limits: Limits,
    plan: Plan,
    report: &'a Report,
    watch: &'a Watch,
}

impl Trial<'_> {
    /// Random numbers for one part of the check, the same whatever the other parts did.
    fn random(&self, part: u64) -> Rng {
        Rng::with_seed(
            self.plan
                .seed
                .wrapping_add(part.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        )
    }

    /// Offsets and lengths are multiples of this.
    fn unit(&self) -> u64 {
        self.limits.block.minimum.max(1).into()
    }

    /// The bytes that can be reached.
    fn size(&self) -> u64 {
        self.limits.size - self.limits.size % self.unit()
    }

    /// Longest read or write that is sent.
    fn longest(&self) -> u64 {
        let most = u64::from(self.limits.block.maximum).min(64 << 20);
        (most - most % self.unit()).max(self.unit())
    }

    fn sizes(&self) {
        let Limits { size, block, .. } = &self.limits;
        if *size == 0 {
            self.report.problem(
                "get_size",
                "size",
                "returns 0: a disk without a byte is no disk",
            );
        } else if !size.is_multiple_of(512) {
            self.report.note(format!(
                "the size of {size} bytes is no multiple of 512: a block device leaves out the last {}",
                size % 512
            ));
        }
        if !size.is_multiple_of(self.unit()) {
            self.report.problem(
                "block_size",
                "size",
                format!(
                    "the minimum is {}, but the size of {size} bytes is no multiple of it: the last {} \
                     cannot be reached",
                    block.minimum,
                    size % self.unit()
                ),
            );
        }
    }

    /// Send a request; whether it succeeded. What it raised goes to the report.
    fn serve(&self, request: Request<'_>) -> bool {
        let doing = Doing::request(&request);
        let outcome = self.watch.during(doing, || self.disk.serve(request));
        self.report.count(doing.callback);
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.report.failure(doing, &error);
                false
            }
        }
    }

    /// Read `len` bytes; none if that failed.
    fn read(&self, at: u64, len: u64) -> Option<Vec<u8>> {
        let len = usize::try_from(len).ok()?;
        let mut data = vec![0; len];
        self.serve(Request::new(Op::Read(&mut data), at))
            .then_some(data)
    }

    /// A range within `within`: often short, often at its ends, at times long.
    fn range(&self, random: &mut Rng, within: std::ops::Range<u64>, longest: u64) -> (u64, u64) {
        let least = self.unit();
        let unit = [1, 1, 512, 4096][random.usize(..4)].max(least);
        let size = within.end - within.start;
        let most = [700, 9000, 80 << 10, 256 << 10][random.usize(..4)]
            .min(longest)
            .min(size);
        let len = (random.u64(1..=most.max(1)).div_ceil(unit) * unit).min(size - size % least);
        let len = len.min(longest).max(least.min(size));
        let free = size - len;
        let at = match random.u8(..8) {
            0 => 0,
            1 => free,
            _ => random.u64(..=free) / unit * unit,
        };
        (within.start + at / least * least, len)
    }
}

/// The callback that serves an operation.
fn callback(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Read => "pread",
        OpKind::Write => "pwrite",
        OpKind::Zero => "zero",
        OpKind::Trim => "trim",
        OpKind::Cache => "cache",
        OpKind::Flush => "flush",
    }
}

#[cfg(test)]
mod tests;
