//! Block devices served from this process, by the kernel's ublk driver (Linux 6.4 or newer).
//!
//! [`Device::add`] makes a device, [`Device::start`] serves it with a [`Handler`], and
//! [`Running::stop`] removes it. [`remove_leftover`] is for another process, after the one that
//! served a device has died. Nothing is kept in files.
//!
//! Built on io_uring and the kernel's header and not on the crate `libublk`, for the reasons that
//! `control` and `queue` give. Requests are served by the thread that fetched them wherever the
//! kernel allows it.
//!
//! Signals stay as they are in the serving threads: a wait that a signal interrupts starts again, so
//! whatever a handler starts as a process gets an ordinary signal mask.

use std::time::Duration;

use crate::device_error::DeviceError;

mod abi;
mod buffer;
mod control;
mod device;
// Always there: with a feature for it, what tests link and what is shipped would be built twice.
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod handoff;
mod kernels;
mod lane;
mod leftover;
mod params;
mod queue;
mod running;
mod tags;
mod uapi;

pub use control::ADD_DEV;
pub use device::{Device, Shape};
pub use handler::{Handler, Io, Op, Owner};
pub use leftover::{Info, State, info, remove_leftover, stop};
pub use params::Params;
pub use running::Running;

/// What the driver of this kernel offers, as names; empty where it cannot tell (before 6.5).
///
/// Loads the module if that is needed and possible.
///
/// # Errors
/// Why no device can be made here.
pub fn features() -> Result<Vec<&'static str>, DeviceError> {
    kernels::check()?;
    let bits = match control::Control::open_or_load()?.features() {
        Err(DeviceError::Failed { .. }) => 0,
        other => other?,
    };
    let names = abi::FEATURES.iter().filter(|(bit, _)| bits & bit != 0);
    Ok(names.map(|(_, name)| *name).collect())
}

/// Whether this process can use io_uring.
///
/// # Errors
/// [`DeviceError::NoIoUring`] mostly.
pub fn io_uring() -> Result<(), DeviceError> {
    let ring = io_uring::IoUring::new(1).map_err(|error| control::no_ring(&error))?;
    drop(ring);
    Ok(())
}

/// How long a thread may take to have its tags with the driver.
const SET_UP: Duration = Duration::from_secs(20);
/// How long a device that was not started may take to stop.
const CLEAN_UP: Duration = Duration::from_secs(10);
/// How long is waited for others to let go of a device that is gone.
const LET_GO: Duration = Duration::from_secs(2);
