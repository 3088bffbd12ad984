//! Who uses a block device or a file: mounts, swap, devices on top of it, and programs.
//!
//! `detach` refuses with what this finds. Nothing here waits for the device or the file itself, so
//! that it works also when what serves them does not answer any more.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, Statx};
use rustix::io::Errno;

use crate::loopdev::{self, LoopDevice};
use crate::mounts::{self, Device};
use crate::proc;

/// How many requests of the block device or the FUSE file at `path` wait for an answer, if the kernel tells. Some
/// kinds, such as flushes, it does not count. The path itself is not looked at: the file may lie on a filesystem
/// that does not answer.
#[must_use]
pub fn requests_under_way(path: &Path) -> Option<u64> {
    let counts = match path.strip_prefix("/dev") {
        Ok(name) if name.components().count() == 1 => {
            Path::new("/sys/block").join(name).join("inflight")
        }
        _ => {
            let minor = mounts::mounted_at(path).ok()??.device.minor;
            format!("/sys/fs/fuse/connections/{minor}/waiting").into()
        }
    };
    // Reads and writes of a device, all together of a file.
    let counts = fs::read_to_string(counts).ok()?;
    counts
        .split_whitespace()
        .map(|count| count.parse::<u64>().ok())
        .sum()
}

/// One use of a device or a file. Shown as what follows "`/dev/ublkb0` ...".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A filesystem on it, or on a partition of it, is mounted here; or the file is mounted here too.
    Mounted {
        /// The mount point.
        at: PathBuf,
    },
    /// The kernel swaps to it.
    Swap,
    /// Another block device stands on it: device mapper, md, bcache.
    Holder {
        /// For example `dm-0`.
        device: String,
    },
    /// It is the file of a loop device.
    LoopBacking {
        /// For example `/dev/loop0`.
        device: PathBuf,
    },
    /// A process has it open.
    Open {
        /// The process.
        pid: u32,
        /// What it calls itself, at most 15 bytes.
        command: String,
    },
    /// Somebody holds the block device for himself alone whom this namespace does not show, as a
    /// container that mounted it.
    Elsewhere,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { at } => write!(f, "is mounted at {}", at.display()),
            Self::Swap => f.write_str("is swapped to"),
            Self::Holder { device } => write!(f, "is part of /dev/{device}"),
            Self::LoopBacking { device } => write!(f, "is the file of {}", device.display()),
            Self::Open { pid, command } => write!(f, "is open in {command} (pid {pid})"),
            Self::Elsewhere => f.write_str("is in use, perhaps mounted in a container"),
        }
    }
}

/// Everyone who uses the block device or file at `path`, in the order of [`User`]; the partitions of
/// a device count as the device. Processes in `except` are passed over, and so are those of other
/// users where this process may not look at them.
///
/// # Errors
/// There is nothing at `path`, or `/proc` or `/sys` cannot be read.
pub fn users(path: &Path, except: &[u32]) -> io::Result<BTreeSet<User>> {
    let used = Used::at(path)?;
    let mut found = BTreeSet::new();
    add_mounts(&used, &mut found)?;
    add_swap(&used, &mut found)?;
    add_holders(&used, &mut found)?;
    add_loops(&used, &mut found)?;
    // Opening waits for nobody, but the last close of a device may write what is cached of it.
    if found.is_empty() && used.is_device && held_exclusively(path)? {
        found.insert(User::Elsewhere);
    }
    add_processes(&used, except, &mut found)?;
    Ok(found)
}

/// What is asked about.
#[derive(Debug)]
struct Used {
    /// The path without symbolic links.
    real: PathBuf,
    is_device: bool,
    /// A block device and its partitions.
    devices: Vec<Device>,
    /// A file: its filesystem and its inode there.
    file: Option<(Device, u64)>,
}

impl Used {
    fn at(path: &Path) -> io::Result<Self> {
        let real = real_path(path)?;
        let status = mounts::status(&real)?;
        if mounts::is_block_device(&status) {
            return Ok(Self {
                real,
                is_device: true,
                devices: with_partitions(Device::of_node(&status))?,
                file: None,
            });
        }
        Ok(Self {
            real,
            is_device: false,
            devices: Vec::new(),
            file: Some((Device::of_filesystem(&status), status.stx_ino)),
        })
    }

