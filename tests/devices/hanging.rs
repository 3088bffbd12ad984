//! A plugin that hangs: `show` and `list` tell in which callback and since when, and how many requests wait. So does
//! whoever ends it by force.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use support::device::Kind;
use support::home::{end, until};
use support::{on_each, program};

/// Hangs in the reads of its second half, but for the end, which those look at who want to know what it is.
const HANGING: &str = "
import asyncio, ctypes, time
API_VERSION = 2
def open(readonly): return 0
def get_size(h): return 2 << 20
def hangs(offset): return (1 << 20) <= offset < (1 << 20) + (1 << 18)
";

/// Nobody else gets the interpreter meanwhile.
const IN_C: &str = "
def pread(h, buf, offset, flags):
    if hangs(offset): ctypes.PyDLL(None).sleep(3600)
";

const PARALLEL: &str = "
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
import nbdkit
def pread(h, buf, offset, flags):
    if hangs(offset): time.sleep(3600)
";

const COROUTINE: &str = "
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
import nbdkit
async def pread(h, buf, offset, flags):
    if hangs(offset): await asyncio.sleep(3600)
";

/// A disk named `x` whose plugin will hang.
struct Hanging {
    kind: Kind,
    folder: tempfile::TempDir,
    target: String,
}

impl Hanging {
    fn attach(kind: Kind, pread: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self {
            kind,
            target: kind.fresh_target(folder.path()),
            folder,
        };
        let script = this.folder.path().join("hanging.py");
        std::fs::write(&script, format!("{HANGING}{pread}")).unwrap();
        std::fs::create_dir(this.states()).unwrap();
        let script = script.to_str().unwrap();
        let said = this.pydisk(&["attach", script, &this.target, "--name", "x"]);
        assert!(said.status.success(), "{said:?}");
        this
    }

    fn states(&self) -> PathBuf {
        self.folder.path().join("states")
    }

    fn pydisk(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        let command = command.args(args).env("PYDISK_STATE_DIR", self.states());
        command.output().unwrap()
    }

    fn said(&self, args: &[&str]) -> String {
        String::from_utf8(self.pydisk(args).stdout).unwrap()
    }

    fn activity(&self) -> serde_json::Value {
        let shown = self.said(&["show", "x", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["activity"].clone()
    }

    fn reader(&self, block: u32) -> Child {
        let words = [
            format!("if={}", self.target),
            format!("skip={}", 256 + block),
        ];
        let mut dd = Command::new("dd");
        let dd = dd
            .args(words)
            .args(["of=/dev/null", "bs=4096", "count=1", "iflag=direct"]);
        dd.stderr(Stdio::null()).spawn().unwrap()
    }

    /// Three readers wait, and everybody is told so. Of a file it is the kernel that knows of those which the worker
    /// has not got yet.
    fn is_told(&self, inside: u64) {
        let connections = std::fs::read_dir("/sys/fs/fuse/connections");
        let kernel_tells =
            self.kind != Kind::File || connections.is_ok_and(|mut all| all.next().is_some());
        let least = if kernel_tells { 3 } else { inside };
        until("nobody looks at it any more", || {
            self.activity()["callback"].is_null()
        });
        let mut readers: Vec<_> = (0..3).map(|block| self.reader(block)).collect();
        until("it hangs", || {
            let activity = self.activity();
            let requests = activity["requests"].as_u64().unwrap();
            activity["callback"]["name"] == "pread" && requests >= least
        });
        until("`list` tells of it", || {
            self.said(&["list"]).contains("attached, `pread` for ")
        });
        let shown = self.said(&["show", &self.target]);
        assert!(shown.contains(" under way\n"), "{shown}");
        assert!(shown.contains("callback   `pread` for "), "{shown}");
        let said = self.pydisk(&["detach", "x", "--force"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("was killed in `pread`, after "), "{said}");
        for reader in &mut readers {
            assert_eq!(end(reader).code(), Some(1));
        }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.pydisk(&["detach", "--all", "--force"]);
    }
}

fn a_plugin_that_hangs_in_c_is_told(kind: Kind) {
    Hanging::attach(kind, IN_C).is_told(1);
}

on_each!(a_plugin_that_hangs_in_c_is_told);

#[test]
fn threads_and_coroutines_that_hang_are_told() {
    if !Kind::File.available() {
        return;
    }
    for pread in [PARALLEL, COROUTINE] {
        Hanging::attach(Kind::File, pread).is_told(3);
    }
}

/// Where nobody is left who could tell, that is told.
#[test]
fn a_worker_that_is_stopped_does_not_answer() {
    use rustix::process::{Pid, Signal, kill_process};

    if !Kind::File.available() {
        return;
    }
    let disk = Hanging::attach(Kind::File, PARALLEL);
    let shown: serde_json::Value =
        serde_json::from_str(&disk.said(&["show", "x", "--json"])).unwrap();
    let worker = i32::try_from(shown["worker_pid"].as_i64().unwrap()).unwrap();
    let worker = Pid::from_raw(worker).unwrap();
    kill_process(worker, Signal::STOP).unwrap();
    until("`list` tells of it", || {
        disk.said(&["list"]).contains("attached, no answer\n")
    });
    let shown = disk.said(&["show", "x"]);
    kill_process(worker, Signal::CONT).unwrap();
    assert!(shown.contains("the worker does not answer\n"), "{shown}");
}
