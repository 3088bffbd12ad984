//! Devices of which an older pydisk noted the number and nothing else, before there was an
//! [`Identity`](crate::frontends::Identity). The number may be another device's by now, so none is removed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use pydisk_kernel::DeviceError;
use pydisk_kernel::ublk::{self, Info, State};

use crate::{Refusal, ResultExt};

/// In the attachment's folder, the number of the device that was made for it.
const NUMBER: &str = "ublk-number";

/// See whether anything can be left of the device whose number stands in `folder`.
///
/// # Errors
/// One sentence, where that cannot be told.
pub(super) fn is_gone(folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(NUMBER);
    let failed = |why: &dyn std::fmt::Display| Refusal::about(note.display(), why);
    let number = match fs::read_to_string(&note) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        number => number.refuse(note.display())?,
    };
    let number = number.trim().parse().map_err(|error| failed(&error))?;
    match ublk::info(number) {
        Err(DeviceError::NoSuchDevice(_) | DeviceError::NoDriver(_)) => Ok(()),
        Err(error) => Err(failed(&error)),
        // The attachment's own server is dead.
        Ok(info) if is_served(&info) => Ok(()),
        Ok(_) => Err(failed(&format!(
            "an older pydisk noted the number only, and whose /dev/ublkb{number} is cannot be told"
        ))
        .hint(format!(
            "remove the folder `{}`, and the device if nobody uses it",
            folder.display()
        ))),
    }
}

/// Whether a process lives that serves the device.
fn is_served(info: &Info) -> bool {
    let alive = |pid: i32| Path::new("/proc").join(pid.to_string()).exists();
    // A server in another process namespace cannot be seen.
    info.state != State::Dead && info.pid.is_none_or(alive)
}
