//! `/dev/ublkbN`: the border between the kernel's ublk driver and a disk.
//!
//! The block layer's words become [`Request`]s here, and a disk's [`Limits`] become the parameters of
//! the device. Threads, memory and commands are the kernel crate's business.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pydisk_kernel::ublk::{self, Device, Error, Handler, Io, Op as Asked, Params, Running, Shape};

use super::kernel_errnos::for_kernel;
use super::{Attached, Dead, Ended, Options, answer};
use crate::Refusal;
use crate::disk::{Disk, Errno, Flags, Fua, Limits, Op, Request};

mod numbered;

/// Requests that a serial disk's device takes at a time: enough for the block layer to sort and merge.
const DEPTH: u16 = 64;
/// Reads and writes are not longer than this, unless the disk prefers longer ones. Each of the
/// device's requests may take so much memory; longer requests bring a Python disk little.
const MAX_IO: u32 = 1 << 20;
/// The driver's own limit.
const MOST_IO: u32 = 32 << 20;
/// No trim is longer, so that a disk that answers slowly answers others in between.
const MAX_TRIM: u64 = 1 << 30;
/// No zeroing is longer, for the same reason: it may be emulated by writing.
const MAX_ZERO: u64 = 64 << 20;
/// How long the first read of the device may take.
const FIRST_READ: Duration = Duration::from_secs(60);

/// How long the kernel may take to let go of a device whose process is dead.
const LEFTOVER: Duration = Duration::from_secs(1);

/// Remove the device that a dead attachment left. It is no error if it made none; a device that somebody else
/// made is never touched.
///
/// # Errors
/// One sentence, if it could not be removed yet.
pub fn remove_leftover(dead: &Dead<'_>) -> Result<(), Refusal> {
    let Some(identity) = dead.identity else {
        return numbered::is_gone(dead.folder);
    };
    match pydisk_kernel::ublk::remove_leftover(identity.number(), LEFTOVER) {
        // It is gone with its last user, and fails every request until then.
        Err(Error::StillOpen(_)) => Ok(()),
        other => other.map_err(|error| Refusal::new(format!("ublk: {error}"))),
    }
}

/// Make `disk` a block device with the number `index`, or any free one.
///
/// # Errors
/// One sentence; nothing is left behind, unless the disk does not answer the first read: then the
/// device goes with the process.
pub(super) fn start(
    index: Option<u32>,
    disk: Arc<dyn Disk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Attached>, Refusal> {
    let limits = disk.limits();
    let shape = shape(limits, options);
    let params = Params {
        identity: options.identity.number(),
        ..params(limits, options.logical_block)
    };
    let device = Device::add(index, shape, &params).map_err(|error| refusal(index, &error))?;
    let index = Some(device.id());
    let name = options.name.clone();
    let tell = move |why: String| {
        if ended.send(why).is_err() {
            log::debug!("{name}: nobody listens for its end");
        }
    };
    let running = device
        .start(Arc::new(Served { disk }), tell)
        .map_err(|error| refusal(index, &error))?;
    match running.wait_until_usable(FIRST_READ) {
        Ok(()) => Ok(Box::new(Ublk { running })),
        Err(error) => {
            give_up(running, &error);
            Err(refusal(index, &error))
        }
    }
}

/// Remove a device that is of no use. One that does not answer could not be removed by this
/// process, which had to answer first.
fn give_up(running: Running, why: &Error) {
    if matches!(why, Error::Timeout { .. }) {
        running.abandon();
        return;
    }
    if let Err(error) = running.stop() {
        log::error!("removing the device: {error}");
    }
}

/// A disk that is a block device.
struct Ublk {
    running: Running,
}

impl Attached for Ublk {
    fn path(&self) -> &Path {
        self.running.device_path()
    }

    fn stop(self: Box<Self>) -> Result<(), Refusal> {
        let path = self.path().display().to_string();
        match self.running.stop() {
            Ok(()) => Ok(()),
            Err(error @ Error::StillOpen(_)) => {
                log::warn!("{path}: {error}");
                Ok(())
            }
            Err(error) => Err(Refusal::new(format!("{path}: {error}"))),
        }
    }
}

/// The disk as the kernel crate calls it.
struct Served {
    disk: Arc<dyn Disk>,
}

impl Handler for Served {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        let (op, flags) = match io.op {
            Asked::Read(memory) => (Op::Read(memory), Flags::empty()),
            Asked::Write { data, fua: false } => (Op::Write(data), Flags::empty()),
            Asked::Write { data, fua: true } => (Op::Write(data), Flags::FUA),
            Asked::Flush => (Op::Flush, Flags::empty()),
            Asked::Discard { len } => (Op::Trim(len), Flags::empty()),
            Asked::WriteZeroes {
                len,
                may_unmap: true,
            } => (Op::Zero(len), Flags::MAY_TRIM),
            Asked::WriteZeroes {
                len,
                may_unmap: false,
            } => (Op::Zero(len), Flags::empty()),
        };
        let request = Request {
            op,
            at: io.at,
            flags,
            owner: Some(io.owner),
        };
        let kind = request.op.kind();
        answer(&*self.disk, request).map_err(|errno| for_kernel(kind, errno))
    }

    fn batch(&self, work: &mut dyn FnMut()) {
        self.disk.batch(work);
    }

    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        self.disk.lane(work);
    }
}

