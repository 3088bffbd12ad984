//! What the kernel says of block devices, mounts and loop devices, and of what programs have open: all
//! that tells what lies on what. It is read once. Where
//! that may wait for a disk, a process of its own does it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use super::{Layer, Server};
use crate::elsewhere::{Word, elsewhere, errno_there};
use crate::loopdev::{self, Backing, LoopDevice};
use crate::mounts::{self, Device, Mount};

/// How long it may take to find out what is at a path or behind a loop device: the way there may lead
/// over a disk that hangs, or over a network.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
pub(super) struct Scene {
    pub(super) blocks: BTreeMap<Device, Block>,
    pub(super) mounts: Vec<Mounted>,
    /// Those whose devices belong together.
    pub(super) groups: Vec<BTreeSet<Device>>,
    pub(super) uses: Vec<(Layer, Use)>,
    /// What the users of each program's disk have.
    pub(super) served: Vec<Option<Layer>>,
    pub(super) files: BTreeMap<Layer, PathBuf>,
    /// The time was over before all was looked at.
    pub(super) cut_short: bool,
}

/// A block device, by sysfs.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Below `/dev`.
    pub(super) name: String,
    /// Its partitions, and what device mapper, md and their like make of it.
    pub(super) above: Vec<Device>,
}

/// A mount in any namespace.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    pub(super) mount: Mount,
    /// Where this process reaches it, unless something is mounted over it.
    pub(super) reach: PathBuf,
    /// The block device that it names as its source, where its number is not a block device's.
    pub(super) source: Option<Device>,
}

/// What a loop device or a program stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Block(Device),
    File {
        filesystem: Device,
        inode: u64,
        /// The mount by which it is reached: files of one btrfs show several numbers.
        mount: Option<u64>,
    },
}

impl Use {
    fn of(status: &Statx) -> Option<Self> {
        match FileType::from_raw_mode(u32::from(status.stx_mode)) {
            FileType::BlockDevice => Some(Self::Block(Device::of_node(status))),
            FileType::RegularFile | FileType::Directory => Some(Self::File {
                filesystem: Device::of_filesystem(status),
                inode: status.stx_ino,
                mount: Some(status.stx_mnt_id),
            }),
            _ => None,
        }
    }

    /// What is at a path, which another process walks: this one could not be killed where it hangs.
    pub(super) fn at(path: &Path, deadline: Instant) -> io::Result<Self> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT.into());
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `look_there` makes one system call.
        let word = unsafe { elsewhere(left.min(PATIENCE), || false, || look_there(&path)) }?;
        match word {
            [FAILED, errno, _] => {
                let errno = i32::try_from(errno).unwrap_or(libc::EIO);
                Err(io::Error::from_raw_os_error(errno))
            }
            [BLOCK, device, _] => Ok(Self::Block(Device::of_number(device))),
            [mount, filesystem, inode] => Ok(Self::File {
                filesystem: Device::of_number(filesystem),
                inode,
                mount: Some(mount),
            }),
        }
    }

    pub(super) fn layer(self) -> Layer {
        match self {
            Self::Block(device) => Layer::Block(device),
            Self::File {
                filesystem, inode, ..
            } => Layer::File(filesystem, inode),
        }
    }
}

/// Numbers that no mount has.
const FAILED: u64 = u64::MAX;
const BLOCK: u64 = u64::MAX - 1;

/// For `elsewhere`: an errno, a block device, or a mount with the numbers of a filesystem and a file.
fn look_there(path: &CStr) -> Word {
    // SAFETY: all zeroes is a `statx`.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let how = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let what = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: a path that ends with a zero byte, and memory for what is found.
    let done = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), how, what, &raw mut found) };
    if done != 0 {
        return [FAILED, errno_there(), 0];
    }
    if u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK {
        let device = libc::makedev(found.stx_rdev_major, found.stx_rdev_minor);
        return [BLOCK, device, 0];
    }
    let filesystem = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    [found.stx_mnt_id, filesystem, found.stx_ino]
}

impl Scene {
    /// Look around, until `deadline` where the kernel has to ask others. Programs that are not in
    /// `servers` come behind them.
    pub(super) fn look(
        bottom: Option<(Layer, &Path)>,
        servers: &[Server],
        deadline: Instant,
    ) -> Self {
        let mut scene = Self {
            blocks: blocks().unwrap_or_else(|error| none("/sys/class/block", &error)),
            mounts: mounts_everywhere(),
            groups: btrfs(),
            ..Self::default()
        };
        for (place, server) in servers.iter().enumerate() {
            scene.add_server(Layer::Server(place), server, deadline);
        }
        scene.add_nbd_clients();
        scene.add_loops(bottom.map(|(layer, _)| layer), deadline);
        let files = bottom.map(|(layer, path)| (layer, path.to_owned()));
        scene.files.extend(files);
        scene
    }

