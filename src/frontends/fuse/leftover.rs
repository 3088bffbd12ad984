//! What a dead attachment left: its mount, and the file that it was mounted on.
//!
//! Called by whoever looks after dead attachments, and by the loop front end for its hidden file. Nothing here waits
//! for the disk.

use std::path::{Path, PathBuf};

use pydisk_kernel::mounts::{self, Unmount};

use super::place;
use crate::frontends::Dead;
use crate::{Refusal, ResultExt};

/// Unmount and remove what a dead attachment left at `path`: its mount, and the file that it was mounted on if
/// pydisk made that. `new` tells, for attachments of an older pydisk, whether there was no file before. What is
/// others' is left, and it is no error if there is nothing.
///
/// # Errors
/// One sentence: something is mounted over it, or unmounting failed.
pub(super) fn remove_leftover(path: &Path, dead: &Dead<'_>, new: bool) -> Result<(), Refusal> {
    let Some(real) = unmount_leftover(path, dead)? else {
        return Ok(());
    };
    match dead.identity {
        Some(_) => place::remove_made(&real, dead.folder),
        None if new => place::remove_empty(&real),
        None => Ok(()),
    }
}

/// As [`remove_leftover`] for the file at `path` in the attachment's own folder.
pub(in crate::frontends) fn remove_hidden(path: &Path, dead: &Dead<'_>) -> Result<(), Refusal> {
    match unmount_leftover(path, dead)? {
        Some(real) => place::remove_empty(&real),
        None => Ok(()),
    }
}

/// Whether what a dead attachment mounted at `path` still is mounted there, in the mount namespace of the name
/// `there` or in this one. From here on its users get errors, also where the plugin left a process behind that has
/// the connection.
pub(super) fn fails(path: &Path, dead: &Dead<'_>, there: Option<&Path>) -> bool {
    let ours = source(&dead.word());
    let foreign = there.filter(|there| mounts::namespace().is_some_and(|here| here != *there));
    let found = match foreign {
        Some(there) => mounts::named(ours.as_ref(), there),
        None => mounted_here(path, &ours),
    };
    let Some(mount) = found else {
        return false;
    };
    if let Err(error) = mounts::abort_fuse(mount.device) {
        log::debug!("{}: ending FUSE: {error}", mount.at.display());
    }
    true
}

/// What names itself `source` at `path`, visible or not. The path is looked at only where it may be another name of
/// the place: it may lie on a filesystem that does not answer.
fn mounted_here(path: &Path, source: &str) -> Option<mounts::Mount> {
    let mut all = mounts::mounts().ok()?;
    all.retain(|mount| mount.source == source);
    let at = |place: &Path| all.iter().find(|mount| mount.at == place).cloned();
    if all.is_empty() {
        return None;
    }
    at(path).or_else(|| at(&place::real_path(path).ok()?))
}

/// Whether what is visible at `real` is what this attachment mounted there.
pub(in crate::frontends) fn is_mounted(real: &Path, dead: &Dead<'_>) -> bool {
    let ours = source(&dead.word());
    matches!(mounts::mounted_at(real), Ok(Some(mount)) if *mount.source == *ours)
}

/// Unmount what a dead attachment mounted at `path`; gives where that is if nothing is mounted there now.
fn unmount_leftover(path: &Path, dead: &Dead<'_>) -> Result<Option<PathBuf>, Refusal> {
    if path.parent().is_none_or(|folder| !folder.exists()) {
        return Ok(None);
    }
    let real = place::real_path(path)?;
    let ours = source(&dead.word());
    loop {
        let mut there = mounts::mounts().refuse(path.display())?;
        there.retain(|mount| mount.at == real);
        let Some(top) = there.last() else {
            return Ok(Some(real));
        };
        if !there.iter().any(|mount| *mount.source == *ours) {
            return Ok(None);
        }
        if *top.source != *ours {
            return Err(Refusal::about(
                path.display(),
                format_args!(
                    "`{}` is mounted over what is left there",
                    top.source.display()
                ),
            ));
        }
        mounts::unmount_fuse(&real, Unmount::Force).refuse_during(path.display(), "unmount")?;
    }
}

/// What the kernel's mount table shows as the source, where the attachment's word is `word`.
pub(super) fn source(word: &str) -> String {
    // fusermount3 splits its options at commas.
    word.replace([',', '\\'], "_")
}
