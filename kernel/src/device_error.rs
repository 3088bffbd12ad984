//! Why a device of ublk or of the kernel's NBD client could not be made, started or removed: one variant for each
//! thing a user can act on, and one for the rest.

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

use crate::words::words;

/// A driver whose devices have numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The module `ublk_drv`.
    Ublk,
    /// The module `nbd`.
    Nbd,
}

/// A device of this driver with this number. Shown as the path of its node, whether there is one or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceName(pub Driver, pub u32);

/// What went wrong with a device. Its text is one sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceError {
    /// The kernel has no such driver, or its module is not loaded.
    NoDriver(Driver),
    /// The NBD driver is there and listens in another network namespace only.
    OtherNamespace,
    /// The driver wants a right that this process does not have.
    NotPermitted(Driver),
    /// `io_uring_setup` is refused: by the sysctl `kernel.io_uring_disabled` or by a seccomp filter.
    NoIoUring(Errno),
    /// This kernel is known to crash on the command that makes a ublk device.
    KernelCrashes {
        /// What `uname -r` says.
        release: String,
    },
    /// The NBD driver cannot be told whose a device is, which came with Linux 5.14.
    TooOld,
    /// The device serves somebody, or somebody has it open.
    InUse {
        /// Which one.
        device: DeviceName,
        /// The process that serves or has it, with its name, where known.
        holder: Option<(i32, String)>,
    },
    /// The NBD driver makes no device with this number.
    NoSuchNumber {
        /// The number.
        index: u32,
        /// The largest one that it makes.
        largest: u32,
    },
    /// All numbers that the driver has are in use.
    NoFreeDevice(Driver),
    /// There is no ublk device with this number.
    NoSuchDevice(u32),
    /// The disk is gone, but somebody still has its node open: its number stays in use until the
    /// last one closes it.
    StillOpen(DeviceName),
    /// A parameter that the driver would not take.
    Params(String),
    /// The driver did not grant what was asked of it.
    NotGranted(String),
    /// The driver did not answer in time; what was asked for may still happen.
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

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ublk => "ublk",
            Self::Nbd => "NBD",
        })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(Driver::Ublk, id) => write!(f, "/dev/ublkb{id}"),
            Self(Driver::Nbd, index) => write!(f, "/dev/nbd{index}"),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver(Driver::Ublk) => f.write_str(
                "/dev/ublk-control does not exist: the kernel module `ublk_drv` is not loaded or not \
                 part of this kernel",
            ),
            Self::NoDriver(Driver::Nbd) => {
                f.write_str("the kernel module `nbd` is not loaded or not part of this kernel")
            }
            Self::OtherNamespace => f.write_str(
                "the kernel module `nbd` takes commands in the first network namespace only",
            ),
            Self::NotPermitted(driver) => write!(
                f,
                "no permission to make {driver} devices: CAP_SYS_ADMIN is needed"
            ),
            Self::NoIoUring(errno) => write!(
                f,
                "io_uring cannot be used ({}): the sysctl `kernel.io_uring_disabled` or a seccomp \
                 filter forbids it",
                words(*errno)
            ),
            Self::KernelCrashes { release } => write!(
                f,
                "kernel {release} is known to crash when a ublk device is made"
            ),
            Self::TooOld => f.write_str("the kernel module `nbd` is too old: Linux 5.14 is needed"),
            Self::InUse {
                device,
                holder: None,
            } => write!(f, "{device} is in use"),
            Self::InUse {
                device,
                holder: Some((pid, name)),
            } => write!(f, "{device} is in use by process {pid} (`{name}`)"),
            Self::NoSuchNumber { index, largest } => write!(
                f,
                "/dev/nbd{index} cannot be made: the kernel module `nbd` has numbers up to {largest}"
            ),
            Self::NoFreeDevice(driver) => write!(f, "all {driver} device numbers are in use"),
            Self::NoSuchDevice(id) => write!(f, "ublk device {id} does not exist"),
            Self::StillOpen(device) => {
                match device {
                    DeviceName(Driver::Ublk, id) => write!(f, "ublk device {id} is stopped")?,
                    DeviceName(Driver::Nbd, _) => write!(f, "{device} is disconnected")?,
                }
                f.write_str(
                    "; its number stays in use until it is closed or unmounted by all who use it",
                )
            }
            Self::Params(text) | Self::NotGranted(text) | Self::Lane(text) | Self::Node(text) => {
                f.write_str(text)
            }
            Self::Timeout { what, after } => {
                write!(f, "{what}: no answer within {} s", after.as_secs())
            }
            Self::Failed { what, errno } => write!(f, "{what}: {}", words(*errno)),
        }
    }
}

impl std::error::Error for DeviceError {}

impl DeviceError {
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

    /// Whether its text says which device it is about.
    #[must_use]
    pub fn names_its_device(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::NoSuchNumber { .. })
    }
}

/// The errno inside an error of the standard library; `EIO` where it has none.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
