//! What tests of this crate share: files, loop devices on them, and commands.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::loopdev::{self, LoopDevice};

/// A file of this test alone.
pub(crate) fn fresh(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("pydisk-{}-{name}", std::process::id()));
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

/// Say why a test is skipped. Not by a print macro: what those write in a test that passes is captured.
pub(crate) fn skipped(why: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "skipped: {why}").unwrap();
}

pub(crate) fn can_loop() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !can {
        skipped("loop devices take root and the loop driver");
    }
    can
}

/// A loop device on `path`, detached when dropped.
pub(crate) struct Looped(pub(crate) LoopDevice);

impl Looped {
    pub(crate) fn on(path: &Path) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let config = loopdev::Config {
            block_size: 512,
            read_only: false,
            size_limit: 0,
        };
        for _ in 0..50 {
            let device = loopdev::free().unwrap();
            if device.configure(&file, config).is_ok() {
                return Self(device);
            }
        }
        panic!("no loop device could be had");
    }
}

impl Drop for Looped {
    fn drop(&mut self) {
        self.0.clear(|| true).unwrap();
    }
}

pub(crate) fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
}

/// Runs what its arguments say in a mount namespace of its own.
pub(crate) fn container() -> Command {
    Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/tools/container"
    ))
}

/// Whether a command succeeds; why the rest of a test is skipped if not.
pub(crate) fn possible(program: &str, arguments: &[&Path]) -> bool {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => skipped(&format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => skipped(&format!("{program}: {error}")),
    }
    false
}

/// Wait until something is so, for a minute.
#[track_caller]
pub(crate) fn soon(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("still not so: {what}");
}
