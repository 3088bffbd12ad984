//! The same command line for pydisk by the name of nbdkit, and for nbdkit itself where it is installed.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::home::{Home, Said, until};
use crate::{fresh_number, skip};

/// A disk of 1 MiB for each client, with a log of its callbacks beside it.
pub const PLUGIN: &str = "
import builtins, os
import nbdkit
API_VERSION = 2
HERE = os.path.dirname(os.path.abspath(__file__))
def log(*what):
    with builtins.open(os.path.join(HERE, 'calls'), 'a') as f: f.write(' '.join(map(str, what)) + '\\n')
def config(key, value): globals()[key] = value
def thread_model(): return int(globals().get('model', 1))
def after_fork():
    if 'tell' in globals(): log('after_fork', eval(tell))
def open(readonly):
    log('open', readonly, repr(nbdkit.export_name()))
    if 'who' in globals(): log('who', eval(who))
    return bytearray(b'pydisk!.' * (1 << 17))
def get_size(h): return len(h)
def can_multi_conn(h): return True
def pread(h, buf, offset, flags): buf[:] = h[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): h[offset:offset + len(buf)] = buf
def flush(h, flags): log('flush')
def close(h): log('close')
def cleanup(): log('cleanup')
def dump_plugin(): print('mine=1')
";

/// A program that is called nbdkit, a folder for it, and the plugin in there.
pub struct Nbdkit {
    pub home: Home,
    program: PathBuf,
    pub ours: bool,
    pub plugin: String,
}

impl Nbdkit {
    /// pydisk, by a link.
    pub fn ours() -> Self {
        let home = Home::new();
        let program = home.path("nbdkit");
        std::os::unix::fs::symlink(crate::program(), &program).unwrap();
        Self::with(home, program, true)
    }

    fn with(home: Home, program: PathBuf, ours: bool) -> Self {
        let plugin = home.script("disk.py", PLUGIN);
        let plugin = plugin.to_str().unwrap().to_owned();
        Self {
            home,
            program,
            ours,
            plugin,
        }
    }

    /// pydisk, and nbdkit itself. Says so if there is none, and fails if `PYDISK_REQUIRE` lists
    /// `nbdkit`.
    pub fn both() -> Vec<Self> {
        let theirs = PathBuf::from("/usr/bin/nbdkit");
        let found = command(&theirs).args(["python", "--version"]).output();
        if found.is_ok_and(|found| found.status.success()) {
            return vec![Self::ours(), Self::with(Home::new(), theirs, false)];
        }
        skip("nbdkit", "it is missing, or its Python plugin");
        vec![Self::ours()]
    }

    /// What a shell calls it by.
    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = command(&self.program);
        command
            .args(args)
            .env("PYDISK_STATE_DIR", self.home.path("state"))
            .env_remove("PYDISK_PLUGINS")
            .env_remove("VIRTUAL_ENV")
            .current_dir(self.home.path(""));
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        let mut command = self.command(args);
        command.stdin(Stdio::null());
        Said::of(&command.output().unwrap())
    }

    /// Run `nbdkit python PLUGIN` with these words.
    pub fn serve(&self, words: &[&str]) -> Said {
        self.run([&["python", &self.plugin], words].concat())
    }

    /// Start it in the foreground and wait until clients can connect.
    #[track_caller]
    pub fn start(&self, args: &[&str]) -> Child {
        let pid_file = self.home.path("ready");
        let mut child = self
            .command(["-f", "-P"])
            .arg(&pid_file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("the server is ready", || {
            assert!(
                child.try_wait().unwrap().is_none(),
                "{:?}",
                Said::of(&child_output(&mut child))
            );
            std::fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n'))
        });
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(pid.trim(), child.id().to_string());
        child
    }

    /// The callbacks that the plugin logged.
    pub fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.home.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn forget_calls(&self) {
        std::fs::remove_file(self.home.path("calls")).unwrap_or_default();
    }

    /// Which one it is, for messages.
    pub fn name(&self) -> &'static str {
        if self.ours { "pydisk" } else { "nbdkit" }
    }

    /// Write a script that can be executed.
    pub fn executable(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.script(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// A newer nbdkit than the installed one, which is fetched if it is not there yet.
pub fn newer_nbdkit() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/newer-nbdkit");
    let output = Command::new(script).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    skip("newer nbdkit", said.lines().last().unwrap_or_default());
    None
}

/// The process that a pidfile names.
#[track_caller]
pub fn pid_in(path: &Path) -> i32 {
    std::fs::read_to_string(path)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// A port that nobody listens on, below those that the kernel gives out by itself.
pub fn free_port() -> u16 {
    loop {
        let port = u16::try_from(20_000 + fresh_number(10_000)).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The address of a server on this socket.
pub fn unix_uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

fn child_output(child: &mut Child) -> std::process::Output {
    use std::io::Read;

    let mut stderr = Vec::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut stderr)
        .unwrap();
    std::process::Output {
        status: child.wait().unwrap(),
        stdout: Vec::new(),
        stderr,
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // With it, what a script prints mixes with the protocol of nbdkit's -s.
    command.env_remove("PYTHONUNBUFFERED");
    command
}
