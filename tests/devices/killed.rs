//! A worker can be killed while its plugin does not answer, and nobody waits for it afterwards.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::device::{Attached, Kind, pydisk};

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

fn until(what: &str, mut done: impl FnMut() -> bool) {
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
        let mut attach = Command::new(support::program())
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

/// Does not answer reads behind the first MiB, and leaves a process behind that has all its files.
const FORKING: &str = "
import os, time
API_VERSION = 2
def config(key, value): global note; note = value
def open(readonly): return 0
def get_size(h): return 2 << 20
def pread(h, buf, offset, flags):
    if offset < 1 << 20: return
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(3600)
        os._exit(0)
    with __builtins__.open(note, 'w') as file: file.write(str(child))
    time.sleep(3600)
";

/// Nobody is left then who could disconnect the device but its guard.
#[test]
fn a_reader_of_an_nbd_device_gets_an_error_when_worker_and_agent_are_killed() {
    if Kind::Nbd.available() {
        a_reader_gets_an_error(Path::new("/dev/nbd31731"));
    }
}

#[test]
fn a_reader_of_a_fuse_file_gets_an_error_when_worker_and_agent_are_killed() {
    if Kind::File.available() {
        let place = tempfile::tempdir().unwrap();
        a_reader_gets_an_error(&place.path().join("disk"));
    }
}

fn a_reader_gets_an_error(device: &Path) {
    let (folder, script) = support::script(FORKING);
    let (note, states) = (folder.path().join("note"), folder.path().join("states"));
    std::fs::create_dir(&states).unwrap();
    let pydisk = |args: &[&str]| {
        let mut command = Command::new(support::program());
        command.args(args).env("PYDISK_STATE_DIR", &states);
        command
    };
    let parameter = format!("note={}", note.display());
    let plugin = script.to_str().unwrap();
    let target = device.to_str().unwrap();
    let args = ["attach", plugin, target, "--name", "forking", &parameter];
    assert!(pydisk(&args).status().unwrap().success());
    let mut reader = Command::new("dd")
        .arg(format!("if={target}"))
        .args([
            "of=/dev/null",
            "bs=4096",
            "count=1",
            "skip=300",
            "iflag=direct",
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = || {
        let text = std::fs::read_to_string(&note).unwrap_or_default();
        text.parse().ok().and_then(Pid::from_raw)
    };
    until("nothing is read", || child().is_some());
    let state = std::fs::read_to_string(states.join("forking/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    for process in ["agent_pid", "worker_pid"] {
        let pid = i32::try_from(state[process].as_i64().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while reader.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(child().unwrap(), Signal::KILL).unwrap();
    assert!(Instant::now() < deadline, "the reader hangs");
    assert_eq!(reader.wait().unwrap().code(), Some(1));
    until("the device stays", || !device.exists());
    assert!(pydisk(&["list"]).status().unwrap().success());
    if states.join("forking").exists() {
        // A file goes on failing until somebody wants it to go. Nobody could write to this one.
        let said = pydisk(&["detach", "forking"]).output().unwrap();
        assert!(said.status.success(), "{said:?}");
    }
    assert!(!states.join("forking").exists());
}

/// Answers reads behind the first MiB once there is a file at `go`, and notes that it was asked.
const HANGS: &str = "
import os, time, asyncio, nbdkit
API_VERSION = 2
def config(key, value): globals()[key] = value
def open(readonly): return 0
def get_size(h): return 2 << 20
def hangs(offset):
    if offset < 1 << 20: return False
    with __builtins__.open(note, 'w'): pass
    return not os.path.exists(go)
def pread(h, buf, offset, flags):
    while hangs(offset): time.sleep(0.02)
    buf[:] = bytes([offset >> 12 & 255]) * len(buf)
";

/// The thread models of the script above: what is added to it, and whether others are served meanwhile.
const MODELS: [(&str, bool); 3] = [
    ("", false),
    (
        "def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL\n",
        true,
    ),
    (
        "async def pread(h, buf, offset, flags):
    while hangs(offset): await asyncio.sleep(0.02)
    buf[:] = bytes([offset >> 12 & 255]) * len(buf)\n",
        true,
    ),
];

fn read_of(path: &Path, block: u32) -> Command {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display()))
        .args(["bs=4096", "count=1", "status=none"])
        .arg(format!("skip={block}"));
    dd
}

#[test]
fn a_reader_of_a_fuse_file_can_be_killed_while_the_plugin_hangs() {
    if !Kind::File.available() {
        return;
    }
    for (model, serves_others) in MODELS {
        for freed in [true, false] {
            let place = tempfile::tempdir().unwrap();
            let path = |name: &str| place.path().join(name);
            let parameter = |key: &str| format!("{key}={}", path(key).display());
            let script = format!("{HANGS}{model}");
            let parameters = [parameter("note"), parameter("go")];
            let parameters = parameters.each_ref().map(String::as_str);
            let disk = Attached::with_script(Kind::File, &script, &parameters);
            let mut reader = read_of(&disk.path, 300)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            until("nothing is read", || path("note").exists());
            reader.kill().unwrap();
            until("the reader does not go", || {
                reader.try_wait().unwrap().is_some()
            });
            let others = || {
                let read = read_of(&disk.path, 7).output().unwrap();
                assert!(read.stdout == [7; 4096], "{model}: {:?}", read.status);
            };
            if serves_others {
                others();
            }
            if freed {
                std::fs::write(path("go"), "").unwrap();
                others();
                disk.detach();
            } else {
                let said = pydisk(["detach", "--force", disk.device()]);
                assert!(!disk.path.exists(), "{said:?}");
            }
        }
    }
}
