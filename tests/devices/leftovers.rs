//! What dead processes left is removed, and nothing else: its name, its number and its path may be those of a
//! living disk by now.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::device::{Kind, Page, open_direct, run};
use support::home::runs;
use support::{on, on_each, program, skip};

/// A state folder with one attachment, `x`.
struct States(PathBuf);

impl States {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn pydisk(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        let output = command.args(args).env("PYDISK_STATE_DIR", &self.0);
        output.output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.pydisk(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn attach(&self, target: &str) {
        self.succeeds(&["attach", "memory", target, "size=1M", "--name", "x"]);
    }

    fn folder(&self) -> PathBuf {
        self.0.join("x")
    }

    fn pid(&self, whose: &str) -> Pid {
        let state = fs::read(self.folder().join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let pid = i32::try_from(state[whose].as_i64().unwrap()).unwrap();
        Pid::from_raw(pid).unwrap()
    }

    /// Put what `other` knows of its attachment here, as if nobody looked after that any more.
    fn remember(&self, other: &Self) {
        fs::create_dir_all(self.folder()).unwrap();
        for entry in fs::read_dir(other.folder()).unwrap() {
            let entry = entry.unwrap();
            // The disk itself is mounted there where it is a loop device.
            if entry.file_name() != "file" && entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), self.folder().join(entry.file_name())).unwrap();
            }
        }
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn can_be_read(kind: Kind, path: &str) {
    use std::os::unix::fs::FileExt;

    assert!(kind.is_at(Path::new(path)), "{path} is gone");
    let read = open_direct(path).read_at(&mut Page([0; 4096]).0, 0);
    assert_eq!(read.unwrap(), 4096);
}

/// Its number, its path and its name have been used again; and after a boot they are, too.
fn a_state_folder_that_outlived_its_disk_takes_no_other_away(kind: Kind) {
    let place = tempfile::tempdir().unwrap();
    let target = kind.fresh_target(place.path());
    let now = States::new(place.path().join("now"));
    let old = States::new(place.path().join("old"));
    now.attach(&target);
    old.remember(&now);
    now.succeeds(&["detach", "x"]);
    now.attach(&target);
    old.succeeds(&["list"]);
    assert!(!old.folder().exists(), "nothing is left of it");
    can_be_read(kind, &target);
    now.succeeds(&["detach", "x"]);
    assert!(!kind.is_at(Path::new(&target)));
}

on_each!(a_state_folder_that_outlived_its_disk_takes_no_other_away);

fn what_killed_processes_left_is_removed(kind: Kind) {
    let place = tempfile::tempdir().unwrap();
    let target = kind.fresh_target(place.path());
    let states = States::new(place.path().join("states"));
    states.attach(&target);
    for whose in ["agent_pid", "worker_pid"] {
        kill_process(states.pid(whose), Signal::KILL).unwrap();
    }
    until("something is left", || {
        states.succeeds(&["list"]);
        !states.folder().exists() && !kind.is_at(Path::new(&target))
    });
}

// What is left of a file fails on purpose, until somebody wants it to go.
on!(
    what_killed_processes_left_is_removed,
    [ublk, nbd, loop_device]
);

/// At once, by the name and by the device, and until it is gone.
fn a_crash_is_told(kind: Kind) {
    let place = tempfile::tempdir().unwrap();
    let target = kind.fresh_target(place.path());
    let states = States::new(place.path().join("states"));
    states.attach(&target);
    let (agent, worker) = (states.pid("agent_pid"), states.pid("worker_pid"));
    kill_process(agent, Signal::STOP).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    let worker = worker.as_raw_nonzero().get();
    until("the worker does not die", || !runs(worker));
    for which in ["x", &target] {
        let shown = states.succeeds(&["show", which]);
        assert!(shown.contains("crashed\n"), "{shown}");
    }
    let listed = states.succeeds(&["list"]);
    assert!(listed.contains("crashed\n"), "{listed}");
    kill_process(agent, Signal::CONT).unwrap();
    until("its agent does not end", || {
        !runs(agent.as_raw_nonzero().get())
    });
    if kind == Kind::File {
        assert!(states.folder().exists(), "nothing tells of the file");
        states.pydisk(&["detach", &target]);
    }
    until("something is left", || {
        states.succeeds(&["list"]);
        !states.folder().exists() && !kind.is_at(Path::new(&target))
    });
}

on_each!(a_crash_is_told);

/// The file of a mount namespace cannot be seen in another one, and fails there all the same.
#[test]
fn a_file_of_another_mount_namespace_fails_until_it_is_detached() {
    if !Kind::File.available() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("disk").display().to_string();
    let states = States::new(place.path().join("states"));
    let attach = format!("{} attach memory {target} size=1M --name x", program());
    let stay = format!("{attach}; echo there; read word; dd if=/dev/zero of={target} count=1 2>&1");
    let container = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/container");
    let mut inner = Command::new(container)
        .args(["sh", "-c", &stay])
        .env("PYDISK_STATE_DIR", &states.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(inner.stdout.take().unwrap());
    let mut line = String::new();
    while line != "there\n" {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it does not attach");
    }
    for whose in ["agent_pid", "worker_pid"] {
        kill_process(states.pid(whose), Signal::KILL).unwrap();
    }
    until("it is not told", || {
        states.succeeds(&["list"]).contains("crashed\n")
    });
    writeln!(inner.stdin.take().unwrap()).unwrap();
    assert!(!inner.wait().unwrap().success(), "an ordinary file took it");
    assert!(Path::new(&target).exists());
    // With its namespace the mount is gone, and with that what there is to tell.
    until("something is left", || {
        states.succeeds(&["list"]);
        !states.folder().exists() && !Path::new(&target).exists()
    });
}

/// A command in a mount namespace of its own, that ends with its last process.
fn alone(states: &States, script: &str) -> String {
    let script = format!(
        "set -e; export PYDISK_STATE_DIR={}; {script}",
        states.0.display()
    );
    let container = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/container");
    run(container, ["sh", "-c", &script])
}

/// The kernel shows another path of its file, or none, once the namespace has ended.
fn a_disk_of_a_mount_namespace_that_has_ended_is_removed(kind: Kind) {
    if std::fs::read_link("/proc/1/ns/mnt").is_err() {
        // It would wait for itself when it dies, and could not be killed.
        skip(
            kind.word(),
            "process 1 may not be looked at, so a worker stays where its user is",
        );
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let target = kind.fresh_target(place.path());
    let states = States::new(place.path().join("states"));
    let attach = format!("{} attach memory {target} size=16M --name x", program());
    let mount = format!(
        "mkfs.ext4 -q {target}; mkdir {0}; mount {target} {0}",
        place.path().join("at").display()
    );
    alone(&states, &format!("{attach}; {mount}"));
    for whose in ["agent_pid", "worker_pid"] {
        kill_process(states.pid(whose), Signal::KILL).unwrap();
    }
    until("something is left", || {
        states.succeeds(&["list"]);
        !states.folder().exists() && !kind.is_at(Path::new(&target))
    });
}

on!(
    a_disk_of_a_mount_namespace_that_has_ended_is_removed,
    [ublk, nbd, loop_device]
);

/// Two containers have their own state at the same path.
fn a_disk_of_another_mount_namespace_is_left_alone(kind: Kind) {
    let place = tempfile::tempdir().unwrap();
    let target = kind.fresh_target(place.path());
    let states = States::new(place.path().join("states"));
    let inner = States::new(place.path().join("inner"));
    let saved = States::new(place.path().join("saved"));
    states.attach(&target);
    saved.remember(&states);
    states.succeeds(&["detach", "x"]);
    let attach = format!("{} attach memory {target} size=1M --name x", program());
    let (from, to) = (inner.0.display(), states.0.display());
    alone(&states, &format!("mount --bind {from} {to}; {attach}"));
    states.remember(&saved);
    states.succeeds(&["list"]);
    assert!(!states.folder().exists(), "nothing is left of it");
    can_be_read(kind, &target);
    kill_process(inner.pid("agent_pid"), Signal::TERM).unwrap();
    until("it is not detached", || !kind.is_at(Path::new(&target)));
}

on!(
    a_disk_of_another_mount_namespace_is_left_alone,
    [ublk, nbd, loop_device]
);
