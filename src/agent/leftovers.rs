//! Removing what a worker left behind that was killed or crashed: a device, a mount, a folder.
//!
//! The agent does it for its own worker; `list`, `attach` and `detach` do it for attachments whose
//! agent is gone, too. All of it can be repeated, and nothing there is no error.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use pydisk_kernel::mounts;

use super::folder::{Folder, Held, ended_well, keep_log};
use super::state::{State, Way};
use crate::Refusal;
use crate::frontends::{self, Target};

/// Remove the device or the mount of an attachment whose worker has ended. It may have ended before
/// it made any; what others made at the same place is left alone.
///
/// # Errors
/// One sentence; it may succeed later.
pub(super) fn remove(state: &State, folder: &Folder) -> Result<(), Refusal> {
    match &state.target {
        Target::Ublk(_) => frontends::remove_leftover_ublk(folder.path()),
        Target::Loop(_) => frontends::remove_leftover_loop(folder.path()),
        Target::Nbd(_) => frontends::remove_leftover_nbd(folder.path()),
        Target::Server(_) => remove_socket(state),
        Target::File(path) if is_of_another(path, &state.name) => Ok(()),
        Target::File(path) => frontends::remove_leftover_file(path, state.target_is_new),
    }
}

/// Remove the Unix socket of a dead server, unless somebody else listens there by now.
fn remove_socket(state: &State) -> Result<(), Refusal> {
    let Some(Way::Server {
        unix_socket: Some(path),
        ..
    }) = state.disk.as_ref().map(|disk| &disk.at)
    else {
        return Ok(());
    };
    // A file that is no socket refuses connections as well.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Ok(()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Refusal::new(format!("`{}`: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Whether something is mounted there that this attachment did not mount.
fn is_of_another(path: &Path, name: &str) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let Some((folder, file)) = folder.zip(path.file_name()) else {
        return false;
    };
    // The name that the front end gives to its mounts.
    let ours = format!("pydisk:{name}");
    matches!(mounts::mounted_at(&folder.join(file)), Ok(Some(mount)) if *mount.source != *ours)
}

/// Remove all of an attachment that nobody looked after before it was claimed, or log why that is not
/// possible yet.
pub(super) fn sweep(folder: &Folder, held: &Held) {
    let name = folder.name();
    let removed = match State::read(folder) {
        Ok(state) => remove(&state, folder),
        // It never came so far that there was anything to remove.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Refusal::new(format!(
            "{}: {error}",
            folder.state().display()
        ))),
    };
    match removed {
        Ok(()) => {
            if !ended_well(folder) {
                keep_log(folder);
            }
            if let Err(error) = folder.remove(held) {
                log::warn!("{name}: folder `{}`: {error}", folder.path().display());
            }
        }
        Err(refusal) => log::warn!("{name}: what is left of it cannot be removed: {refusal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_mounted_is_not_ours() {
        assert!(is_of_another(Path::new("/proc"), "x"));
        assert!(!is_of_another(Path::new("/no/such/file"), "x"));
    }

    #[test]
    fn a_folder_that_never_got_a_state_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x");
        std::fs::create_dir(&path).unwrap();
        let folder = Folder::at(path.clone());
        sweep(&folder, &folder.claim().unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_with_a_state_that_cannot_be_read_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().join("x"));
        std::fs::create_dir(folder.path()).unwrap();
        std::fs::write(folder.state(), "nonsense").unwrap();
        sweep(&folder, &folder.claim().unwrap());
        assert!(folder.path().exists());
    }
}
