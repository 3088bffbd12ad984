//! What this host offers for making disks appear, and in words why it does not offer the rest.
//!
//! Nothing is left behind; kernel modules that are missing are loaded where that is possible.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

use crate::device_error::{DeviceError, Driver};
use crate::words::words;
use crate::{nbd, ublk};

/// What can be used here, or one sentence each why not.
#[derive(Clone, Debug)]
pub struct Host {
    /// `/dev/ublkbN`, by ublk.
    pub ublk: Result<Ublk, String>,
    /// `/dev/nbdN`, by the kernel's NBD client.
    pub nbd: Result<(), String>,
    /// Files, by FUSE.
    pub fuse: Result<Fuse, String>,
    /// `/dev/loopN` on a file.
    pub loop_device: Result<(), String>,
    /// io_uring, which ublk needs.
    pub io_uring: Result<(), String>,
}

/// What the ublk driver offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ublk {
    /// The driver's features by name; empty where it cannot tell (before 6.5).
    pub features: Vec<&'static str>,
}

/// How a FUSE file system is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fuse {
    /// By mount(2).
    Direct,
    /// By this helper program.
    Helper(PathBuf),
}

impl Host {
    /// Look at everything.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            ublk: probe_ublk(),
            nbd: probe_nbd(),
            fuse: probe_fuse(),
            loop_device: probe_loop(),
            io_uring: probe_io_uring(),
        }
    }
}

/// Whether ublk devices can be made.
///
/// # Errors
/// One sentence why not.
pub fn probe_ublk() -> Result<Ublk, String> {
    if !has_sys_admin() {
        return Err(DeviceError::NotPermitted(Driver::Ublk).to_string());
    }
    ublk::features()
        .map(|features| Ublk { features })
        .map_err(|why| why.to_string())
}

/// Whether devices of the kernel's NBD client can be made.
///
/// # Errors
/// One sentence why not.
pub fn probe_nbd() -> Result<(), String> {
    if !has_sys_admin() {
        return Err(DeviceError::NotPermitted(Driver::Nbd).to_string());
    }
    nbd::available().map_err(|why| why.to_string())
}

/// Whether FUSE file systems can be mounted.
///
/// # Errors
/// One sentence why not.
pub fn probe_fuse() -> Result<Fuse, String> {
    openable("/dev/fuse", "fuse")?;
    if has_sys_admin() {
        return Ok(Fuse::Direct);
    }
    helper().map(Fuse::Helper).ok_or_else(|| {
        "mounting needs CAP_SYS_ADMIN or the program `fusermount3` in PATH (package fuse3)".into()
    })
}

/// Whether loop devices can be set up.
///
/// # Errors
/// One sentence why not.
pub fn probe_loop() -> Result<(), String> {
    openable("/dev/loop-control", "loop")?;
    if has_sys_admin() {
        return Ok(());
    }
    Err("no permission to set up loop devices: CAP_SYS_ADMIN is needed".into())
}

/// Whether io_uring can be used.
///
/// # Errors
/// One sentence why not.
pub fn probe_io_uring() -> Result<(), String> {
    ublk::io_uring().map_err(|why| why.to_string())
}

/// Whether this process may do what an administrator may.
fn has_sys_admin() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Open a control node for reading and writing; where there is none, load `module` first.
fn openable(node: &str, module: &str) -> Result<(), String> {
    let opened = match open(node) {
        Err(error) if missing(&error) && load(module, node.as_ref()) => open(node),
        other => other,
    };
    opened.map(drop).map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!(
            "{node} does not exist: the kernel module `{module}` is not loaded or not part of this \
             kernel"
        ),
        _ if missing(&error) => format!("{node}: the kernel module `{module}` is not loaded"),
        ErrorKind::PermissionDenied => format!("no permission to open {node}"),
        _ => format!("{node}: {}", words(error)),
    })
}

fn open(node: &str) -> io::Result<File> {
    File::options().read(true).write(true).open(node)
}

/// Whether a node or what is behind it does not exist.
fn missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NODEV | Errno::NXIO))
}

/// Ask modprobe(8) for a kernel module and wait a moment for its node. Tells whether it worked;
/// whoever needs the module finds out by itself and says why.
pub(crate) fn load(module: &str, node: &Path) -> bool {
    if !geteuid().is_root() {
        return false;
    }
    let modprobe = Command::new("modprobe")
        .args(["--quiet", module])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    log::debug!("modprobe {module}: {modprobe:?}");
    if !modprobe.as_ref().is_ok_and(ExitStatus::success) {
        return false;
    }
    // devtmpfs has the node at once, udev needs a moment.
    let deadline = Instant::now() + Duration::from_secs(1);
    while !node.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The program that mounts for users, where it is.
fn helper() -> Option<PathBuf> {
    if let Some(named) = env::var_os("FUSERMOUNT_PATH") {
        return Some(named.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join("fusermount3"))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_missing_is_told_with_its_module() {
        let why = openable("/dev/pydisk-no-such-node", "pydisk_no_such_module").unwrap_err();
        assert!(why.contains("/dev/pydisk-no-such-node"), "{why}");
        assert!(why.contains("`pydisk_no_such_module`"), "{why}");
    }

    #[test]
    fn every_reason_is_one_sentence() {
        let host = Host::probe();
        let reasons = [
            host.ublk.err(),
            host.nbd.err(),
            host.fuse.err(),
            host.loop_device.err(),
            host.io_uring.err(),
        ];
        for why in reasons.into_iter().flatten() {
            assert!(
                !why.is_empty() && !why.contains('\n') && !why.ends_with('.'),
                "{why}"
            );
        }
    }
}
