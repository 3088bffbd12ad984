//! Why an NBD device could not be made or removed: one variant for each thing a user can act on, and
//! one for the rest.

use std::fmt;
use std::time::Duration;

use rustix::io::Errno;

/// What went wrong with an NBD device. Its text is one sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The kernel has no NBD client, or its module is not loaded.
    NoDriver,
    /// The driver is there and listens in another network namespace only.
    OtherNamespace,
    /// The driver wants a right that this process does not have.
    NotPermitted,
    /// The driver cannot be told whose a device is, which came with Linux 5.14.
    TooOld,
    /// The device with this number serves somebody, or somebody has it open.
    InUse {
        /// Its number.
        index: u32,
        /// The process that connected it with its name, where known.
        holder: Option<(i32, String)>,
    },
    /// The driver makes no device with this number.
    NoSuchNumber {
        /// The number.
        index: u32,
        /// The largest one that it makes.
        largest: u32,
    },
    /// All numbers that the driver has are in use.
    NoFreeDevice,
    /// The disk is gone, but somebody still has its node open: it stays in use until it is closed.
    StillOpen(u32),
    /// A parameter that the driver would not take.
    Params(String),
    /// There was no answer in time; what was asked for may still happen.
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
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
            Self::NoDriver => {
                f.write_str("the kernel module `nbd` is not loaded or not part of this kernel")
            }
            Self::OtherNamespace => f.write_str(
                "the kernel module `nbd` takes commands in the first network namespace only",
            ),
            Self::NotPermitted => {
                f.write_str("no permission to make NBD devices: CAP_SYS_ADMIN is needed")
            }
            Self::TooOld => f.write_str("the kernel module `nbd` is too old: Linux 5.14 is needed"),
            Self::InUse {
                index,
                holder: None,
            } => write!(f, "/dev/nbd{index} is in use"),
            Self::InUse {
                index,
                holder: Some((pid, name)),
            } => write!(f, "/dev/nbd{index} is in use by process {pid} (`{name}`)"),
            Self::NoSuchNumber { index, largest } => write!(
                f,
                "/dev/nbd{index} cannot be made: the kernel module `nbd` has numbers up to {largest}"
            ),
            Self::NoFreeDevice => f.write_str("all NBD device numbers are in use"),
            Self::StillOpen(index) => write!(
                f,
                "/dev/nbd{index} is disconnected; its number stays in use until it is closed or \
                 unmounted by all who use it"
            ),
            Self::Params(text) | Self::Node(text) => f.write_str(text),
            Self::Timeout { what, after } => {
                write!(f, "{what}: no answer within {} s", after.as_secs())
            }
            Self::Failed { what, errno } => write!(f, "{what}: {errno}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(super) fn failed(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Failed { what, errno }
    }
}
