//! Storing what the layers above a disk hold, from the top down, within a time.
//!
//! `BLKFLSBUF` on a block device has the filesystem on it written back, whoever mounted it and where,
//! and then the cache of the device itself. It tells no errors, so syncfs(2) asks the filesystem where
//! a mount of it can be reached, and fsync(2) the device. Each call is made by a process of its own,
//! which is left alone where it hangs: a disk that does not answer must not keep others from being stored.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::Layer;
use super::scene::{Mounted, Scene};
use crate::elsewhere::{Word, elsewhere, errno_there, open_there};
use crate::mounts::Device;
use crate::node::Node;
use crate::words::words;

// https://git.kernel.org/torvalds/c/v6.12:include/uapi/linux/fs.h
const BLKFLSBUF: u32 = 0x1261;

/// How long is waited for the last word of what was given up.
const LAST_WORD: Duration = Duration::from_millis(200);

/// Something whose data could not be stored. Shown as a sentence.
#[derive(Clone, Debug)]
pub struct Fault {
    /// For example `/dev/dm-0`, or `the filesystem at /mnt`.
    pub what: String,
    /// Why not.
    pub why: Why,
}

/// Why something could not be stored.
#[derive(Clone, Debug)]
pub enum Why {
    /// It was not done within this time.
    Late(Duration),
    /// What the kernel said.
    Failed(Errno),
    /// In words.
    Other(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match &self.why {
            Why::Late(within) => {
                let seconds = within.as_secs_f32();
                write!(f, "{what} could not be stored within {seconds} s")
            }
            Why::Failed(errno) => {
                write!(f, "{what} could not be stored: {}", words(*errno))
            }
            Why::Other(why) => write!(f, "{what} could not be stored: {why}"),
        }
    }
}

/// When it must be done, and how long that was when it began.
type Deadline = (Instant, Duration);

/// Store the layers, in this order.
pub(super) fn store(scene: &Scene, layers: &[Layer], deadline: Deadline) -> Vec<Fault> {
    let jobs: Vec<Arc<Job>> = layers
        .iter()
        .filter_map(|layer| Job::of(scene, *layer))
        .map(Arc::new)
        .collect();
    let outcomes = Running::new(&jobs, deadline.0).all();
    // A device that this user may not touch has nothing to store once its filesystem has.
    let synced: BTreeSet<Layer> = jobs
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| matches!(outcome, Some(Outcome::Stored)))
        .map(|(job, _)| job.layer)
        .collect();
    let excused = |layer: Layer| {
        let above = scene.above(layer);
        above
            .iter()
            .any(|layer| matches!(layer, Layer::Filesystem(_)) && synced.contains(layer))
    };
    let mut faults = Vec::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let why = match outcome {
            Some(Outcome::Stored | Outcome::WithDevice) => continue,
            Some(Outcome::Failed(Errno::ACCESS | Errno::PERM)) if excused(job.layer) => continue,
            Some(Outcome::Failed(errno)) => Why::Failed(errno),
            Some(Outcome::Other(why)) => Why::Other(why),
            None => Why::Late(deadline.1),
        };
        faults.push(Fault {
            what: job.name.clone(),
            why,
        });
    }
    faults
}

/// How a job ended.
#[derive(Clone, Debug)]
enum Outcome {
    Stored,
    /// Nothing was done: it is stored with its device, which has a job of its own.
    WithDevice,
    Failed(Errno),
    Other(String),
}

/// One layer, ready to be stored by a process that can allocate no memory.
#[derive(Debug)]
struct Job {
    layer: Layer,
    /// For people.
    name: String,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Sync a filesystem at the first of these places that is still this mount.
    Filesystem {
        places: Vec<(CString, u64)>,
        /// Where the kernel may not know it by its device, so that nothing else syncs it.
        only: Only,
    },
    Block(Device, String),
    File(CString),
}

/// What is left to do where a filesystem is not found at its places.
#[derive(Debug)]
enum Only {
    /// Nothing: it is stored with its device.
    No,
    /// To say so.
    Yes,
    /// To mount this btrfs device once more.
    Again(CString),
}

impl Job {
    fn of(scene: &Scene, layer: Layer) -> Option<Self> {
        let (name, work) = match layer {
            Layer::Filesystem(filesystem) => Self::sync(scene, filesystem)?,
            Layer::Block(device) => {
                let block = scene.blocks.get(&device)?;
                let work = Work::Block(device, block.name.clone());
                (format!("/dev/{}", block.name), work)
            }
            Layer::File(..) => {
                let path = scene.files.get(&layer)?;
                (path.display().to_string(), Work::File(text(path)?))
            }
            Layer::Server(_) => return None,
        };
        Some(Self { layer, name, work })
    }

