//! Where a file may be mounted: on nothing or on an empty file, and on nothing that would be hidden.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pydisk_kernel::mounts;
use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags, StatxFlags, flock, statx};
use rustix::io::Errno;

use crate::frontends::identity::PREFIX;
use crate::{Refusal, ResultExt};

/// How long whoever has a file mounted may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// An empty file to mount on, held by a lock for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    shown: PathBuf,
    real: PathBuf,
    /// The file below the mount. Its lock keeps a second pydisk away that comes at the same time.
    file: File,
    /// To be removed in the end.
    created: bool,
    /// Where it is noted that the file was created.
    note: PathBuf,
}

/// In the attachment's folder, what tells the file that was created for it from a later one at its path.
const CREATED: &str = "file-created";

impl Place {
    /// Take `path`, and create the file if there is none, which is noted in the attachment's `folder`.
    pub(super) fn take(path: &Path, folder: &Path) -> Result<Self, Refusal> {
        let real = real_path(path)?;
        refuse_mounted(path, &real)?;
        let (file, created) = open_empty(path, &real)?;
        let place = Self {
            shown: path.to_owned(),
            real,
            file,
            created,
            note: folder.join(CREATED),
        };
        if created {
            let noted = mark(&place.real).and_then(|mark| fs::write(&place.note, mark));
            noted.map_err(|error| refused(path, format!("{}: {error}", place.note.display())))?;
        }
        match flock(&place.file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                return Err(refused(path, "another program has locked this file"));
            }
            // A filesystem without locks; what is mounted meanwhile is seen below, but for a moment.
            Err(error) => log::debug!("{}: lock: {error}", path.display()),
            Ok(()) => {}
        }
        refuse_mounted(path, &place.real)?;
        Ok(place)
    }

    /// The path as the user gave it.
    pub(super) fn shown(&self) -> &Path {
        &self.shown
    }

    /// The path without symbolic links, as the kernel shows it.
    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    /// Remove the file if it was created here; nothing may be mounted on it any more.
    pub(super) fn release(&mut self) -> Result<(), Refusal> {
        self.remove()
            .map_err(|error| refused(&self.shown, format!("removing the empty file: {error}")))
    }

    fn remove(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.created) || mounts::mounted_at(&self.real)?.is_some() {
            return Ok(());
        }
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(&self.real) {
            Ok(now) if (now.dev(), now.ino(), now.len()) == (ours.dev(), ours.ino(), 0) => {
                fs::remove_file(&self.real)?;
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        missing_is_fine(fs::remove_file(&self.note))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            log::warn!("{}: removing the empty file: {error}", self.shown.display());
        }
        // Closing it would not do where the plugin has forked: the child shares the lock.
        if let Err(error) = flock(&self.file, FlockOperation::Unlock) {
            log::debug!("{}: unlock: {error}", self.shown.display());
        }
    }
}

/// `path` without symbolic links. A file at its end is not looked at, since it may be a mount whose
/// server is gone.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, Refusal> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(refused(path, "this is a folder, a file is needed"));
    };
    let folder = folder.canonicalize().map_err(|error| match error.kind() {
        ErrorKind::NotFound => refused(path, format!("no folder `{}`", folder.display())),
        _ => Refusal::caused(target(path), error)
            .during(format_args!("folder `{}`", folder.display())),
    })?;
    let real = folder.join(name);
    if mounts::mounted_at(&real).refuse(target(path))?.is_some() {
        return Ok(real);
    }
    match fs::symlink_metadata(&real) {
        Ok(found) if found.is_symlink() => real
            .canonicalize()
            .refuse_during(target(path), "symbolic link"),
        _ => Ok(real),
    }
}

/// Remove the file at `real` if it is the one whose creation is noted in the attachment's `folder`, and is empty.
/// Nothing is mounted on it.
pub(super) fn remove_made(real: &Path, folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(CREATED);
    let made = match fs::read_to_string(&note) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        made => made.refuse(note.display())?,
    };
    match mark(real) {
        Ok(found) if found == made => remove_empty(real),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Refusal::caused(real.display(), error))
        }
        _ => Ok(()),
    }
}

/// What tells a file from a later one at its path: the file system, the number there, and when the file was made,
/// where the file system keeps that.
fn mark(path: &Path) -> io::Result<String> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let born = born.then_some(found.stx_btime);
    Ok(format!(
        "{}:{} {} {}",
        found.stx_dev_major,
        found.stx_dev_minor,
        found.stx_ino,
        born.map_or("-".to_owned(), |born| format!(
            "{}.{}",
            born.tv_sec, born.tv_nsec
        )),
    ))
}

fn missing_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Remove the file at `real` if it is an empty regular file. Nothing is mounted on it.
pub(super) fn remove_empty(real: &Path) -> Result<(), Refusal> {
    let removed = match fs::symlink_metadata(real) {
        Ok(found) if found.is_file() && found.len() == 0 => fs::remove_file(real),
        // Whoever may not even look there has made nothing there either.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed.refuse(real.display())
}

fn refuse_mounted(path: &Path, real: &Path) -> Result<(), Refusal> {
    let Some(mount) = mounts::mounted_at(real).refuse(target(path))? else {
        return Ok(());
    };
    let refusal = refused(
        path,
        format!("`{}` is mounted there already", mount.source.display()),
    );
    // Only of a filesystem that nobody serves it is certain that unmounting it loses nothing.
    Err(if is_dead(real) {
        refusal.hint(format!("`fusermount3 -u {}` unmounts it", real.display()))
    } else if mount.source.to_string_lossy().starts_with(PREFIX) {
        refusal.hint(format!("`pydisk detach {}` ends it", real.display()))
    } else {
        refusal.hint("choose another path")
    })
}

/// Whether nobody serves the file at `real` any more. One that does not answer may live.
fn is_dead(real: &Path) -> bool {
    let asked = mounts::size_at(real, ANSWER);
    asked.is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()))
}

/// Open the file at `real`, which must be empty, or create it.
fn open_empty(path: &Path, real: &Path) -> Result<(File, bool), Refusal> {
    let created = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(real);
    match created {
        Ok(file) => return Ok((file, true)),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Refusal::caused(target(path), error).during("creating the file"));
        }
        Err(_there_is_one) => {}
    }
    refuse_data(path, &fs::symlink_metadata(real).refuse(target(path))?)?;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(real)
        .refuse(target(path))?;
    // Another file may have taken its place since.
    refuse_data(path, &file.metadata().refuse(target(path))?)?;
    Ok((file, false))
}

fn refuse_data(path: &Path, found: &fs::Metadata) -> Result<(), Refusal> {
    if found.is_dir() {
        return Err(refused(path, "this is a folder, a file is needed"));
    }
    if !found.is_file() {
        return Err(refused(path, "this is neither a file nor free"));
    }
    if found.len() > 0 {
        return Err(refused(
            path,
            format!(
                "there is a file of {} bytes, which would be hidden",
                found.len()
            ),
        )
        .hint("name a new file or an empty one"));
    }
    Ok(())
}

fn refused(path: &Path, why: impl std::fmt::Display) -> Refusal {
    Refusal::about(target(path), why)
}

fn target(path: &Path) -> String {
    format!("target `{}`", path.display())
}
