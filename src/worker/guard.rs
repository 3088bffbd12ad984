//! Starts the process that disconnects an NBD device when this worker has died.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use crate::Refusal;
use crate::frontends::{self, Options};

/// The hidden subcommand that is a guard.
pub const GUARD: &str = "guard-process";

/// Start a guard for the device that will be made with these `options`. It ends soon after this process.
///
/// # Errors
/// One sentence; without a guard, whoever uses the device could hang for long.
pub(super) fn start(options: &Options) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| Refusal::new(format!("{GUARD}: {error}"));
    let me = pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let guard = Command::new("/proc/self/exe")
        .arg(GUARD)
        .arg(frontends::nbd_word(options))
        .stdin(Stdio::from(me))
        .stdout(Stdio::null())
        // Whoever reads what `attach` says waits until nobody has its standard error.
        .stderr(Stdio::null())
        // Out of reach of what ends this worker's group.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    log::debug!("guarded by process {}", guard.id());
    Ok(())
}
