//! The kernel's NBD client: block devices `/dev/nbdN` whose requests arrive on stream sockets.
//!
//! [`Device::connect`] hands sockets to the driver (module `nbd`), which speaks NBD's transmission
//! phase on them at once, with simple replies, and keeps them until [`Device::disconnect`]. Whoever
//! holds the other ends serves the device; when nobody does any more, [`remove_leftover`] fails what
//! is under way, from any process that may. Nothing is kept in files.
//!
//! What the commands are and mean stands in
//! <https://git.kernel.org/torvalds/c/v6.12:include/uapi/linux/nbd-netlink.h>.

use std::fs;
use std::path::{Path, PathBuf};

use crate::device_error::DeviceError;

mod device;
mod netlink;
mod params;
mod sysfs;

pub use device::{Device, remove_leftover};
pub use params::Params;

/// Whether devices can be made here. Loads the module if that is needed and possible.
///
/// # Errors
/// Why no device can be made here.
pub fn available() -> Result<(), DeviceError> {
    netlink::Family::find_or_load().map(drop)
}

/// The device node of a number, whether there is one or not.
#[must_use]
pub fn path(index: u32) -> PathBuf {
    format!("/dev/nbd{index}").into()
}

/// Whether the module's part in `/sys` is there, which says nothing about this network namespace.
fn module_is_loaded() -> bool {
    Path::new(MODULE).exists()
}

/// Where the module shows itself, loaded or built in.
const MODULE: &str = "/sys/module/nbd";

/// The largest number that a device can have, as far as the module says.
fn largest_index() -> u32 {
    let text = fs::read_to_string(format!("{MODULE}/parameters/max_part")).unwrap_or_default();
    // A device has so many of the 2^20 minor numbers of its major.
    let minors = text.trim().parse().unwrap_or(31_u32).saturating_add(1);
    ((1 << 20) / minors.next_power_of_two()).max(1) - 1
}
