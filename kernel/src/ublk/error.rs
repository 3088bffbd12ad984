//! Why a ublk device could not be made, started or removed: one variant for each thing a user can
//! act on, and one for the rest.

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

/// What went wrong with a ublk device. Its text is one sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no `/dev/ublk-control`: the kernel has no ublk driver, or it is not loaded.
    NoDriver,
    /// The control node cannot be opened, or the driver refuses the command, for want of a right.
    NotPermitted,
    /// `io_uring_setup` is refused: by the sysctl `kernel.io_uring_disabled` or by a seccomp filter.
    NoIoUring(Errno),
    /// This kernel is known to crash on the command that makes a device.
    KernelCrashes {
        /// What `uname -r` says.
        release: String,
    },
    /// The device with this number exists.
    InUse {
        /// Its number.
        id: u32,
        /// Process that serves it with its name, where known.
        holder: Option<(i32, String)>,
    },
    /// The driver has no free device number.
    NoFreeDevice,
    /// The device with this number does not exist.
    NoSuchDevice(u32),
    /// The disk is gone, but somebody still has its node open: its number is free, and the rest of
    /// it goes, when the last one closes it.
    StillOpen(u32),
    /// A parameter that the driver would not take.
    Params(String),
    /// The driver did not grant what was asked of it.
    NotGranted(String),
    /// The driver did not answer in time; the command may still be under way.
    Timeout {
        /// Which command or which wait.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// A thread that serves the device ended before the device was started.
    Lane(String),
    /// The device node did not appear or is not usable.
    Node(String),
    /// Everything else.
    Failed {
        /// Which command or system call.
        what: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str(
                "/dev/ublk-control does not exist: the kernel module `ublk_drv` is not loaded or not \
                 part of this kernel",
            ),
            Self::NotPermitted => {
                f.write_str("no permission to make ublk devices: CAP_SYS_ADMIN is needed")
            }
            Self::NoIoUring(errno) => write!(
                f,
                "io_uring cannot be used ({errno}): the sysctl `kernel.io_uring_disabled` or a \
                 seccomp filter forbids it"
            ),
            Self::KernelCrashes { release } => write!(
                f,
                "kernel {release} is known to crash when a ublk device is made"
            ),
            Self::InUse { id, holder: None } => write!(f, "/dev/ublkb{id} is in use"),
            Self::InUse {
                id,
                holder: Some((pid, name)),
            } => write!(f, "/dev/ublkb{id} is in use by process {pid} (`{name}`)"),
            Self::NoFreeDevice => f.write_str("all ublk device numbers are in use"),
            Self::NoSuchDevice(id) => write!(f, "ublk device {id} does not exist"),
            Self::StillOpen(id) => write!(
                f,
                "ublk device {id} is stopped; its number stays in use until it is closed or \
                 unmounted by all who use it"
            ),
            Self::Params(text) | Self::NotGranted(text) | Self::Lane(text) | Self::Node(text) => {
                f.write_str(text)
            }
            Self::Timeout { what, after } => {
                write!(f, "{what}: no answer within {} s", after.as_secs())
            }
            Self::Failed { what, errno } => write!(f, "{what}: {errno}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Failed { what, errno }
    }

    /// The same for the errors of the standard library and of the io-uring crate.
    pub(crate) fn io(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::Failed {
            what,
            errno: errno_of(&error),
        }
    }
}

/// The errno inside an error of the standard library; `EIO` where it has none.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
