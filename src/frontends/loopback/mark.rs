//! What tells the loop device of one attachment from those of others.

use std::path::{Path, PathBuf};

use pydisk_kernel::loopdev::LoopDevice;

use crate::frontends::{Dead, Identity, fuse};

/// What tells a loop device from those of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The limit of its size.
    Limit(u64),
    /// The path of its file, where the disk is larger than such a limit could be, and where an older pydisk made
    /// the device. In another mount namespace the same path may be another file.
    File(PathBuf),
}

impl Mark {
    pub(super) fn new(identity: Identity, size: u64, file: &Path) -> Self {
        if size < identity.bytes() {
            Self::Limit(identity.bytes())
        } else {
            Self::File(file.to_owned())
        }
    }

    /// Those that a device of a dead attachment may have. The path of its file counts as long as that is mounted
    /// here.
    pub(super) fn of_dead(dead: &Dead<'_>, file: &Path) -> Vec<Self> {
        let limit = dead.identity.map(|identity| Self::Limit(identity.bytes()));
        let path = fuse::is_mounted(file, dead).then(|| Self::File(file.to_owned()));
        limit.into_iter().chain(path).collect()
    }

    pub(super) fn limit(&self) -> u64 {
        match self {
            Self::Limit(bytes) => *bytes,
            Self::File(_) => 0,
        }
    }

    pub(super) fn is_on(&self, device: LoopDevice) -> bool {
        device.size_limit() == Some(self.limit())
            && match self {
                Self::Limit(_) => true,
                Self::File(file) => device.backing_file().as_ref() == Some(file),
            }
    }
}
