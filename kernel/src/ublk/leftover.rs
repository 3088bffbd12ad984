//! Devices of other processes: who serves them, and removing those that nobody serves any more.

use std::fs;
use std::time::Duration;

use super::abi;
use super::control::Control;
use super::error::Error;

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub id: u32,
    /// Whether it can be used.
    pub state: State,
    /// The process that serves it; `None` where none does.
    pub pid: Option<i32>,
    /// Requests that it takes at a time.
    pub depth: u16,
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
/// [`Error::NoSuchDevice`], and what stands in the way of asking.
pub fn info(id: u32) -> Result<Info, Error> {
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
    })
}

/// Remove device `id` from another process than the one that served it, which should be dead: while
/// it lives and does not answer, the device cannot be stopped. Whoever has the disk open gets
/// errors. It is no error when the device is gone already.
///
/// # Errors
/// [`Error::Timeout`] when it could not be stopped `within` that time, and [`Error::StillOpen`] when
/// it was stopped and somebody keeps it open for longer than that.
pub fn remove_leftover(id: u32, within: Duration) -> Result<(), Error> {
    let control = Control::open()?;
    let removed = control
        .stop(id, Some(within))
        .and_then(|()| control.delete(id, within));
    match removed {
        Err(Error::NoSuchDevice(_)) => Ok(()),
        other => other,
    }
}

/// Stop device `id`, which another process serves: the disk goes once that process has answered what
/// is under way, or has ended. It is no error when the device is gone already.
///
/// The process that serves it must not call this: it could not even be killed while its plugin hangs,
/// because the kernel lets a dying process wait for its own command, and the command waits for the
/// requests that only the end of that process would answer.
///
/// # Errors
/// What stands in the way of asking.
pub fn stop(id: u32) -> Result<(), Error> {
    match Control::open()?.stop(id, None) {
        Err(Error::NoSuchDevice(_)) => Ok(()),
        other => other,
    }
}

/// Say who has the device that is in use.
pub(super) fn name_the_holder(error: Error) -> Error {
    let Error::InUse { id, holder: None } = error else {
        return error;
    };
    let holder = info(id).ok().and_then(|info| {
        let pid = info.pid?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, name.trim_end().to_owned()))
    });
    Error::InUse { id, holder }
}
