//! What the test programs share: scripts, the command, its disks and servers, and their clients.

pub mod client;
pub mod conformance;
pub mod device;
pub mod home;
pub mod nbd;
pub mod nbdkit;
pub mod semantics;
pub mod vectors;
pub mod web;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::fs::{FlockOperation, flock};

/// A plugin file with this text, and the folder that it lives in.
pub fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.py");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// The `pydisk` command that was built with the test program that runs.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        // Cargo puts a test program into `deps`, below the commands of the same build.
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("pydisk");
        assert!(program.exists(), "{} is not built", program.display());
        program.into_os_string().into_string().unwrap()
    });
    &PROGRAM
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().parent().unwrap().join(path)
}

/// Resident memory of this process in bytes.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// Tell whoever runs the tests, past the capture of a passing test's output.
#[expect(
    clippy::explicit_write,
    reason = "what the print macros write is captured"
)]
pub fn say(text: &str) {
    use std::io::Write;

    writeln!(std::io::stderr(), "{text}").unwrap();
}

/// Say that a test, or a part of it, does not run for want of `what`; fails if `PYDISK_REQUIRE` lists it.
/// Returns false, for a test to return on.
#[track_caller]
pub fn skip(what: &str, reason: &str) -> bool {
    let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|listed| listed == what),
        "{what} is required here, but: {reason}"
    );
    say(&format!("skipped: {what}: {reason}"));
    false
}

/// How much work a test does: `PYDISK_TEST_SCALE` times what it was meant to do, a tenth unless set.
pub fn scale(count: u32) -> u32 {
    let factor: f64 = std::env::var("PYDISK_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small count"
    )]
    let scaled = (f64::from(count) * factor) as u32;
    scaled.max(1)
}

/// A number below `range` that no other test gets before as many others were given out, whichever process
/// it runs in: for the names of devices and ports, of which the machine has one set.
pub fn fresh_number(range: u32) -> u32 {
    use std::io::{Read, Seek, Write};

    // Each user has its own: in a folder with the sticky bit nobody may open what is another's.
    let user = rustix::process::getuid().as_raw();
    let path = std::env::temp_dir().join(format!("pydisk-test-numbers-{user}"));
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let number: u32 = text.trim().parse().unwrap_or_default();
    file.rewind().unwrap();
    write!(file, "{:<10}", number.wrapping_add(1)).unwrap();
    number % range
}
