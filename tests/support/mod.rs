//! What several test programs share.
#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "test code")]

pub(crate) mod device;

use std::path::PathBuf;
use std::process::Command;

/// Run `body` in a process of its own: there is one Python interpreter a process, and one plugin.
///
/// `name` is the test's own name; the test program calls itself for that one test.
pub(crate) fn in_own_process(name: &str, body: impl FnOnce()) {
    const MARK: &str = "PYDISK_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        body();
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("1 passed") || !output.status.success(),
        "{name} did not run:\n{text}"
    );
    assert!(
        output.status.success(),
        "{name} failed in its own process:\n{text}"
    );
}

/// Run the calling test in a process of its own: `isolated!(name_of_test, { body })`.
#[macro_export]
macro_rules! isolated {
    ($(#[$meta:meta])* $name:ident, $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            let name = name.split_once("::").map_or(name, |(_, rest)| rest);
            $crate::support::in_own_process(name, || $body);
        }
    };
}

/// A plugin file with this text, and the folder that it lives in.
pub(crate) fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugin.py");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}
