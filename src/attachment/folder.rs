//! The folder of one attachment: what lies where in it, and who looks after it.
//!
//! Whether somebody looks after a folder is told by three record locks in it (fcntl(2)): the kernel
//! drops them when their process ends, however it ends; unlike flock(2) they do not pass to a child
//! that the plugin forks; and the kernel names the holder, so that no process identity is ever
//! taken from a file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, Pid, fcntl_getlk};

/// The name of the agent's control socket in the attachment's folder.
pub const CONTROL: &str = "control";

/// The name of a script that came through a pipe, in the attachment's folder.
pub const SCRIPT: &str = "script.py";

/// The folder of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at this path, which is one that [`super::Root::reserve`] made.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The name of the attachment.
    #[must_use]
    pub fn name(&self) -> String {
        self.0
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// The control socket of the agent.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.0.join(CONTROL)
    }

    /// The address of a socket in the folder, which is good for as long as the folder stays open. The path of the folder
    /// may be longer than an address can hold, so it goes by way of the descriptor: as short as
    /// `/proc/self/fd/N/control`.
    ///
    /// # Errors
    /// What the file system says.
    pub fn address(&self, socket: &str) -> io::Result<(File, PathBuf)> {
        let open = File::open(&self.0)?;
        let address = format!("/proc/self/fd/{}/{socket}", open.as_raw_fd()).into();
        Ok((open, address))
    }

    /// The log of the agent and the worker.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// A script that came through a pipe.
    #[must_use]
    pub fn script(&self) -> PathBuf {
        self.0.join(SCRIPT)
    }

    /// What [`super::State`] is written to.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// Be the one who looks after the attachment in this role, until the result is dropped or this
    /// process ends.
    ///
    /// # Errors
    /// `WouldBlock` if another process is; otherwise what the file system says.
    pub fn hold(&self, role: Role) -> io::Result<Held> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.0.join(role.file()))?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            // The two errors that POSIX allows for the same thing.
            if error == Errno::ACCESS {
                Errno::WOULDBLOCK
            } else {
                error
            }
        })?;
        Ok(Held { file, role })
    }

    /// Who looks after the attachment in this role.
    #[must_use]
    pub fn holder(&self, role: Role) -> Holder {
        let Ok(file) = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.0.join(role.file()))
        else {
            return Holder::Nobody;
        };
        let whole = Flock {
            start: 0,
            length: 0,
            pid: None,
            typ: FlockType::WriteLock,
            offset_type: FlockOffsetType::Set,
        };
        match fcntl_getlk(&file, &whole) {
            Ok(None) => Holder::Nobody,
            Ok(Some(lock)) => lock.pid.map_or(Holder::Foreign, Holder::Process),
            // Whoever cannot be asked about is not declared dead.
            Err(_) => Holder::Foreign,
        }
    }

    /// Become the agent of a folder that nobody looks after.
    #[must_use]
    pub fn claim(&self) -> Option<Held> {
        let others = [Role::Launch, Role::Worker];
        if Role::ALL
            .iter()
            .any(|role| self.holder(*role) != Holder::Nobody)
        {
            return None;
        }
        let held = self.hold(Role::Agent).ok()?;
        // Between the question and the lock the folder may have been removed by its last owner.
        let same = self.is_held_by(&held);
        let free = others
            .iter()
            .all(|role| self.holder(*role) == Holder::Nobody);
        (same && free).then_some(held)
    }

    /// Remove the folder with everything in it, if it still is the one that is held: after somebody
    /// else removed that, the name may be another attachment's by now.
    ///
    /// Its own agent, or who claimed it, can do so at any time. Anybody else must have the registry,
    /// so that nobody takes the name between the question and the removal.
    ///
    /// # Errors
    /// What the file system says; that it is gone already is none.
    pub fn remove(&self, held: &Held) -> io::Result<()> {
        if !self.is_held_by(held) {
            return Ok(());
        }
        // First the name goes, at once: a folder that somebody finds is whole, with all its locks.
        for number in 0_u32.. {
            let process = std::process::id();
            let removed = self
                .0
                .with_file_name(format!("{REMOVED}{process}-{number}"));
            match fs::rename(&self.0, &removed) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(()) => return remove_all(&removed),
            }
        }
        Err(io::ErrorKind::DirectoryNotEmpty.into())
    }

    fn is_held_by(&self, held: &Held) -> bool {
        fs::metadata(self.0.join(held.role.file())).is_ok_and(|found| held.is(&found))
    }
}

/// How the names of folders begin, in the root, that are being removed; no attachment is named so.
const REMOVED: &str = ".removed-";

/// Remove the folders whose removal was cut short.
pub(super) fn finish_removals(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(REMOVED) {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

/// As `remove_dir_all`, also where others do the same.
fn remove_all(folder: &Path) -> io::Result<()> {
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
}

/// Where the logs of attachments that ended badly are kept, in the root; no attachment is named so.
const FAILED: &str = ".failed";

/// Where the log of an attachment of this name is kept if it ends badly. The next failure of the
/// same name replaces it.
#[must_use]
pub fn kept_log(folder: &Folder) -> PathBuf {
    let root = folder.path().parent().unwrap_or(folder.path());
    root.join(FAILED).join(format!("{}.log", folder.name()))
}

/// In the folder of an attachment whose worker has ended as it should, for whoever cannot wait for it.
const ENDED_WELL: &str = "ended-well";

/// For the worker: everything is stored and closed.
///
/// # Errors
/// What the file system says. The folder may be gone already.
pub fn note_good_end(folder: &Folder) -> io::Result<()> {
    fs::write(folder.path().join(ENDED_WELL), "")
}

/// Whether the worker has said so.
#[must_use]
pub fn ended_well(folder: &Folder) -> bool {
    folder.path().join(ENDED_WELL).exists()
}

/// Keep the log of an attachment that ended badly, for whoever wonders why it is gone.
pub fn keep_log(folder: &Folder) {
    let kept = kept_log(folder);
    let made = kept.parent().map_or(Ok(()), |parent| {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
    });
    if let Err(error) = made.and_then(|()| fs::rename(folder.log(), &kept))
        && error.kind() != io::ErrorKind::NotFound
    {
        log::warn!("the log cannot be kept as `{}`: {error}", kept.display());
    }
}

/// Who holds a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Process(Pid),
    /// A process that cannot be seen from here: in another process namespace.
    Foreign,
}

/// A role that this process holds. The kernel also drops it when any other descriptor of the same
/// file is closed here, so a process never asks for the holder of a role that it holds itself.
#[derive(Debug)]
pub struct Held {
    file: File,
    role: Role,
}

impl Held {
    fn is(&self, found: &fs::Metadata) -> bool {
        self.file
            .metadata()
            .is_ok_and(|mine| (mine.dev(), mine.ino()) == (found.dev(), found.ino()))
    }
}

/// Who looks after an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The `pydisk attach` that waits for the disk.
    Launch,
    /// The agent, or somebody who removes what is left of a dead attachment.
    Agent,
    /// The worker.
    Worker,
}

impl Role {
    const ALL: [Self; 3] = [Self::Launch, Self::Agent, Self::Worker];

    fn file(self) -> &'static str {
        match self {
            Self::Launch => "launch.lock",
            Self::Agent => "agent.lock",
            Self::Worker => "worker.lock",
        }
    }
}