    fn sync(scene: &Scene, filesystem: Device) -> Option<(String, Work)> {
        let same = |mounted: &&Mounted| mounted.mount.device == filesystem;
        let mounts: Vec<&Mounted> = scene.mounts.iter().filter(same).collect();
        let node = |device: &Device| {
            let block = scene.blocks.get(device)?;
            Some((
                format!("/dev/{}", block.name),
                CString::new(format!("/dev/{}", block.name)).ok()?,
            ))
        };
        let Some(first) = mounts.first() else {
            // Before Linux 6.17 the kernel does not know a btrfs by its devices.
            let hidden = scene.has_hidden_btrfs(filesystem);
            let (name, node) = Some(filesystem)
                .filter(|_| hidden)
                .as_ref()
                .and_then(node)?;
            let work = Work::Filesystem {
                places: Vec::new(),
                only: Only::Again(node),
            };
            return Some((format!("the filesystem on {name}"), work));
        };
        let name = format!("the filesystem at {}", first.mount.at.display());
        let place = |mounted: &&Mounted| Some((text(&mounted.reach)?, mounted.mount.id));
        let again = || first.source.as_ref().and_then(node).map(|(_, node)| node);
        let work = Work::Filesystem {
            places: mounts.iter().filter_map(place).collect(),
            only: match &*first.mount.kind {
                _ if filesystem.major != 0 => Only::No,
                "btrfs" => again().map_or(Only::Yes, Only::Again),
                _ => Only::Yes,
            },
        };
        Some((name, work))
    }

    /// `None` when it was not done in time.
    fn done(&self, within: Duration) -> Option<Outcome> {
        let node = match &self.work {
            Work::Block(device, name) => match Node::at_hand(name, *device) {
                Ok(node) => Some(node),
                Err(_) if !is_there(*device) => return Some(Outcome::Stored),
                Err(why) => return Some(Outcome::Other(why)),
            },
            _ => None,
        };
        let path = node
            .as_ref()
            .and_then(|node| text(node.path()))
            .unwrap_or_default();
        let work = || match &self.work {
            Work::Filesystem { places, only } => match sync_there(places) {
                [UNREACHED, ..] => only.there(),
                done => done,
            },
            Work::File(file) => fsync_there(file),
            Work::Block(..) => flush_there(&path),
        };
        // SAFETY: these functions make system calls only.
        let word = unsafe { elsewhere(within, || false, work) };
        let errno = match word {
            Err(Errno::TIMEDOUT) => return None,
            Err(errno) => return Some(Outcome::Failed(errno)),
            Ok([WITH_DEVICE, ..]) => return Some(Outcome::WithDevice),
            Ok([UNREACHED, ..]) => {
                return Some(Outcome::Other("it cannot be reached".to_owned()));
            }
            Ok([_, 0, _]) => return Some(Outcome::Stored),
            Ok([_, errno, _]) => i32::try_from(errno).map(Errno::from_raw_os_error),
        };
        match errno.unwrap_or(Errno::IO) {
            // It is gone, with all that was on it.
            Errno::NOENT => Some(Outcome::Stored),
            Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM if !matches!(self.work, Work::File(_)) => {
                Some(Outcome::Stored)
            }
            errno => Some(Outcome::Failed(errno)),
        }
    }
}

impl Only {
    /// For `elsewhere`.
    fn there(&self) -> Word {
        match self {
            Self::No => [WITH_DEVICE, 0, 0],
            Self::Yes => [UNREACHED, 0, 0],
            Self::Again(node) => sync_again_there(node),
        }
    }
}