fn shape(limits: &Limits, options: &Options) -> Shape {
    if limits.parallel {
        return Shape::Parallel {
            lanes: options.lanes.clamp(1, 4096),
        };
    }
    Shape::Serial { depth: DEPTH }
}

/// What the device is, by what the disk is.
fn params(limits: &Limits, logical_block: Option<u32>) -> Params {
    let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
    let block = limits.block;
    let minimum = block.minimum.next_power_of_two();
    let logical = super::logical_block(limits, logical_block);
    let physical = minimum.max(logical).max(block.preferred.min(4096));
    let optimal = block.preferred.next_power_of_two().max(physical);
    let longest = MAX_IO.max(optimal).min(block.maximum).min(MOST_IO);
    let writable = !limits.read_only;
    let cached = writable && limits.flush;
    Params {
        size_bytes: limits.size,
        logical_block: logical,
        physical_block: physical,
        io_min: physical,
        io_opt: optimal,
        max_io_bytes: (longest / page * page).max(page),
        read_only: limits.read_only,
        rotational: limits.rotational,
        volatile_cache: cached,
        // Where the disk would emulate it, the kernel's own flush after the write does the same.
        fua: cached && limits.fua == Fua::Native,
        discard_granularity: physical,
        max_discard_bytes: if writable && limits.trim { MAX_TRIM } else { 0 },
        max_write_zeroes_bytes: if writable && limits.zero { MAX_ZERO } else { 0 },
        identity: 0,
    }
}

/// Why there is no device, in words for the user.
fn refusal(index: Option<u32>, error: &Error) -> Refusal {
    let text = match (index, error) {
        (_, Error::InUse { .. }) | (None, _) => error.to_string(),
        (Some(index), error) => format!("/dev/ublkb{index}: {error}"),
    };
    let hint = match error {
        Error::NoDriver => {
            "load the module with `modprobe ublk_drv`, or use /dev/loopN or a file path"
        }
        Error::NotPermitted => "run it as root, or use a file path",
        Error::NoIoUring(_) => {
            "set `sysctl kernel.io_uring_disabled=0`, or use /dev/loopN or a file path"
        }
        Error::KernelCrashes { .. } => "use a newer kernel, or /dev/loopN or a file path",
        Error::InUse { .. } => "choose another number",
        Error::Timeout {
            what: ublk::ADD_DEV,
            ..
        } => {
            "the ublk driver of this kernel hangs or has crashed, see `dmesg`: use /dev/loopN or a file path, and \
             start the machine again before you use ublk"
        }
        _ => return Refusal::new(text),
    };
    Refusal::new(text).hint(hint)
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;
