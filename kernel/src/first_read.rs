//! The first read of a device, by another process.

use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::device_error::DeviceError;
use crate::elsewhere::{Word, elsewhere, errno_there, open_there, read_there};
use crate::words::words;

/// Open the device at `path`, compare its size, and read its first block.
///
/// # Errors
/// [`DeviceError::Node`] with the reason, [`DeviceError::Timeout`] when there was no answer `within` that time.
pub(crate) fn first_read(
    path: &Path,
    size: u64,
    block: u32,
    within: Duration,
) -> Result<(), DeviceError> {
    let fail = |what: &str, error: &dyn fmt::Display| {
        Err(DeviceError::Node(format!(
            "{}: {what}: {error}",
            path.display()
        )))
    };
    let name = CString::new(path.as_os_str().as_bytes()).expect("made from a number");
    let block = usize::try_from(block).expect("a block is small");
    // SAFETY: `look` makes system calls only.
    let word = unsafe { elsewhere(within, || false, || look(&name, block)) };
    let [step, errno, found] = match word {
        Ok(word) => word,
        Err(Errno::TIMEDOUT) => {
            return Err(DeviceError::Timeout {
                what: "first read of the device",
                after: within,
            });
        }
        Err(errno) => return fail("the process that reads it", &words(errno)),
    };
    if let Ok(errno @ 1..) = i32::try_from(errno) {
        let step = ["open", "size", "first read"]
            .into_iter()
            .nth(usize::try_from(step).unwrap_or(2));
        return fail(
            step.unwrap_or("first read"),
            &words(Errno::from_raw_os_error(errno)),
        );
    }
    if found != size {
        return fail("size", &format!("{found} bytes instead of {size}"));
    }
    Ok(())
}

fn look(name: &CString, block: usize) -> Word {
    let device = match open_there(name, libc::O_RDONLY) {
        Ok(device) => device,
        Err(errno) => return [0, errno, 0],
    };
    // SAFETY: a descriptor of this process.
    let end = unsafe { libc::lseek64(device, 0, libc::SEEK_END) };
    let Ok(size) = u64::try_from(end) else {
        return [1, errno_there(), 0];
    };
    match read_there(device, block) {
        Err(errno) => [2, errno, size],
        Ok(()) => [2, 0, size],
    }
}
