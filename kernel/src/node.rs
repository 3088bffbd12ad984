//! Device nodes: which there are, waiting for one that the kernel or udev makes, and making it where nobody does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::mounts::{self, Device};
use crate::words::words;

/// How long devtmpfs and udev have to make a node and to set its owner.
const APPEAR: Duration = Duration::from_secs(5);

/// A node that exists; one that we had to make goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    path: PathBuf,
    made: bool,
}

impl Node {
    /// `/dev/NAME`, a character device of this class.
    ///
    /// # Errors
    /// One sentence: the node did not appear, or none can be made.
    pub(crate) fn character(name: &str, class: &str) -> Result<Self, String> {
        let numbers = format!("/sys/class/{class}/{name}/dev");
        Self::wait(name, FileType::CharacterDevice, &numbers)
    }

    /// `/dev/NAME`, a block device.
    ///
    /// # Errors
    /// As [`Node::character`].
    pub(crate) fn block(name: &str) -> Result<Self, String> {
        let numbers = format!("/sys/block/{name}/dev");
        Self::wait(name, FileType::BlockDevice, &numbers)
    }

    /// `/dev/NAME` as it is, or made where no node of that name is: a container has those that it was given.
    ///
    /// # Errors
    /// One sentence: another device has that name, or none can be made.
    pub(crate) fn at_hand(name: &str, device: Device) -> Result<Self, String> {
        let path = Path::new("/dev").join(name);
        match mounts::status(&path) {
            Ok(status) if Device::of_node(&status) == device => Ok(Self { path, made: false }),
            Ok(_) => Err(format!("{}: this is another device", path.display())),
            Err(_) => {
                let (major, minor) = (device.major, device.minor);
                let numbers = format!("/sys/dev/block/{major}:{minor}/dev");
                Self::make(path, FileType::BlockDevice, &numbers)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn wait(name: &str, kind: FileType, numbers: &str) -> Result<Self, String> {
        let path = Path::new("/dev").join(name);
        let deadline = Instant::now() + APPEAR;
        while !path.exists() {
            let kernel_makes_nodes = dev_is_devtmpfs();
            if !kernel_makes_nodes {
                return Self::make(path, kind, numbers);
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "{}: the node did not appear within {} s",
                    path.display(),
                    APPEAR.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { path, made: false })
    }

    /// A /dev of somebody's own, as in a container: no kernel and no udev makes nodes there.
    fn make(path: PathBuf, kind: FileType, numbers: &str) -> Result<Self, String> {
        let fail = |why: String| format!("{}: {why}", path.display());
        let text = fs::read_to_string(numbers)
            .map_err(|error| fail(format!("{numbers}: {}", words(error))))?;
        let device = text
            .trim()
            .split_once(':')
            .and_then(|(major, minor)| Some(makedev(major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| fail(format!("{numbers}: `{}` is no device number", text.trim())))?;
        mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, device).map_err(|errno| {
            fail(format!(
                "there is no node and none can be made: {}",
                words(errno)
            ))
        })?;
        Ok(Self { path, made: true })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// Open a node, waiting for udev to give it to us.
pub(crate) fn open_when_ours(path: &Path) -> Result<File, String> {
    let deadline = Instant::now() + APPEAR;
    loop {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => return Ok(file),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(format!("{}: {}", path.display(), words(error))),
        }
    }
}

/// The numbers behind `prefix` in the names of what lies in a folder of sysfs.
pub(crate) fn numbers(folder: &str, prefix: &str) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        found.extend(number.and_then(|number| number.parse::<u32>().ok()));
    }
    Ok(found)
}

fn dev_is_devtmpfs() -> bool {
    // Where it cannot be told, the usual is assumed.
    mounts::mounted_at(Path::new("/dev")).map_or(true, |mount| {
        mount.is_some_and(|mount| mount.kind == "devtmpfs")
    })
}
