//! What a process asks of the kernel about itself and what it hands to its children.

use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Let no child inherit a descriptor above standard error.
///
/// What this process opened itself is closed on exec anyway; this is for what its own parent left
/// open, such as the pipe of a job server, which a disk would otherwise hold for days.
///
/// # Errors
/// As close_range(2) with `CLOSE_RANGE_CLOEXEC` (Linux 5.11).
pub fn keep_descriptors_from_children() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC takes no memory and closes nothing; it only sets
    // a flag on the descriptors of this process.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Go on in a mount namespace of one's own, which follows what happens in the one left behind.
///
/// Call it before any thread is started: the others would stay behind.
///
/// # Errors
/// As unshare(2) and mount(2); it takes `CAP_SYS_ADMIN`.
pub fn leave_mount_namespace() -> io::Result<()> {
    // SAFETY: a new mount namespace touches no memory and no descriptor; only paths are resolved
    // differently from here on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )?;
    Ok(())
}
