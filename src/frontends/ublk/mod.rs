//! `/dev/ublkbN`: the border between the kernel's ublk driver and a disk.
//!
//! The block layer's words become [`Request`]s here, and a disk's [`Limits`] become the parameters of
//! the device. Threads, memory and commands are the kernel crate's business.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pydisk_kernel::ublk::{self, Device, Handler, Io, Op as Asked, Params, Running, Shape};
use pydisk_kernel::{DeviceError, Driver};

use super::block::{self, Devices, FIRST_READ, Geometry, MAX_TRIM, refused};
use super::kernel_errnos::for_kernel;
use super::{Dead, Ended, Endpoint, Options, Published, Row, Target, answer};
use crate::disk::{Disk, Errno, Flags, Limits, Op, OpenDisk, Request};
use crate::{Refusal, logging};

mod numbered;

/// Requests that a serial disk's device takes at a time: enough for the block layer to sort and merge.
const DEPTH: u16 = 64;
/// No zeroing is longer, so that a disk that answers slowly answers others in between: it may be emulated by writing.
const MAX_ZERO: u64 = 64 << 20;
/// How long the kernel may take to let go of a device whose process is dead.
const LEFTOVER: Duration = Duration::from_secs(1);

pub(super) static ROW: Row = Row {
    name: "ublk",
    words: "ublk",
    offered: Some(|host| host.ublk.clone().map(drop)),
    free: |_folder| Target::Ublk(None),
    blocks: true,
    clients: false,
    mounts: false,
    guard: None,
    stopper: true,
};

pub(super) static DEVICES: Devices = Devices {
    row: &ROW,
    start,
    remove_leftover,
};

/// The hidden subcommand: stop the device at `path`, which another process serves.
#[must_use]
pub fn stop_process(path: &Path) -> ExitCode {
    let number = path
        .to_str()
        .and_then(|path| path.strip_prefix("/dev/ublkb")?.parse().ok());
    match number.map(ublk::stop) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            logging::say(&format!("pydisk: {}: {error}\n", path.display()));
            ExitCode::FAILURE
        }
        None => ExitCode::from(2),
    }
}

/// Remove the device that a dead attachment left. It is no error if it made none; a device that somebody else
/// made is never touched.
fn remove_leftover(dead: &Dead<'_>) -> Result<(), Refusal> {
    let Some(identity) = dead.identity else {
        return numbered::is_gone(dead.folder);
    };
    block::removed(ublk::remove_leftover(identity.number(), LEFTOVER))
        .map_err(|error| Refusal::about("ublk", error))
}

/// Make `disk` a block device with the number `index`, or any free one.
///
/// # Errors
/// One sentence; nothing is left behind, unless the disk does not answer the first read: then the
/// device goes with the process.
fn start(
    index: Option<u32>,
    disk: Arc<dyn OpenDisk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Published>, Refusal> {
    let limits = disk.limits();
    let shape = shape(limits, options);
    let params = Params {
        identity: options.identity.number(),
        ..params(limits, options.logical_block)
    };
    let device =
        Device::add(index, shape, &params).map_err(|error| refused(Driver::Ublk, index, &error))?;
    let index = Some(device.id());
    let name = options.name.clone();
    let tell = move |why: String| {
        if ended.send(why).is_err() {
            log::debug!("{name}: nobody listens for its end");
        }
    };
    let running = device
        .start(Arc::new(Served { disk }), tell)
        .map_err(|error| refused(Driver::Ublk, index, &error))?;
    match running.wait_until_usable(FIRST_READ) {
        Ok(()) => Ok(Box::new(Ublk {
            endpoint: Endpoint::Device(running.device_path().to_owned()),
            running,
        })),
        Err(error) => {
            give_up(running, &error);
            Err(refused(Driver::Ublk, index, &error))
        }
    }
}

/// Remove a device that is of no use. One that does not answer could not be removed by this
/// process, which had to answer first.
fn give_up(running: Running, why: &DeviceError) {
    if matches!(why, DeviceError::Timeout { .. }) {
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
    endpoint: Endpoint,
}

impl Published for Ublk {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn stop(self: Box<Self>) -> Result<(), Refusal> {
        block::stopped(&self.endpoint.to_string(), self.running.stop())
    }
}

/// The disk as the kernel crate calls it.
struct Served {
    disk: Arc<dyn OpenDisk>,
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
            // The driver waits for every answer.
            cancel: None,
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
pub(super) fn params(limits: &Limits, logical_block: Option<u32>) -> Params {
    let device = Geometry::of(limits, logical_block);
    Params {
        size_bytes: device.size,
        logical_block: device.logical,
        physical_block: device.physical,
        io_min: device.physical,
        io_opt: device.optimal,
        max_io_bytes: device.longest,
        read_only: device.read_only,
        rotational: device.rotational,
        volatile_cache: device.flush,
        fua: device.fua,
        discard_granularity: device.physical,
        max_discard_bytes: if device.trim { MAX_TRIM } else { 0 },
        max_write_zeroes_bytes: if device.zero { MAX_ZERO } else { 0 },
        identity: 0,
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
#[cfg(test)]
mod tests;
