//! What lies on a disk, and on that, up to the top: partitions, filesystems, loop devices, device mapper,
//! md, and programs that keep disks of their own there. For whoever takes disks away by force: what
//! all of these hold is stored from the top down, and a disk goes after those that lie on it.
//!
//! The kernel is asked by numbers, not by paths: a filesystem may be mounted in a container, mounted
//! over, or unmounted with a file still open. What cannot be seen: disks that other programs make of
//! a file or a device (but for the kernel's NBD client), and a file of an overlay filesystem.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod scene;
mod store;

use crate::mounts::Device;
use scene::{Scene, Use};
pub use store::{Fault, Why};

/// A program that serves a disk, which it keeps in files or devices below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// The process; what it has open is what it keeps the disk in.
    pub pid: Option<u32>,
    /// The block device or the file that its users have, if any.
    pub at: Option<PathBuf>,
    /// Files and devices that it was told of, and may open when it needs them.
    pub files: Vec<PathBuf>,
}

/// One thing that has something below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// A disk, a partition, or what device mapper, md or a loop device make.
    Block(Device),
    /// A filesystem, by the number that its mounts show.
    Filesystem(Device),
    /// A file that is a disk, by the number of its filesystem and its inode there.
    File(Device, u64),
    /// A program that serves a disk, by its place in the list.
    Server(usize),
}

/// Store what everything holds that lies on the device or the file at `path`, and it itself, from the
/// top down, whoever mounted it. This takes as long as `within`, and not much longer; what hangs is
/// left alone then.
///
/// # Errors
/// There is nothing at `path`. What could not be stored is no error, but what this gives.
pub fn store(path: &Path, servers: &[Server], within: Duration) -> io::Result<Vec<Fault>> {
    let start = Instant::now();
    let looking = start + within / 3;
    let bottom = Use::at(path, looking)?.layer();
    let scene = Scene::look(Some((bottom, path)), servers, looking);
    let layers = order(bottom, |layer| scene.above(layer));
    let mut faults = store::store(&scene, &layers, (start + within, within));
    if scene.cut_short {
        faults.push(Fault {
            what: "what lies above".to_owned(),
            why: Why::Other("there was no time to find all of it".to_owned()),
        });
    }
    Ok(faults)
}

/// For each of these, the places in the list of those that lie on it, directly or not.
#[must_use]
pub fn lying_on_each(servers: &[Server], within: Duration) -> Vec<BTreeSet<usize>> {
    let scene = Scene::look(None, servers, Instant::now() + within);
    let bottoms = &scene.served;
    let above = |number: usize| {
        let mut found = BTreeSet::new();
        let layers = bottoms[number].map(|bottom| order(bottom, |layer| scene.above(layer)));
        for layer in layers.into_iter().flatten() {
            let same =
                |other: &usize| layer == Layer::Server(*other) || bottoms[*other] == Some(layer);
            found.extend((0..servers.len()).filter(same));
        }
        found.remove(&number);
        found
    };
    (0..servers.len()).map(above).collect()
}

/// Everything above `bottom` and itself, each behind all that lies on it.
fn order(bottom: Layer, above: impl Fn(Layer) -> Vec<Layer>) -> Vec<Layer> {
    let mut seen = BTreeSet::from([bottom]);
    let mut found = Vec::new();
    let mut path = vec![(bottom, above(bottom))];
    while let Some((layer, left)) = path.last_mut() {
        match left.pop() {
            // Once is enough: a disk that lies on itself by way of some other one has no top.
            Some(next) if !seen.insert(next) => {}
            Some(next) => path.push((next, above(next))),
            None => {
                found.push(*layer);
                path.pop();
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
