//! Starts the process that disconnects an NBD device when this worker has died.

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::attachment::Process;
use crate::{Refusal, ResultExt};

/// Start a guard for the device that will be made, which the kernel knows by `word`. It ends soon after this process.
///
/// # Errors
/// One sentence; without a guard, whoever uses the device could hang for long.
pub(super) fn start(word: &str) -> Result<(), Refusal> {
    const ABOUT: &str = "a guard";
    let me = pidfd_open(getpid(), PidfdFlags::empty()).refuse(ABOUT)?;
    let guard = Process::Guard
        .command()
        .refuse(ABOUT)?
        .arg(word)
        .stdin(Stdio::from(me))
        .stdout(Stdio::null())
        // Whoever reads what `attach` says waits until nobody has its standard error.
        .stderr(Stdio::null())
        // Out of reach of what ends this worker's group.
        .process_group(0)
        .spawn()
        .refuse(ABOUT)?;
    log::debug!("guarded by process {}", guard.id());
    Ok(())
}
