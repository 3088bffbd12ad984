//! NBD servers of the real command, and the programs that are their clients.

pub mod attacked;
pub mod raw;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub use crate::home::{Home, Said};
use crate::skip;
use raw::Raw;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// The Python that distribution packages install their modules for.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Seconds after which a client counts as hung, not slow.
const PATIENCE: &str = "300";

/// Whether all of these programs are here; `libnbd` is its Python module. Says so if not, and fails if
/// `PYDISK_REQUIRE` lists `nbd-clients`.
pub fn clients(wanted: &[&str]) -> bool {
    let missing: Vec<_> = wanted.iter().filter(|name| !is_here(name)).collect();
    if missing.is_empty() {
        return true;
    }
    skip(
        "nbd-clients",
        &format!("{missing:?} are missing: tests/tools/setup"),
    )
}

/// Whether nbdkit is here, and hosts Python plugins. Says so if not, and fails if `PYDISK_REQUIRE` lists
/// `nbdkit`.
pub fn nbdkit() -> bool {
    let mut command = Command::new("nbdkit");
    let status = command.args(["python", "--version"]).output();
    status.is_ok_and(|output| output.status.success())
        || skip(
            "nbdkit",
            "it is missing, or its Python plugin: tests/tools/setup",
        )
}

fn is_here(name: &str) -> bool {
    let mut command = if name == "libnbd" {
        let mut python = Command::new(SYSTEM_PYTHON);
        python.args(["-c", "import nbd"]);
        python
    } else {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("command -v {name}")]);
        shell
    };
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A client program that is ended when it hangs.
pub fn program<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", PATIENCE, name])
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// Run a client program and return what it printed; it must succeed.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> String {
    let mut command = program(name, args);
    let output = command.output().unwrap();
    printed(&command, &output)
}

/// Run a client program that must fail; returns what it complained of.
#[track_caller]
pub fn fails<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>) -> String {
    let mut command = program(name, args);
    let output = command.output().unwrap();
    let said = Said::of(&output);
    let refused = !output.status.success() && said.code != 124;
    assert!(refused, "{command:?} did not fail: {said:?}");
    said.stdout + &said.stderr
}

#[track_caller]
fn printed(command: &Command, output: &Output) -> String {
    let said = Said::of(output);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        said.stdout,
        said.stderr
    );
    said.stdout
}

pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Python with libnbd: `h` is a handle that is not connected, `args` are the words.
pub fn libnbd_command(code: &str, args: &[&str]) -> Command {
    let prelude = "import errno, json, os, sys, nbd\nargs = sys.argv[1:]\nh = nbd.NBD()\n";
    let mut words = vec!["-c".to_owned(), prelude.to_owned() + code];
    words.extend(args.iter().map(|&word| word.to_owned()));
    program(SYSTEM_PYTHON, words)
}

/// Run Python with libnbd, connected or not as `code` wants; it must succeed.
#[track_caller]
pub fn libnbd(code: &str, args: &[&str]) -> String {
    let mut command = libnbd_command(code, args);
    let output = command.output().unwrap();
    printed(&command, &output)
}

/// A disk that is served on a Unix socket until it is detached, or dropped.
pub struct Server {
    pub home: Home,
    socket: PathBuf,
    uri: String,
}

impl Server {
    /// Serve a plugin, a path or a name, with options and parameters of the command `attach`.
    #[track_caller]
    pub fn new(plugin: &str, args: &[&str]) -> Self {
        Self::in_home(Home::new(), plugin, args)
    }

    /// Serve a plugin that is given as text.
    #[track_caller]
    pub fn of_script(text: &str, args: &[&str]) -> Self {
        let home = Home::new();
        let script = home.script("plugin.py", text);
        Self::in_home(home, script.to_str().unwrap(), args)
    }

    #[track_caller]
    pub fn in_home(home: Home, plugin: &str, args: &[&str]) -> Self {
        let socket = home.path("socket");
        let target = format!("nbd+unix:///?socket={}", socket.display());
        let mut words = vec!["attach", "--name", "disk", plugin, &target];
        words.extend(args);
        let said = home.run(&words);
        assert_eq!(said.code, 0, "{words:?}: {said:?}");
        let uri = said.stdout.trim_end().to_owned();
        assert!(uri.starts_with("nbd"), "{said:?}");
        Self { home, socket, uri }
    }

    /// What `attach` printed.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI of one export.
    pub fn export(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that speaks bytes.
    pub fn raw(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    pub fn worker(&self) -> i32 {
        self.home.pid("disk", "worker_pid")
    }

    /// What the agent and the worker logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.state("disk").join("log")).unwrap_or_default()
    }

    /// Detach as a user would.
    #[track_caller]
    pub fn detach(&self) {
        let said = self.home.run(["detach", "disk"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!self.socket.exists(), "the socket is still there");
    }
}

/// A file of `size` bytes with data in a few places, some of them not aligned to anything.
pub fn sparse_image(path: &Path, size: u64) {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut data = vec![0; 3 << 20];
    for (at, len) in [
        (0, 64 << 10),
        (size / 7 + 333, 1_000_001),
        (size / 2, 3 << 20),
        (size / 4 * 3 + 512, 512),
        (size - 5, 5),
    ] {
        random.fill(&mut data[..len]);
        file.write_all_at(&data[..len], at).unwrap();
    }
    file.sync_all().unwrap();
}

/// Two files have the same bytes. A checksum of each would take ten times as long.
#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    run("cmp", [one, other]);
}

/// A server of a file with holes, and that file.
pub fn file_server(size: u64) -> (Server, PathBuf) {
    let home = Home::new();
    let backing = home.path("backing");
    File::create_new(&backing).unwrap().set_len(size).unwrap();
    let parameter = format!("file={}", backing.display());
    (Server::in_home(home, "file", &[&parameter]), backing)
}

/// The extents as `(length, description)` that `nbdinfo --map` sees.
pub fn nbdinfo_map(uri: &str) -> Vec<(u64, String)> {
    let map = json(&run("nbdinfo", ["--map", "--json", uri]));
    let extents = map.as_array().unwrap().iter().map(|extent| {
        let description = extent["description"].as_str().unwrap().to_owned();
        (extent["length"].as_u64().unwrap(), description)
    });
    extents.collect()
}

/// Bytes that a file takes on its file system.
pub fn allocated(path: &Path) -> u64 {
    // POSIX does not say what a block is; on Linux it is this.
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// What a process holds at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub resident: u64,
    pub descriptors: usize,
    pub threads: usize,
}

impl Held {
    pub fn by(pid: i32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().next().unwrap();
        let count = |what: &str| {
            let entries = std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap();
            entries.count()
        };
        Self {
            resident: kilobytes.parse::<u64>().unwrap() * 1024,
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}
