//! Disks attached by the real command, and the programs that use them.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{fresh_number, program, say, skip};

/// The front ends that a test can ask for by their targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ublk,
    Nbd,
    Loop,
    File,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Ublk, Self::Nbd, Self::Loop, Self::File];
    pub const DEVICES: [Self; 3] = [Self::Ublk, Self::Nbd, Self::Loop];

    pub fn ublk() -> Self {
        Self::Ublk
    }

    pub fn nbd() -> Self {
        Self::Nbd
    }

    pub fn loop_device() -> Self {
        Self::Loop
    }

    pub fn fuse() -> Self {
        Self::File
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Ublk => "ublk",
            Self::Nbd => "nbd",
            Self::Loop => "loop",
            Self::File => "fuse",
        }
    }

    /// Whether this host can serve it. Says so if not, and fails if `PYDISK_REQUIRE` lists it.
    pub fn available(self) -> bool {
        let reason = if !rustix::process::geteuid().is_root() {
            "needs root"
        } else if !Path::new("/dev/fuse").exists() && matches!(self, Self::Loop | Self::File) {
            "no /dev/fuse"
        } else if self == Self::Ublk && !ublk_present() {
            "this kernel has no ublk (no /dev/ublk-control)"
        } else if self == Self::Nbd && !nbd_present() {
            "this kernel has no NBD client (no module nbd)"
        } else if self == Self::Loop && !Path::new("/dev/loop-control").exists() {
            "no /dev/loop-control"
        } else {
            return true;
        };
        skip(self.word(), reason)
    }

    /// Whether there is a disk at a path of this kind.
    pub fn is_at(self, path: &Path) -> bool {
        match self {
            Self::Ublk | Self::Nbd | Self::File => path.exists(),
            Self::Loop => {
                let name = path.file_name().unwrap().to_str().unwrap();
                Path::new(&format!("/sys/block/{name}/loop/backing_file")).exists()
            }
        }
    }

    /// A target of this kind that no other test uses.
    pub fn fresh_target(self, folder: &Path) -> String {
        // The numbers of NBD devices end at 32768.
        let index = 1000 + fresh_number(30_000);
        match self {
            Self::Ublk => format!("/dev/ublkb{index}"),
            Self::Nbd => format!("/dev/nbd{index}"),
            Self::Loop => format!("/dev/loop{index}"),
            Self::File => folder.join(format!("disk{index}")).display().to_string(),
        }
    }
}

fn ublk_present() -> bool {
    let node = Path::new("/dev/ublk-control");
    if !node.exists() {
        // Its failure shows in the node still missing.
        drop(Command::new("modprobe").arg("ublk_drv").output());
    }
    node.exists()
}

fn nbd_present() -> bool {
    let module = Path::new("/sys/module/nbd");
    if !module.exists() {
        // Its failure shows in the module still missing.
        drop(Command::new("modprobe").arg("nbd").output());
    }
    module.exists()
}

/// The `pydisk` command of this build.
pub fn pydisk<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new(program()).args(args).output().unwrap()
}

/// Run a program to its end and return what it printed; fails the test unless it exits with 0.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
    let args: Vec<_> = args
        .into_iter()
        .map(|arg| arg.as_ref().to_owned())
        .collect();
    let output = Command::new(program)
        .args(&args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A disk that is attached until it is detached, or dropped.
pub struct Attached {
    pub path: PathBuf,
    pub kind: Kind,
    pub folder: tempfile::TempDir,
    /// What was said on standard error when it was attached.
    pub said: String,
    detached: bool,
}

impl Attached {
    /// Attach `plugin` by this kind of front end.
    #[track_caller]
    pub fn new(kind: Kind, plugin: &Path, params: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = kind.fresh_target(folder.path());
        let mut args = vec!["attach", plugin.to_str().unwrap(), &target];
        args.extend(params);
        let output = pydisk(&args);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout == format!("{target}\n"),
            "{args:?}: {}\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            path: target.into(),
            kind,
            folder,
            said: crate::home::complaints(&output.stderr),
            detached: false,
        }
    }

    /// As [`Attached::new`], with the plugin given as text.
    #[track_caller]
    pub fn with_script(kind: Kind, text: &str, params: &[&str]) -> Self {
        let (_folder, script) = crate::script(text);
        Self::new(kind, &script, params)
    }

    pub fn device(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Detach, as a user would: refused while in use.
    #[track_caller]
    pub fn detach(mut self) {
        let output = pydisk(["detach", self.device()]);
        assert!(
            output.status.success(),
            "detach {}: {}",
            self.device(),
            String::from_utf8_lossy(&output.stderr)
        );
        self.detached = true;
        let there = self.kind.is_at(&self.path);
        assert!(!there, "{} is still there", self.device());
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if !self.detached {
            let output = pydisk(["detach", "--force", self.device()]);
            say(&String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// A disk for reading and writing past the page cache.
#[track_caller]
pub fn open_direct(path: impl AsRef<Path>) -> File {
    past_the_cache().read(true).write(true).open(path).unwrap()
}

/// A disk for reading past the page cache.
#[track_caller]
pub fn read_direct(path: impl AsRef<Path>) -> File {
    past_the_cache().read(true).open(path).unwrap()
}

fn past_the_cache() -> OpenOptions {
    let mut options = File::options();
    options.custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed());
    options
}

/// Memory as reads and writes past the page cache need it.
#[repr(align(4096))]
pub struct Page(pub [u8; 4096]);

/// The errno with which a direct read and write of a page fail.
pub fn errnos(file: &File, at: u64) -> [Option<i32>; 2] {
    let mut page = Page([0; 4096]);
    let failure =
        |outcome: std::io::Result<usize>| outcome.err().map(|error| error.raw_os_error().unwrap());
    let read = failure(file.read_at(&mut page.0, at));
    [read, failure(file.write_at(&page.0, at))]
}

/// A filesystem mounted on a device until dropped.
pub struct Mount {
    pub at: PathBuf,
    unmounted: bool,
}

impl Mount {
    #[track_caller]
    pub fn new(device: &str, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", [device, at.to_str().unwrap()]);
        Self {
            at,
            unmounted: false,
        }
    }

    #[track_caller]
    pub fn unmount(mut self) {
        run("umount", [&self.at]);
        self.unmounted = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.unmounted {
            return;
        }
        drop(Command::new("umount").arg("-l").arg(&self.at).output());
    }
}

/// Make a test of `fn name(kind: Kind)` on each front end, called by the front end: `on_each!(name);`.
#[macro_export]
macro_rules! on_each {
    ($check:ident) => {
        $crate::on!($check, [ublk, nbd, loop_device, fuse]);
    };
}

/// As [`on_each!`], on those that make a block device.
#[macro_export]
macro_rules! on_each_device {
    ($check:ident) => {
        $crate::on!($check, [ublk, nbd, loop_device]);
    };
}

/// As [`on_each!`], on these. A test says so where the host does not have its front end.
#[macro_export]
macro_rules! on {
    ($check:ident, [$($kind:ident),+]) => {
        mod $check {
            $(
                #[test]
                fn $kind() {
                    let kind = $crate::device::Kind::$kind();
                    if kind.available() {
                        super::$check(kind);
                    }
                }
            )+
        }
    };
}