fn text(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

fn is_there(device: Device) -> bool {
    let (major, minor) = (device.major, device.minor);
    Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists()
}

/// A number that no step has: none of the places could be reached.
const UNREACHED: u64 = u64::MAX;
/// Nor has any step this one: its device is left to be stored.
const WITH_DEVICE: u64 = u64::MAX - 1;

/// For `elsewhere`.
fn sync_there(places: &[(CString, u64)]) -> Word {
    for (place, mount) in places {
        let Ok(open) = open_there(place, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY) else {
            continue;
        };
        // Something else may be mounted over it.
        if mount_there(open) != Ok(*mount) {
            continue;
        }
        // SAFETY: the descriptor is open.
        if unsafe { libc::syncfs(open) } != 0 {
            return [0, errno_there(), 0];
        }
        return [0, 0, 0];
    }
    [UNREACHED, 0, 0]
}

/// Sync a btrfs by one more mount of it, which is the same filesystem and has no place in any namespace;
/// for `elsewhere`.
fn sync_again_there(node: &CStr) -> Word {
    let mount = |read_only| {
        let context = fsopen(c"btrfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"source", node)?;
        if read_only {
            fsconfig_set_flag(&context, c"ro")?;
        }
        fsconfig_create(&context)?;
        fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
    };
    // The mount itself is a path only; syncfs takes an open file.
    let open =
        |mount: OwnedFd| openat(mount, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    match mount(false).or_else(|_| mount(true)).and_then(open) {
        Err(errno) => [0, raw(errno), 0],
        // SAFETY: the descriptor is open.
        Ok(root) if unsafe { libc::syncfs(root.as_raw_fd()) } != 0 => [0, errno_there(), 0],
        Ok(_) => [0, 0, 0],
    }
}

fn raw(errno: Errno) -> u64 {
    u64::from(errno.raw_os_error().unsigned_abs())
}

/// The number of the mount that an open file is reached by, for `elsewhere`.
fn mount_there(open: libc::c_int) -> Result<u64, u64> {
    // SAFETY: all zeroes is a `statx`.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let how = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: an empty path, and memory for what is found.
    let done = unsafe { libc::statx(open, c"".as_ptr(), how, libc::STATX_MNT_ID, &raw mut found) };
    if done != 0 {
        return Err(errno_there());
    }
    Ok(found.stx_mnt_id)
}

/// For `elsewhere`.
fn flush_there(node: &CStr) -> Word {
    // Opened first, so that fsync tells what fails from here on.
    let device = match open_there(node, libc::O_RDONLY | libc::O_NONBLOCK) {
        Ok(device) => device,
        Err(errno) => return [0, errno, 0],
    };
    // SAFETY: BLKFLSBUF takes no argument.
    let flushed = match unsafe { libc::ioctl(device, BLKFLSBUF.into(), 0) } {
        0 => 0,
        _ => errno_there(),
    };
    // SAFETY: the descriptor is open.
    if unsafe { libc::fsync(device) } != 0 {
        return [2, errno_there(), 0];
    }
    [1, flushed, 0]
}

/// For `elsewhere`.
fn fsync_there(file: &CStr) -> Word {
    let file = match open_there(file, libc::O_RDONLY | libc::O_NONBLOCK) {
        Ok(file) => file,
        Err(errno) => return [0, errno, 0],
    };
    // SAFETY: the descriptor is open.
    if unsafe { libc::fsync(file) } != 0 {
        return [1, errno_there(), 0];
    }
    [1, 0, 0]
}

/// Jobs that are done one after the other, but for one that hangs, which the next ones do not wait for.
struct Running<'a> {
    jobs: &'a [Arc<Job>],
    deadline: Instant,
    outcomes: Vec<Option<Outcome>>,
    under_way: BTreeSet<usize>,
    tell: Sender<(usize, Option<Outcome>)>,
    told: Receiver<(usize, Option<Outcome>)>,
}

impl<'a> Running<'a> {
    fn new(jobs: &'a [Arc<Job>], deadline: Instant) -> Self {
        let (tell, told) = channel();
        Self {
            jobs,
            deadline,
            outcomes: vec![None; jobs.len()],
            under_way: BTreeSet::new(),
            tell,
            told,
        }
    }

    /// The outcomes of all jobs; `None` for what was not done in time.
    fn all(mut self) -> Vec<Option<Outcome>> {
        loop {
            let overtaken = self.pass();
            self.wait_until(self.deadline + LAST_WORD, |running| {
                running.under_way.is_empty()
            });
            let failed = self.outcomes.iter().any(Option::is_none);
            // What was late may have written to what was stored before it.
            if !overtaken || failed || Instant::now() >= self.deadline {
                break;
            }
        }
        self.outcomes
    }

    /// Start all jobs; whether some job did not wait for one before it.
    fn pass(&mut self) -> bool {
        let mut overtaken = false;
        for number in 0..self.jobs.len() {
            self.start(number);
            let now = Instant::now();
            // Half of what is left is for the others.
            let share = self.deadline.saturating_duration_since(now) / 2;
            let last = number + 1 == self.jobs.len();
            self.wait_until(now + share, |running| !running.under_way.contains(&number));
            overtaken |= !last && self.under_way.contains(&number);
        }
        overtaken
    }

    fn start(&mut self, number: usize) {
        let job = Arc::clone(&self.jobs[number]);
        let (tell, deadline) = (self.tell.clone(), self.deadline);
        let started = thread::Builder::new().name("store".into()).spawn(move || {
            let outcome = job.done(deadline.saturating_duration_since(Instant::now()));
            // Nobody may listen any more.
            tell.send((number, outcome)).unwrap_or_default();
        });
        match started {
            Ok(_) => {
                self.under_way.insert(number);
            }
            Err(error) => self.note(number, Some(Outcome::Other(words(error)))),
        }
    }

    fn wait_until(&mut self, end: Instant, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((number, outcome)) = self.told.recv_timeout(left) else {
                return;
            };
            self.under_way.remove(&number);
            self.note(number, outcome);
        }
    }

    /// The kernel tells an error once: a second pass does not take it back.
    fn note(&mut self, number: usize, outcome: Option<Outcome>) {
        if matches!(self.outcomes[number], None | Some(Outcome::Stored)) {
            self.outcomes[number] = outcome;
        }
    }
}
