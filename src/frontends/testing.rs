//! What the tests of several front ends share: a disk that remembers what it was asked, and commands.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pydisk_kernel::loopdev::{self, LoopDevice};
use pydisk_kernel::mounts;

use super::nbd::ServerOptions;
use super::{Dead, Identity, Options, Target};
use crate::Refusal;
use crate::disk::{
    Cache, Disk, Errno, Error, Exports, ExtentKind, Extents, Flags, Fua, Limits, Op, OpKind,
    OpenDisk, Request, Resident, Result,
};

pub(super) mod devices;

/// What a disk was asked: operation, offset, length, flags.
pub(super) type Asked = (OpKind, u64, u64, Flags);

/// What a [`Recorder`] does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Works,
    Fails(Errno),
    Panics,
    /// Requests wait until the mood changes.
    Hangs,
}

/// A disk in memory that remembers every request.
#[derive(Debug)]
pub(super) struct Recorder {
    limits: Limits,
    bytes: Mutex<Vec<u8>>,
    asked: Mutex<Vec<Asked>>,
    mood: Mutex<Mood>,
    changed: Condvar,
    waiting: AtomicU32,
}

impl Recorder {
    pub(super) fn new(size: u64, adjust: impl FnOnce(&mut Limits)) -> Arc<Self> {
        let mut limits = Limits {
            read_only: false,
            flush: true,
            fua: Fua::Native,
            trim: true,
            zero: true,
            cache: Cache::Native,
            extents: true,
            parallel: true,
            ..Limits::read_only(size)
        };
        adjust(&mut limits);
        Arc::new(Self {
            limits,
            bytes: Mutex::new(vec![0; usize::try_from(size).unwrap()]),
            asked: Mutex::default(),
            mood: Mutex::new(Mood::Works),
            changed: Condvar::new(),
            waiting: AtomicU32::new(0),
        })
    }

    pub(super) fn mood(&self, mood: Mood) {
        *self.mood.lock() = mood;
        self.changed.notify_all();
    }

    /// Whether a request waits for another mood.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The requests since the last call of this, without reads.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let mut asked = std::mem::take(&mut *self.asked.lock());
        asked.retain(|(kind, ..)| *kind != OpKind::Read);
        asked
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    pub(super) fn fill(&self, byte: impl Fn(usize) -> u8) {
        for (at, place) in self.bytes.lock().iter_mut().enumerate() {
            *place = byte(at);
        }
    }

    fn apply(&self, request: Request<'_>) {
        let range = request.range();
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.bytes.lock();
        match request.op {
            Op::Read(buf) => buf.copy_from_slice(&bytes[range]),
            Op::Write(buf) => bytes[range].copy_from_slice(buf),
            Op::Zero(_) => bytes[range].fill(0),
            Op::Trim(_) => bytes[range].fill(0xdb),
            Op::Cache(_) | Op::Flush => {}
        }
    }
}

impl Disk for Recorder {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let asked = (
            request.op.kind(),
            request.at,
            request.op.len(),
            request.flags,
        );
        self.asked.lock().push(asked);
        let mut mood = self.mood.lock();
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.changed
            .wait_while(&mut mood, |mood| *mood == Mood::Hangs);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        match *mood {
            Mood::Fails(errno) => {
                if let Op::Read(buf) = request.op {
                    buf.fill(0xee);
                }
                return Err(Error::new(errno, "the test wants this"));
            }
            Mood::Panics => panic!("the test wants this"),
            Mood::Works | Mood::Hangs => drop(mood),
        }
        self.apply(request);
        Ok(())
    }

    /// Zeroed blocks of 4 KiB are holes.
    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        if *self.mood.lock() == Mood::Panics {
            panic!("the test wants this");
        }
        let bytes = self.bytes.lock();
        let mut at = range.start;
        while at < range.end {
            let end = ((at / 4096 + 1) * 4096).min(range.end);
            let block = &bytes[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()];
            let zero = block.iter().all(|byte| *byte == 0);
            let kind = if zero {
                ExtentKind::HOLE | ExtentKind::ZERO
            } else {
                ExtentKind::DATA
            };
            found.push(end - at, kind);
            at = end;
        }
        Ok(())
    }
}

impl OpenDisk for Recorder {}

/// A folder of its own for each call, and options that name it.
pub(super) struct Bench {
    pub(super) folder: tempfile::TempDir,
    pub(super) options: Options,
    pub(super) ended: mpsc::Receiver<String>,
    pub(super) teller: mpsc::Sender<String>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// For a process that is killed, below a folder that somebody else removes.
    pub(super) fn below(folder: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new()
            .prefix(&format!("pydisk-bench-{}-", std::process::id()))
            .tempdir_in(folder)
            .unwrap();
        let (teller, ended) = mpsc::channel();
        let options = Options {
            name: format!("test{}-{count}", std::process::id()),
            folder: folder.path().to_owned(),
            lanes: 2,
            logical_block: None,
            identity: Identity::new(),
            server: ServerOptions::default(),
        };
        Self {
            folder,
            options,
            ended,
            teller,
        }
    }

