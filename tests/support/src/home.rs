//! A place of its own for each test of the command: state folder, scripts, targets.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time that something may take which is not what the test is about.
/// A machine under load is slow; a plugin that hangs does so for an hour.
const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder that no other test sees.
pub struct Home {
    folder: tempfile::TempDir,
    patience: Option<u32>,
}

impl Home {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            patience: None,
        }
    }

    /// One whose processes wait for each other this many times longer, for tests of what is done in that time.
    pub fn patient(times: u32) -> Self {
        let mut home = Self::new();
        home.patience = Some(times);
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of an attachment.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    /// The names of the attachments' folders.
    pub fn attachments(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("state"));
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    /// Write a script and return its path.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(crate::program());
        if let Some(times) = self.patience {
            command.env("PYDISK_PATIENCE", times.to_string());
        }
        command
            .args(args)
            .env("PYDISK_STATE_DIR", self.path("state"))
            .env_remove("PYDISK_PLUGINS")
            .env_remove("VIRTUAL_ENV")
            .current_dir(self.folder.path());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        Said::of(&self.command(args).output().unwrap())
    }

    /// Start it and go on, with its words in pipes.
    pub fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Child {
        self.command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// One field of `show --json`.
    pub fn field(&self, name: &str, field: &str) -> serde_json::Value {
        let said = self.run(["show", name, "--json"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let all: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        all[field].clone()
    }

    /// A process of an attachment.
    pub fn pid(&self, name: &str, field: &str) -> i32 {
        i32::try_from(self.field(name, field).as_i64().unwrap()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        drop(self.command(["detach", "--all", "--force"]).output());
    }
}

/// What was said on standard error, but for what is waited for, as on a slow machine.
#[must_use]
pub fn complaints(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.split_inclusive('\n');
    lines
        .filter(|line| !line.contains(": waiting for "))
        .collect()
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: complaints(&output.stderr),
        }
    }

    /// It was refused with these words, and said nothing before.
    #[track_caller]
    pub fn refused(&self, words: &str) {
        assert!(self.stderr.starts_with("pydisk: "), "{self:?}");
        self.refused_after_prints(words);
    }

    /// It was refused with these words.
    #[track_caller]
    pub fn refused_after_prints(&self, words: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.contains(words), "`{words}` is not in {self:?}");
    }
}

/// The first line that a process prints.
#[track_caller]
pub fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Wait until something is so.
#[track_caller]
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(PATIENCE, what, holds);
}

/// Wait until something is so that takes its time.
#[track_caller]
pub fn until_within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < patience, "still not so: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Wait for the end of a process.
#[track_caller]
pub fn end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the process has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Whether a process runs; one that has ended and was not waited for does not. Its first thread may
/// have ended before the others: until they have, its files and locks are its own.
pub fn runs(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        threads > 1 || !(state.starts_with('Z') || state.starts_with('X'))
    })
}

/// Whether something is mounted at a path.
pub fn mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}
