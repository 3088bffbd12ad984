//! What is known of an attachment, as it stands in its folder for `list`, `show` and `detach`, and
//! for whoever has to remove what a dead attachment left behind.
//!
//! The agent writes it; everybody reads it. Secrets are masked before they get here.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::messages::parsed;
use crate::frontends::{Endpoint, Identity, Target};

/// What becomes of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The plugin is being loaded, the device made.
    Starting,
    /// The device can be used.
    Attached,
    /// The device is being removed.
    Stopping,
    /// The worker has died. What is left of the device is being removed, or is a file that fails until
    /// the user wants it to go.
    Crashed,
}

/// The facts about one attachment. The names of the fields are those that scripts see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub phase: Phase,
    /// Why it has crashed, if it has.
    pub cause: Option<String>,
    /// The script.
    pub plugin: PathBuf,
    /// What the script was configured with, secrets masked.
    pub parameters: Vec<(String, String)>,
    /// Where it was to appear.
    pub target: Target,
    /// Whether there was nothing at the target before, so that nothing may stay there.
    pub target_is_new: bool,
    /// What tells its device or mount from those of others; none where an older pydisk wrote this.
    pub identity: Option<Identity>,
    /// What the front end made of it; absent until then.
    pub disk: Option<Served>,
    /// The agent, as it knows itself.
    pub agent_pid: u32,
    /// The worker, as the agent knows it.
    pub worker_pid: Option<u32>,
    /// The mount namespace in which a file appears.
    pub namespace: Option<PathBuf>,
    /// Seconds since 1970 when it was asked for.
    pub since: u64,
    /// Where the agent and the worker log to; nowhere if they run in the foreground.
    pub log: Option<PathBuf>,
}

/// A disk that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// What its users open or connect to.
    pub at: Endpoint,
    /// How it got there: `ublk`, `loop`, `fuse`, `nbd` or `nbd-kernel`.
    pub front_end: String,
    /// Bytes; a server's clients each open a disk of their own.
    pub size: Option<u64>,
    /// Whether it can only be read; of a server's disks it is known only where it was asked for.
    pub read_only: Option<bool>,
    /// Whether several threads call the plugin at the same time.
    pub parallel: bool,
    /// How many requests they serve at the same time, at most; 0 where an older worker has not told.
    #[serde(default)]
    pub lanes: u16,
}

/// More bytes than any state has: its parameters were on a command line.
const LONGEST: u64 = 16 << 20;

impl State {
    /// Note that the worker has died, and why.
    pub fn crash(&mut self, cause: &str) {
        self.phase = Phase::Crashed;
        self.cause = Some(cause.to_owned());
    }

    /// Whether its users may have written to it: it was served, and not for reading only.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| disk.read_only != Some(true))
    }

    /// Read what stands in the folder. That never waits, whatever has been put there.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` for anything that is not a state.
    pub fn read(folder: &Folder) -> io::Result<Self> {
        // A pipe that nobody writes to would be waited for.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(folder.state())?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no ordinary file",
            ));
        }
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text)?;
        Self::parse(&text)
    }

    /// What stands in a folder's file.
    ///
    /// # Errors
    /// `InvalidData` for anything that is not a state.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        parsed(text)
    }

    /// What is to stand in a folder's file.
    ///
    /// # Errors
    /// If a path is not text.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Replace what stands in the folder, so that a reader sees the old state or the new one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Folder) -> io::Result<()> {
        let new = folder.path().join("state.new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&self.text()?)?;
        fs::rename(&new, folder.state())
    }
}

/// Seconds since 1970.
#[must_use]
pub fn seconds(time: SystemTime) -> u64 {
    // A clock before 1970 is shown as 1970; nothing is decided by it.
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Seconds since 1970, by now.
#[must_use]
pub fn now() -> u64 {
    seconds(SystemTime::now())
}

/// What is shown instead of a secret.
const MASK: &str = "***";

/// The parameters as they may be shown: the value of every key that looks like a secret is masked.
#[must_use]
pub fn masked(parameters: &[(String, String)]) -> Vec<(String, String)> {
    parameters
        .iter()
        .map(|(key, value)| {
            let shown = if is_secret(key) { MASK } else { value };
            (key.clone(), shown.to_owned())
        })
        .collect()
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "key",
        "credential",
    ]
    .iter()
    .any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked() {
        let given = [
            "size",
            "password",
            "API_KEY",
            "auth-token",
            "client.Secret",
            "file",
        ]
        .map(|key| (key.to_owned(), "value".to_owned()));
        let shown: Vec<_> = masked(&given).into_iter().map(|(_, value)| value).collect();
        assert_eq!(shown, ["value", "***", "***", "***", "***", "value"]);
    }

    #[test]
    fn a_state_is_read_back_as_it_was_written() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        let state = State {
            name: "x".into(),
            phase: Phase::Attached,
            cause: None,
            plugin: "/x.py".into(),
            parameters: vec![("size".into(), "1G".into())],
            target: Target::Ublk(None),
            target_is_new: false,
            identity: Some(Identity::new()),
            disk: Some(Served {
                at: Endpoint::Device("/dev/ublkb0".into()),
                front_end: "ublk".into(),
                size: Some(1 << 30),
                read_only: Some(false),
                parallel: true,
                lanes: 16,
            }),
            agent_pid: 1,
            worker_pid: Some(2),
            namespace: None,
            since: now(),
            log: Some(folder.log()),
        };
        state.write(&folder).unwrap();
        let found = State::read(&folder).unwrap();
        assert_eq!(found.disk, state.disk);
        assert_eq!(found.target, state.target);
        assert_eq!(found.identity, state.identity);
        assert_eq!(found.since, state.since);
    }

    #[test]
    fn a_state_of_an_older_pydisk_is_read() {
        let older = r#"{"name": "x", "phase": "attached", "plugin": "/x.py", "parameters": [],
            "target": {"ublk": 0}, "target_is_new": false, "disk": null, "agent_pid": 1,
            "worker_pid": 2, "since": 3, "log": null}"#;
        let state = State::parse(older.as_bytes()).unwrap();
        assert_eq!(
            (state.target, state.identity, state.cause),
            (Target::Ublk(Some(0)), None, None)
        );
    }

    #[test]
    fn half_a_state_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        fs::write(folder.state(), "{\"name\":").unwrap();
        assert!(State::read(&folder).is_err());
    }

    #[test]
    fn what_is_no_file_is_an_error_and_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        fs::create_dir(folder.state()).unwrap();
        assert!(State::read(&folder).is_err());
        fs::remove_dir(folder.state()).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.state(), mode).unwrap();
        let (done, read) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(State::read(&folder).unwrap_err()).unwrap());
        let error = read.recv_timeout(std::time::Duration::from_secs(60));
        assert_eq!(error.unwrap().to_string(), "it is no ordinary file");
    }
}