    /// In a process that [`serve_and_kill`] started: as the one there, and its folder is that one's.
    pub(super) fn of_child() -> Self {
        let mut this = Self::below(&childs_folder());
        let given = |variable| std::env::var(variable).expect("run by another test");
        this.options.folder = childs_folder();
        this.options.name = given(CHILDS_NAME);
        this.options.identity = given(CHILDS_IDENTITY).parse().unwrap();
        this
    }

    /// The attachment, once its process has ended.
    pub(super) fn dead(&self) -> Dead<'_> {
        Dead {
            name: &self.options.name,
            folder: &self.options.folder,
            identity: Some(self.options.identity),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub(super) fn start(
        &self,
        target: &Target,
        disk: &Arc<Recorder>,
    ) -> Result<Box<dyn super::Published>, Refusal> {
        let disk = Arc::clone(disk) as Arc<dyn OpenDisk>;
        let exports: Arc<dyn Exports> = Arc::new(Resident::new(disk));
        let prepared = target.front_end().prepare(&self.options, Vec::new())?;
        prepared.publish(&exports, self.teller.clone())
    }

    /// The disk as a file.
    pub(super) fn file(&self, disk: &Arc<Recorder>) -> Box<dyn super::Published> {
        self.start(&Target::File(self.path()), disk).unwrap()
    }
}

/// Whether FUSE can be tested here; says why not.
pub(super) fn can_mount() -> bool {
    let fuse = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = fuse {
        skipped(&format!("/dev/fuse: {error}"));
        return false;
    }
    rustix::process::geteuid().is_root() || have(&["fusermount3"])
}

/// Whether loop devices can be tested here; says why not.
pub(super) fn can_loop() -> bool {
    let control = Path::new("/dev/loop-control").exists();
    if !control || !rustix::process::geteuid().is_root() {
        skipped("loop devices take root and /dev/loop-control");
        return false;
    }
    can_mount()
}

/// Whether these programs are installed; says if not.
pub(super) fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let there = |program: &str| {
        path.split(':')
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let missing: Vec<_> = programs.iter().filter(|program| !there(program)).collect();
    if !missing.is_empty() {
        skipped(&format!("not installed: {missing:?}"));
    }
    missing.is_empty()
}

/// Say why a test is skipped. Not by a print macro: what those write in a test that passes is
/// captured.
pub(super) fn skipped(why: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "skipped: {why}").unwrap();
}

/// Run a shell command and give its output; panics if it fails.
pub(super) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command}: {}\n{out}{err}",
        output.status
    );
    out
}

/// How many entries a folder has.
fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// What this process has: descriptors, threads, FUSE mounts of its own name, loop devices on them.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    descriptors: usize,
    threads: usize,
    mounts: usize,
    loops: usize,
}

impl Belongings {
    fn now() -> Self {
        let mounts = mounts::mounts().unwrap();
        let mine = format!("pydisk:test{}-", std::process::id());
        let folder = format!("pydisk-bench-{}-", std::process::id());
        let loops = loopdev::all().unwrap().into_iter();
        let files = loops.filter_map(|index| LoopDevice::at(index).backing_file());
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            mounts: mounts
                .iter()
                .filter(|mount| mount.source.to_string_lossy().starts_with(&mine))
                .count(),
            loops: files
                .filter(|file| file.to_string_lossy().contains(&folder))
                .count(),
        }
    }
}

/// Attach and detach often, by `once`: this process then has what it had after the first time.
pub(super) fn a_hundred_times(once: impl Fn()) {
    once();
    let before = Belongings::now();
    for _ in 0..100 {
        once();
    }
    soon("everything is given back", || Belongings::now() == before);
}

/// Names the folder in which a child process of a test shall work.
const CHILD: &str = "PYDISK_TEST_CHILD";
/// What it is called, and whose its device or mount is.
const CHILDS_NAME: &str = "PYDISK_TEST_NAME";
const CHILDS_IDENTITY: &str = "PYDISK_TEST_IDENTITY";

/// A command that runs the ignored test `name` of this module's crate in a process of its own.
fn child(name: &str, bench: &Bench) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            name,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, bench.folder.path())
        .env(CHILDS_NAME, &bench.options.name)
        .env(CHILDS_IDENTITY, bench.options.identity.to_string());
    command
}

/// The folder that [`child`] was given, in the child.
pub(super) fn childs_folder() -> PathBuf {
    std::env::var_os(CHILD).expect("run by another test").into()
}

/// Start the child that serves until it is killed, wait until `there`, and kill it.
pub(super) fn serve_and_kill(name: &str, bench: &Bench, there: impl Fn() -> bool) {
    let mut child = child(name, bench).stdout(Stdio::null()).spawn().unwrap();
    while !there() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child did not start"
        );
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Wait for something that happens soon, a minute at most.
pub(super) fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}
