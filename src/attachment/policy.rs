//! How the processes of an attachment behave towards whoever started them: as `pydisk attach` wants
//! it, whose disk should outlive a lot, or as nbdkit does, which is one process.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process};

use serde::{Deserialize, Serialize};

use super::patience;
use super::spelling::Spelling;
use crate::refusal::words;

/// How the processes of an attachment behave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conduct {
    /// Whoever asked for the disk waits for its end.
    pub foreground: bool,
    /// In the foreground, standard output gets a line that says where the disk is.
    pub prints_its_place: bool,
    /// How that is said, there and to the user's command.
    pub spelling: Spelling,
    /// A file for the agent's number, written when the disk can be used.
    pub pid_file: Option<PathBuf>,
    /// The worker goes on when its agent is killed.
    pub outlives_agent: bool,
    /// The plugin's folder becomes `/`.
    pub leaves_folder: bool,
    /// A terminal that is closed is no reason to end.
    pub ignores_hangup: bool,
    /// How long a worker may take to stop before it is killed, counted from the first signal. What lies on a
    /// device may take half as long to be stored before.
    pub patience: Duration,
    /// The group and the user that the worker becomes once it listens.
    pub group: Option<u32>,
    /// See [`Conduct::group`].
    pub user: Option<u32>,
    /// The worker's memory is kept from being swapped.
    pub locks_memory: bool,
}

impl Conduct {
    /// What `pydisk attach` wants, in the background or in the foreground.
    #[must_use]
    pub fn of_attach(foreground: bool, prints_its_place: bool) -> Self {
        Self {
            foreground,
            prints_its_place,
            spelling: Spelling::Own,
            pid_file: None,
            outlives_agent: true,
            leaves_folder: true,
            ignores_hangup: !foreground,
            patience: patience::SIGNAL.get(),
            group: None,
            user: None,
            locks_memory: false,
        }
    }

    /// Write the file for this process's number, if there is to be one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_pid_file(&self) -> io::Result<()> {
        let Some(path) = &self.pid_file else {
            return Ok(());
        };
        write_whole(path, format!("{}\n", process::id()).as_bytes()).map_err(|error| {
            io::Error::other(format!("pidfile `{}`: {}", path.display(), words(error)))
        })
    }
}

/// Whoever waits for the file must not find it empty. What is there already and is no ordinary file,
/// such as a pipe or a link, is written to.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let ordinary = match fs::symlink_metadata(path) {
        Ok(found) => found.is_file(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let name = path.file_name().filter(|_| ordinary);
    let Some(name) = name else {
        return fs::write(path, bytes);
    };
    let mut new = name.to_owned();
    new.push(format!(".{}", process::id()));
    let new = path.with_file_name(new);
    let mut file = created(&new)?;
    let done = file.write_all(bytes).and_then(|()| fs::rename(&new, path));
    if done.is_err()
        && let Err(error) = fs::remove_file(&new)
    {
        log::warn!("`{}` cannot be removed: {error}", new.display());
    }
    done
}

/// A new file. Its name can be guessed, so what lies there already is nothing to write to: it is left
/// from a process of this number, or somebody waits for it to be filled.
fn created(path: &Path) -> io::Result<fs::File> {
    let open = || {
        fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o644)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_written_or_replaced_and_nothing_is_left_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("pid");
        for _ in 0..2 {
            let conduct = Conduct {
                pid_file: Some(path.clone()),
                ..Conduct::of_attach(false, false)
            };
            conduct.write_pid_file().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(text, format!("{}\n", process::id()));
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
            fs::write(&path, "12345678901234567890\n").unwrap();
        }
    }

    #[test]
    fn a_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let (path, link) = (place.path().join("pid"), place.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_whole(&link, b"1\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1\n");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_lies_at_the_name_of_the_new_file_is_not_written_to() {
        let place = tempfile::tempdir().unwrap();
        let (path, victim) = (place.path().join("pid"), place.path().join("victim"));
        let new = place.path().join(format!("pid.{}", process::id()));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &new).unwrap();
        write_whole(&path, b"1\n").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        // Somebody's file, held open for what comes to stand in it.
        fs::write(&new, "theirs").unwrap();
        let held = fs::File::open(&new).unwrap();
        write_whole(&path, b"2\n").unwrap();
        assert_eq!(io::read_to_string(held).unwrap(), "theirs");
        assert_eq!(fs::read(&path).unwrap(), b"2\n");
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        assert!(write_whole(&place.path().join("x/pid"), b"1").is_err());
        assert!(write_whole(place.path(), b"1").is_err());
    }
}
