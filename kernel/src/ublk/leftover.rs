//! Devices of other processes: who serves them, and removing those that nobody serves any more.
//!
//! A device is never known by its number alone: numbers are given out again, by the next process that makes a
//! device, and after a boot. What tells a device from all others is the number that it was made with as
//! [`super::Params::identity`]: the driver keeps it from `ADD_DEV` on, before there is a disk, and as long as
//! anything of the device is left.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use rustix::io::Errno;

use super::abi;
use super::control::{Control, GET_DEV_INFO};
use crate::device_error::{DeviceError, DeviceName, Driver};
use crate::words::words;
use crate::{node, proc};

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub id: u32,
    /// Whether it can be used.
    pub state: State,
    /// The process that serves it; `None` where none does. Before it is started, some kernels name the process that
    /// made it, if that said who it is.
    pub pid: Option<i32>,
    /// Requests that it takes at a time.
    pub depth: u16,
    /// What it was made with as [`super::Params::identity`], if this program made it.
    pub identity: u64,
}

/// Whether a device can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made and not started, or stopped, or its process died: there is no disk.
    Dead,
    /// The disk is there.
    Live,
    /// The disk is there and keeps its requests until somebody serves it again.
    Quiesced,
    /// The disk is there and fails its requests until somebody serves it again.
    FailsIo,
    /// A state that is newer than this program.
    Other(u16),
}

/// What the driver says of device `id`.
///
/// # Errors
/// [`DeviceError::NoSuchDevice`], and what stands in the way of asking.
pub fn info(id: u32) -> Result<Info, DeviceError> {
    let info = Control::open()?.info(id)?;
    Ok(Info {
        id: info.dev_id,
        state: match info.state {
            abi::UBLK_S_DEV_DEAD => State::Dead,
            abi::UBLK_S_DEV_LIVE => State::Live,
            abi::UBLK_S_DEV_QUIESCED => State::Quiesced,
            abi::UBLK_S_DEV_FAIL_IO => State::FailsIo,
            _ => State::Other(info.state),
        },
        pid: Some(info.ublksrv_pid).filter(|&pid| pid > 0),
        depth: info.queue_depth,
        identity: info.ublksrv_flags,
    })
}

/// Remove the devices that were made with this `identity`, from another process than the one that served
/// them, which should be dead: while it lives and does not answer, a device cannot be stopped. Whoever has
/// the disk open gets errors. It is no error when there are none any more; 0 is no device's identity.
///
/// # Errors
/// [`DeviceError::Timeout`] when one could not be stopped `within` that time, and [`DeviceError::StillOpen`] when
/// it was stopped and somebody keeps it open for longer than that.
pub fn remove_leftover(identity: u64, within: Duration) -> Result<(), DeviceError> {
    if identity == 0 {
        // Those of all programs that say nothing of themselves.
        return Ok(());
    }
    let there = all()?;
    if there.is_empty() {
        return Ok(());
    }
    let control = match Control::open() {
        // Who cannot reach the driver has made no device either.
        Err(
            DeviceError::NoDriver(_) | DeviceError::NotPermitted(_) | DeviceError::NoIoUring(_),
        ) => return Ok(()),
        other => other?,
    };
    let mut outcome = Ok(());
    for id in there {
        let removed = control
            .stop(id, identity, Some(within))
            .and_then(|()| control.delete(id, identity, within));
        match removed {
            // One of a user without rights, which only answers who names its node; ours is none. Or one of
            // somebody with more rights than this process, which has made none.
            Err(
                DeviceError::Failed {
                    what: GET_DEV_INFO,
                    errno: Errno::INVAL,
                }
                | DeviceError::NotPermitted(_),
            ) => {}
            Err(error) => outcome = outcome.and(Err(error)),
            Ok(()) => {}
        }
    }
    outcome
}

/// The numbers of all devices, with a disk or without.
fn all() -> Result<BTreeSet<u32>, DeviceError> {
    match node::numbers(CLASS, "ublkc") {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
        found => found.map_err(|error| DeviceError::Node(format!("{CLASS}: {}", words(error)))),
    }
}

/// Has an entry for each device from `ADD_DEV` on.
const CLASS: &str = "/sys/class/ublk-char";

/// Stop device `id`, which another process serves: the disk goes once that process has answered what
/// is under way, or has ended. It is no error when the device is gone already.
///
/// The process that serves it must not call this: it could not even be killed while its plugin hangs,
/// because the kernel lets a dying process wait for its own command, and the command waits for the
/// requests that only the end of that process would answer.
///
/// # Errors
/// What stands in the way of asking.
pub fn stop(id: u32) -> Result<(), DeviceError> {
    Control::open()?.stop_any(id, None)
}

/// Say who has the device that is in use.
pub(super) fn name_the_holder(error: DeviceError) -> DeviceError {
    let DeviceError::InUse {
        device: device @ DeviceName(Driver::Ublk, id),
        holder: None,
    } = error
    else {
        return error;
    };
    let holder = info(id).ok().and_then(|info| {
        let pid = info.pid?;
        Some((pid, proc::name(pid)?))
    });
    DeviceError::InUse { device, holder }
}
