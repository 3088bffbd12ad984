//! Disks attached by the real command, and the programs that use them.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The front ends that a test can ask for by their targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ublk,
    Nbd,
    Loop,
    File,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Ublk, Self::Nbd, Self::Loop, Self::File];
    pub(crate) const DEVICES: [Self; 3] = [Self::Ublk, Self::Nbd, Self::Loop];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ublk => "ublk",
            Self::Nbd => "nbd",
            Self::Loop => "loop",
            Self::File => "fuse",
        }
    }

    /// Whether this host can serve it. Says so if not, and fails if `PYDISK_REQUIRE` lists it.
    pub(crate) fn available(self) -> bool {
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
        let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|word| word == self.word()),
            "{} is required here, but: {reason}",
            self.word()
        );
        say(&format!("skipped: {}: {reason}", self.word()));
        false
    }

    /// A target of this kind that no other test of this process uses.
    fn fresh_target(self, folder: &Path) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Apart from other test programs, which may run beside this one.
        let index =
            1000 + std::process::id() % 1000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        match self {
            Self::Ublk => format!("/dev/ublkb{index}"),
            // The driver has 32768 numbers.
            Self::Nbd => format!("/dev/nbd{}", 1000 + index % 30_000),
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

/// Tell whoever runs the tests, past the capture of a passing test's output.
#[expect(
    clippy::explicit_write,
    reason = "what the print macros write is captured"
)]
pub(crate) fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").unwrap();
}

/// How much work a test does, for slow machines: `PYDISK_TEST_SCALE`, 1 unless set.
pub(crate) fn scale(count: u32) -> u32 {
    let factor: f64 = std::env::var("PYDISK_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let scaled = (f64::from(count) * factor) as u32;
    scaled.max(1)
}

/// The `pydisk` command of this build.
pub(crate) fn pydisk<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pydisk"))
        .args(args)
        .output()
        .unwrap()
}

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Run a program to its end and return what it printed; fails the test unless it exits with 0.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
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
pub(crate) struct Attached {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) folder: tempfile::TempDir,
    detached: bool,
}

impl Attached {
    /// Attach `plugin` by this kind of front end.
    #[track_caller]
    pub(crate) fn new(kind: Kind, plugin: &Path, params: &[&str]) -> Self {
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
            detached: false,
        }
    }

    /// As [`Attached::new`], with the plugin given as text.
    #[track_caller]
    pub(crate) fn with_script(kind: Kind, text: &str, params: &[&str]) -> Self {
        let (_folder, script) = super::script(text);
        Self::new(kind, &script, params)
    }

    pub(crate) fn device(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Detach, as a user would: refused while in use.
    #[track_caller]
    pub(crate) fn detach(mut self) {
        let output = pydisk(["detach", self.device()]);
        assert!(
            output.status.success(),
            "detach {}: {}",
            self.device(),
            String::from_utf8_lossy(&output.stderr)
        );
        self.detached = true;
        assert!(!self.is_there(), "{} is still there", self.device());
    }

    fn is_there(&self) -> bool {
        match self.kind {
            Kind::Ublk | Kind::Nbd | Kind::File => self.path.exists(),
            Kind::Loop => {
                let name = self.path.file_name().unwrap().to_str().unwrap();
                Path::new(&format!("/sys/block/{name}/loop/backing_file")).exists()
            }
        }
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
pub(crate) fn open_direct(path: impl AsRef<Path>) -> File {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(path)
        .unwrap()
}

/// Memory as reads and writes past the page cache need it.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [u8; 4096]);

/// The errno with which a direct read and write of a page fail.
pub(crate) fn errnos(file: &File, at: u64) -> [Option<i32>; 2] {
    let mut page = Page([0; 4096]);
    let failure =
        |outcome: std::io::Result<usize>| outcome.err().map(|error| error.raw_os_error().unwrap());
    let read = failure(file.read_at(&mut page.0, at));
    [read, failure(file.write_at(&page.0, at))]
}

/// A filesystem mounted on a device until dropped.
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    unmounted: bool,
}

impl Mount {
    #[track_caller]
    pub(crate) fn new(device: &str, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", [device, at.to_str().unwrap()]);
        Self {
            at,
            unmounted: false,
        }
    }

    #[track_caller]
    pub(crate) fn unmount(mut self) {
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
