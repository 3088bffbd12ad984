//! What `/sys/block/nbdN` says of a device.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::device_error::DeviceError;
use crate::node;
use crate::proc::{self, Status};
use crate::words::words;

/// Who made a device, and whether it came to be with that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity(String);

impl Identity {
    /// Behind the word of whoever made a device that goes when it is disconnected.
    const ADDED: char = '+';

    pub(super) fn new(word: &str, added: bool) -> Self {
        let mut text = word.to_owned();
        text.extend(added.then_some(Self::ADDED));
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The word that it was made with.
    pub(super) fn word(&self) -> &str {
        self.0.strip_suffix(Self::ADDED).unwrap_or(&self.0)
    }

    /// Whether there was no such device before, so that there shall be none afterwards.
    pub(super) fn added(&self) -> bool {
        self.0.ends_with(Self::ADDED)
    }
}

/// One device's folder in `/sys`, which exists as long as the device does, connected or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Folder(pub(super) u32);

impl Folder {
    fn path(self, attribute: &str) -> PathBuf {
        format!("/sys/block/nbd{}/{attribute}", self.0).into()
    }

    fn text(self, attribute: &str) -> io::Result<String> {
        fs::read_to_string(self.path(attribute)).map(|text| text.trim_end().to_owned())
    }

    pub(super) fn exists(self) -> bool {
        self.path("").exists()
    }

    /// Whether it has sockets, or had and is not let go of yet.
    pub(super) fn is_connected(self) -> bool {
        self.path("pid").exists()
    }

    /// Who made it, as it was told at that time; `None` if it is not connected or nothing was told.
    pub(super) fn identity(self) -> Option<Identity> {
        self.text("backend").ok().map(Identity)
    }

    /// The file in which [`Folder::identity`] stands, as one line.
    pub(super) fn backend(self) -> PathBuf {
        self.path("backend")
    }

    /// The process that connected it, with its name. The driver knows the thread.
    pub(super) fn holder(self) -> Option<(i32, String)> {
        let thread: i32 = self.text("pid").ok()?.parse().ok()?;
        let process = Status::of(thread)?.field("Tgid")?.parse().ok()?;
        Some((process, proc::name(process)?))
    }

    /// Whether the device with this identity is gone as far as it ever goes.
    pub(super) fn has_gone(self, identity: &Identity) -> bool {
        match self.identity() {
            Some(found) => found != *identity,
            None => !identity.added() || !self.exists(),
        }
    }

    /// Whether the kernel has partitions of it, be it of a disk that it had.
    pub(super) fn has_partitions(self) -> bool {
        let entries = fs::read_dir(self.path("")).into_iter().flatten().flatten();
        let mut entries = entries.map(|entry| entry.path().join("partition"));
        entries.any(|partition| partition.exists())
    }

    /// Requests that the kernel has given to the driver and has no answer to.
    pub(super) fn under_way(self) -> u64 {
        let text = self.text("inflight").unwrap_or_default();
        let counts = text.split_ascii_whitespace();
        counts.filter_map(|count| count.parse::<u64>().ok()).sum()
    }

    /// Requests that were answered: reads, writes, discards and flushes, by the kernel's
    /// Documentation/block/stat.rst.
    pub(super) fn answered(self) -> u64 {
        let text = self.text("stat").unwrap_or_default();
        let counts: Vec<u64> = text
            .split_ascii_whitespace()
            .filter_map(|count| count.parse().ok())
            .collect();
        [0, 4, 11, 15].iter().filter_map(|&at| counts.get(at)).sum()
    }

    /// Set one of the queue's limits, where the kernel lets it be set.
    pub(super) fn limit(self, attribute: &str, value: u64) {
        let path = self.path(&format!("queue/{attribute}"));
        if let Err(error) = fs::write(&path, value.to_string()) {
            log::debug!("{}: {value}: {error}", path.display());
        }
    }
}

/// The numbers of all devices, connected or not.
pub(super) fn all() -> Result<BTreeSet<u32>, DeviceError> {
    node::numbers("/sys/block", "nbd")
        .map_err(|error| DeviceError::Node(format!("/sys/block: {}", words(error))))
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn an_identity_tells_whether_the_device_came_with_it() {
        let kept = Identity::new("pydisk:x:1", false);
        assert_eq!((kept.word(), kept.added()), ("pydisk:x:1", false));
        let added = Identity::new("pydisk:x:1", true);
        assert_eq!((added.word(), added.added()), ("pydisk:x:1", true));
        assert_ne!(kept, added);
    }
}