    fn is(&self, status: &Statx) -> bool {
        if mounts::is_block_device(status) {
            return self.devices.contains(&Device::of_node(status));
        }
        self.file == Some((Device::of_filesystem(status), status.stx_ino))
    }

    fn is_at(&self, path: &Path) -> bool {
        mounts::status(path).is_ok_and(|status| self.is(&status))
    }
}

/// The folder without symbolic links and the name behind it, without asking what has that name.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path);
    };
    let real = folder.canonicalize()?.join(name);
    if mounts::mounted_at(&real)?.is_none() && real.is_symlink() {
        return real.canonicalize();
    }
    Ok(real)
}

fn sysfs(device: Device) -> PathBuf {
    format!("/sys/dev/block/{}:{}", device.major, device.minor).into()
}

fn with_partitions(device: Device) -> io::Result<Vec<Device>> {
    let mut found = vec![device];
    for entry in fs::read_dir(sysfs(device))? {
        let folder = entry?.path();
        if folder.join("partition").exists() {
            found.extend(Device::parse(&fs::read_to_string(folder.join("dev"))?));
        }
    }
    Ok(found)
}

fn add_mounts(used: &Used, found: &mut BTreeSet<User>) -> io::Result<()> {
    let mounts = mounts::mounts()?;
    // A file that is itself a mount point is a filesystem of one file.
    let own = mounts.iter().rev().find(|mount| mount.at == used.real);
    let own = own.filter(|_| !used.is_device).map(|mount| mount.device);
    for mount in mounts {
        // A filesystem on several devices, as btrfs, shows a number of its own and one of them.
        let on_device = used.devices.contains(&mount.device)
            || mount.source.as_bytes().starts_with(b"/") && used.is_at(Path::new(&mount.source));
        let same_file = own == Some(mount.device) && mount.at != used.real;
        if on_device || same_file {
            found.insert(User::Mounted { at: mount.at });
        }
    }
    Ok(())
}

fn add_swap(used: &Used, found: &mut BTreeSet<User>) -> io::Result<()> {
    if mounts::swaps()?.iter().any(|path| used.is_at(path)) {
        found.insert(User::Swap);
    }
    Ok(())
}

fn add_holders(used: &Used, found: &mut BTreeSet<User>) -> io::Result<()> {
    for device in &used.devices {
        let holders = match fs::read_dir(sysfs(*device).join("holders")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            holders => holders?,
        };
        for holder in holders {
            let device = holder?.file_name().to_string_lossy().into_owned();
            found.insert(User::Holder { device });
        }
    }
    Ok(())
}

fn add_loops(used: &Used, found: &mut BTreeSet<User>) -> io::Result<()> {
    for index in loopdev::all()? {
        let device = LoopDevice::at(index);
        let Some(file) = device.backing_file() else {
            continue;
        };
        if file == used.real || used.is_at(&file) {
            let device = device.path();
            found.insert(User::LoopBacking { device });
        }
    }
    Ok(())
}

/// A mount holds its block device exclusively, whichever namespace it is in, see open(2), `O_EXCL`.
fn held_exclusively(path: &Path) -> io::Result<bool> {
    let flags = OFlags::EXCL | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map(drop::<File>);
    match opened {
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Ok(true),
        // Without the right to open it, or with a dead device, nothing is known.
        Ok(()) | Err(_) => Ok(false),
    }
}

fn add_processes(used: &Used, except: &[u32], found: &mut BTreeSet<User>) -> io::Result<()> {
    for pid in proc::processes()? {
        if !except.contains(&pid) && has_open(pid, used) {
            let command = proc::name(pid).unwrap_or_default();
            found.insert(User::Open { pid, command });
        }
    }
    Ok(())
}

/// Whether the process has it open; not if it has ended or belongs to somebody else.
fn has_open(pid: u32, used: &Used) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors
        .flatten()
        .any(|descriptor| used.is_at(&descriptor.path()))
}

#[cfg(test)]
mod tests;