    /// What lies directly on a layer.
    pub(super) fn above(&self, layer: Layer) -> Vec<Layer> {
        match layer {
            Layer::Block(device) => self.on_block(device),
            Layer::Filesystem(filesystem) => self.on_filesystem(filesystem),
            Layer::File(filesystem, inode) => self.using(|used| {
                matches!(used, Use::File { filesystem: on, inode: file, .. }
                    if (*on, *file) == (filesystem, inode))
            }),
            Layer::Server(place) => self
                .served
                .get(place)
                .copied()
                .flatten()
                .into_iter()
                .collect(),
        }
    }

    fn on_block(&self, device: Device) -> Vec<Layer> {
        let group = self.groups.iter().find(|group| group.contains(&device));
        let is = |other: &Device| *other == device || group.is_some_and(|all| all.contains(other));
        let mounted = self.mounts.iter().filter(|mounted| {
            mounted.mount.device == device || mounted.source.as_ref().is_some_and(is)
        });
        let mut found = vec![Layer::Filesystem(device)];
        found.extend(mounted.map(|mounted| Layer::Filesystem(mounted.mount.device)));
        let block = self.blocks.get(&device);
        let above = block.into_iter().flat_map(|block| &block.above);
        found.extend(above.copied().map(Layer::Block));
        found.extend(self.using(|used| *used == Use::Block(device)));
        found
    }

    /// Whether a btrfs that is mounted somewhere has this device, and no mount shows it.
    pub(super) fn has_hidden_btrfs(&self, device: Device) -> bool {
        self.groups.iter().any(|group| {
            let shown = |mounted: &Mounted| mounted.source.is_some_and(|on| group.contains(&on));
            group.contains(&device) && !self.mounts.iter().any(shown)
        })
    }

    fn on_filesystem(&self, filesystem: Device) -> Vec<Layer> {
        let same = |mounted: &&Mounted| mounted.mount.device == filesystem;
        let ids: BTreeSet<u64> = self
            .mounts
            .iter()
            .filter(same)
            .map(|one| one.mount.id)
            .collect();
        let btrfs = self.is_btrfs(filesystem);
        self.using(|used| match used {
            Use::File {
                filesystem: on,
                mount,
                ..
            } => {
                let here = *on == filesystem || mount.is_some_and(|id| ids.contains(&id));
                here || btrfs && self.may_be_subvolume(*on, *mount)
            }
            Use::Block(_) => false,
        })
    }

    fn is_btrfs(&self, filesystem: Device) -> bool {
        let here = |mounted: &Mounted| mounted.mount.device == filesystem;
        let kind = |mounted: &Mounted| here(mounted) && mounted.mount.kind == "btrfs";
        self.mounts.iter().any(kind) || self.groups.iter().any(|group| group.contains(&filesystem))
    }

    /// Whether a file with this number of a filesystem may lie on any btrfs: each subvolume has a number of its own, which
    /// no mount shows. Where the file is not reached by a mount either, as behind a loop device whose btrfs is mounted
    /// over, nothing tells whose it is. To store too much does no harm.
    fn may_be_subvolume(&self, number: Device, mount: Option<u64>) -> bool {
        let known =
            |mounted: &Mounted| mounted.mount.device == number || mount == Some(mounted.mount.id);
        number.major == 0 && !self.mounts.iter().any(known)
    }

    fn using(&self, on: impl Fn(&Use) -> bool) -> Vec<Layer> {
        let found = self.uses.iter().filter(|(_, used)| on(used));
        found.map(|(layer, _)| *layer).collect()
    }

    fn add_server(&mut self, layer: Layer, server: &Server, deadline: Instant) {
        let found = |path: &Path| Use::at(path, deadline).ok();
        let told = server.at.is_some() || !server.files.is_empty();
        self.cut_short |= told && Instant::now() >= deadline;
        let at = server.at.as_deref();
        let at = at.and_then(|path| Some((found(path)?.layer(), path)));
        self.served.push(at.map(|(layer, _)| layer));
        self.files
            .extend(at.map(|(layer, path)| (layer, path.to_owned())));
        let open = server.pid.map(open_files).unwrap_or_default();
        let named = server.files.iter().filter_map(|path| found(path));
        let all: BTreeSet<Use> = open.into_iter().chain(named).collect();
        self.uses.extend(all.into_iter().map(|used| (layer, used)));
    }

    /// Devices of the kernel's NBD client name the process that made them, which serves them or holds
    /// the connection to who does.
    fn add_nbd_clients(&mut self) {
        let clients: Vec<(Device, u32)> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.name.starts_with("nbd"))
            .filter_map(|(device, block)| {
                let pid = fs::read_to_string(format!("/sys/block/{}/pid", block.name)).ok()?;
                Some((*device, pid.trim().parse().ok()?))
            })
            .collect();
        for (device, pid) in clients {
            let open = open_files(pid).into_iter();
            self.uses
                .extend(open.map(|used| (Layer::Block(device), used)));
        }
    }

    fn add_loops(&mut self, bottom: Option<Layer>, deadline: Instant) {
        for index in loopdev::all().unwrap_or_else(|error| none("/sys/block", &error)) {
            let device = LoopDevice::at(index);
            let Some((path, number)) = device.backing_file().zip(device.number()) else {
                continue;
            };
            let layer = Layer::Block(number);
            // What is below the disk is no matter, and may hang.
            if Some(layer) == bottom {
                continue;
            }
            self.cut_short |= Instant::now() >= deadline;
            let used = loop_uses(device, &path, deadline);
            self.uses.extend(used.into_iter().map(|used| (layer, used)));
        }
    }
}

