//! A worker can be killed while its plugin does not answer the first read of its device.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::device::Kind;

/// Never answers, and says so.
const SILENT: &str = "
import time
API_VERSION = 2
def config(key, value): global note; note = value
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    with __builtins__.open(note, 'w'): pass
    time.sleep(3600)
";

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_worker_whose_plugin_hangs_at_the_first_read_can_be_killed() {
    for (kind, target) in [
        (Kind::Ublk, "/dev/ublkb917301"),
        (Kind::Nbd, "/dev/nbd31730"),
        (Kind::Loop, "/dev/loop917301"),
    ] {
        if !kind.available() {
            continue;
        }
        let (folder, script) = support::script(SILENT);
        let (note, states) = (folder.path().join("note"), folder.path().join("states"));
        std::fs::create_dir(&states).unwrap();
        let mut attach = Command::new(env!("CARGO_BIN_EXE_pydisk"))
            .args([
                "attach",
                script.to_str().unwrap(),
                target,
                "--name",
                "silent",
            ])
            .arg(format!("note={}", note.display()))
            .env("PYDISK_STATE_DIR", &states)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("nothing is read", || note.exists());
        // So that whoever waits for the answer waits in the kernel.
        std::thread::sleep(Duration::from_millis(300));
        let state = std::fs::read_to_string(states.join("silent/state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        let worker = state["worker_pid"].as_i64().unwrap();
        let pid = Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        until("the worker does not die", || {
            !Path::new(&format!("/proc/{worker}")).exists()
        });
        assert_eq!(attach.wait().unwrap().code(), Some(1));
        until("something is left", || !states.join("silent").exists());
        let backing = "/sys/block/loop917301/loop/backing_file";
        assert!(!Path::new("/dev/nbd31730").exists());
        assert!(!Path::new("/dev/ublkb917301").exists() && !Path::new(backing).exists());
    }
}
