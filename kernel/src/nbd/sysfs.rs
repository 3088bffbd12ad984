//! What `/sys/block/nbdN` says of a device.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::error::Error;

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

    /// Who made it, in the word given at that time; `None` if it is not connected or nothing was said.
    pub(super) fn identity(self) -> Option<String> {
        self.text("backend").ok()
    }

    /// The process that connected it, with its name. The driver knows the thread.
    pub(super) fn holder(self) -> Option<(i32, String)> {
        let thread: i32 = self.text("pid").ok()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let process = status
            .lines()
            .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<i32>().ok())?;
        let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
        Some((process, name.trim_end().to_owned()))
    }

    /// Requests that the kernel has given to the driver and has no answer to.
    pub(super) fn under_way(self) -> u64 {
        let text = self.text("inflight").unwrap_or_default();
        let counts = text.split_ascii_whitespace();
        counts.filter_map(|count| count.parse::<u64>().ok()).sum()
    }

    /// Set one of the queue's limits, where the kernel lets it be set.
    pub(super) fn limit(self, attribute: &str, value: u64) {
        let path = self.path(&format!("queue/{attribute}"));
        if let Err(error) = fs::write(&path, value.to_string()) {
            log::debug!("{}: {value}: {error}", path.display());
        }
    }
}

/// The numbers of all devices, connected or not, ascending.
pub(super) fn all() -> Result<Vec<u32>, Error> {
    let read = || {
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("nbd"));
            found.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    };
    read().map_err(|error: io::Error| Error::Node(format!("/sys/block: {error}")))
}