fn none<T: Default>(what: &str, error: &io::Error) -> T {
    log::warn!("{what}: {error}");
    T::default()
}

/// What a loop device stands on: by the numbers of its file, and by its path where that is the same
/// file or nothing else is known.
fn loop_uses(device: LoopDevice, path: &Path, deadline: Instant) -> Vec<Use> {
    let named = Use::at(path, deadline).ok();
    let left = deadline.saturating_duration_since(Instant::now());
    let known = match device.backing(left.min(PATIENCE)) {
        Ok(Backing::Block(on)) => Use::Block(on),
        Ok(Backing::File(filesystem, inode)) => Use::File {
            filesystem,
            inode,
            mount: None,
        },
        Err(error) => {
            log::debug!("{}: its file: {error}", device.path().display());
            return named.into_iter().collect();
        }
    };
    let same = named.filter(|named| match (named, &known) {
        (
            Use::File {
                filesystem, inode, ..
            },
            Use::File {
                filesystem: on,
                inode: file,
                ..
            },
        ) => (filesystem, inode) == (on, file),
        _ => false,
    });
    vec![same.unwrap_or(known)]
}

fn blocks() -> io::Result<BTreeMap<Device, Block>> {
    let mut numbers = BTreeMap::new();
    let mut pairs = Vec::new();
    for entry in fs::read_dir("/sys/class/block")? {
        let folder = entry?.path();
        let text = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        // It may go at any time.
        let number = fs::read_to_string(folder.join("dev")).ok();
        let Some((name, number)) = text(&folder).zip(number.and_then(|text| Device::parse(&text)))
        else {
            continue;
        };
        if folder.join("partition").exists()
            && let Ok(real) = folder.canonicalize()
        {
            pairs.extend(
                real.parent()
                    .and_then(text)
                    .map(|disk| (disk, name.clone())),
            );
        }
        for holder in fs::read_dir(folder.join("holders"))
            .into_iter()
            .flatten()
            .flatten()
        {
            pairs.push((
                name.clone(),
                holder.file_name().to_string_lossy().into_owned(),
            ));
        }
        numbers.insert(name, number);
    }
    let mut found: BTreeMap<Device, Block> = numbers
        .iter()
        .map(|(name, number)| {
            // Sysfs has `!` for the slash in the names of some drivers.
            let name = name.replace('!', "/");
            (
                *number,
                Block {
                    name,
                    above: Vec::new(),
                },
            )
        })
        .collect();
    for (below, above) in pairs {
        let numbers = numbers.get(&below).zip(numbers.get(&above));
        if let Some((below, above)) = numbers
            && let Some(block) = found.get_mut(below)
        {
            block.above.push(*above);
        }
    }
    Ok(found)
}

/// The devices of each btrfs that is mounted anywhere: its mounts name one of them.
fn btrfs() -> Vec<BTreeSet<Device>> {
    let mut groups = Vec::new();
    for entry in fs::read_dir("/sys/fs/btrfs")
        .into_iter()
        .flatten()
        .flatten()
    {
        let devices = fs::read_dir(entry.path().join("devices"));
        let group: BTreeSet<Device> = devices
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|device| {
                Device::parse(&fs::read_to_string(device.path().join("dev")).ok()?)
            })
            .collect();
        groups.push(group);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// What is mounted in every mount namespace that some process is in, this process's first.
fn mounts_everywhere() -> Vec<Mounted> {
    let mut found = Vec::new();
    for process in mounts::views() {
        for mount in mounts::mounts_of(&process).unwrap_or_default() {
            let at = mount.at.strip_prefix("/").unwrap_or(&mount.at);
            found.push(Mounted {
                reach: process.join("root").join(at),
                source: source(&process, &mount),
                mount,
            });
        }
    }
    found
}

/// The block device that a mount names, where that is needed.
fn source(process: &Path, mount: &Mount) -> Option<Device> {
    let path = Path::new(&mount.source);
    if mount.device.major != 0 || !path.starts_with("/dev") {
        return None;
    }
    let there = process.join("root").join(path.strip_prefix("/").ok()?);
    let status = mounts::status(&there).or_else(|_absent| mounts::status(path));
    match Use::of(&status.ok()?) {
        Some(Use::Block(device)) => Some(device),
        _ => None,
    }
}

/// The files and block devices that a process has open; none where this process may not look.
fn open_files(pid: u32) -> BTreeSet<Use> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Use::of(&mounts::status(&entry.path()).ok()?))
        .collect()
}
