//! Removing what a worker left behind that was killed or crashed: a device, a mount, a folder.
//!
//! The agent does it for its own worker; `list`, `attach` and `detach` do it for attachments whose
//! agent is gone, too. All of it can be repeated, and nothing there is no error.

use std::io;

use parking_lot::{Mutex, MutexGuard};

use super::folder::{Folder, Held, ended_well, keep_log};
use super::state::State;
use crate::Refusal;
use crate::frontends::nbd::{self, Address, Place};
use crate::frontends::{self, Dead, Target};

/// Held by the thread of this process that takes over abandoned folders or asks who holds one: the
/// locks are the process's, and closing a file drops them for all its threads.
pub(super) fn tidying() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock()
}

/// Remove the device or the mount of an attachment whose worker has ended. It may have ended before
/// it made any; what others made at the same place is left alone.
///
/// # Errors
/// One sentence; it may succeed later.
pub(super) fn remove(state: &State, folder: &Folder) -> Result<(), Refusal> {
    let dead = Dead {
        name: &state.name,
        folder: folder.path(),
        identity: state.identity,
    };
    match &state.target {
        Target::Ublk(_) => frontends::remove_leftover_ublk(&dead),
        Target::Loop(_) => frontends::remove_leftover_loop(&dead),
        Target::Nbd(_) => frontends::remove_leftover_nbd(&dead),
        Target::Server(address) => remove_socket(address),
        Target::File(path) => frontends::remove_leftover_file(path, &dead, state.target_is_new),
    }
}

/// Remove the Unix socket of a dead server, unless somebody else listens there by now. The target says
/// where it is, and not the worker, whose plugin may have had fewer rights than whoever removes it. One
/// in the attachment's folder goes with that, and one that was passed is not ours.
fn remove_socket(address: &Address) -> Result<(), Refusal> {
    match &address.place {
        Place::Unix(Some(path)) => nbd::remove_leftover(path),
        _ => Ok(()),
    }
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
    use super::super::state::{Phase, Served, Way};
    use super::*;

    fn starting(target: &str) -> State {
        State {
            name: "x".into(),
            phase: Phase::Starting,
            plugin: "x.py".into(),
            parameters: Vec::new(),
            target: target.parse().unwrap(),
            target_is_new: false,
            identity: None,
            disk: None,
            agent_pid: 1,
            worker_pid: None,
            since: 0,
            log: None,
        }
    }

    #[test]
    fn the_socket_of_a_server_that_died_before_it_could_tell_is_removed() {
        use std::os::unix::net::UnixListener;

        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let folder = Folder::at(place.path().join("x"));
        std::fs::create_dir(folder.path()).unwrap();
        let state = starting(&format!("nbd+unix:///?socket={}", path.display()));
        remove(&state, &folder).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        remove(&state, &folder).unwrap();
        assert!(path.exists(), "somebody listens there");
        drop(listener);
        remove(&state, &folder).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        remove(&state, &folder).unwrap();
        assert!(path.exists(), "it is no socket");
    }

    #[test]
    fn a_socket_that_only_the_worker_names_stays() {
        let place = tempfile::tempdir().unwrap();
        let (ours, victim) = (place.path().join("ours"), place.path().join("victim"));
        let folder = Folder::at(place.path().join("x"));
        for path in [&ours, &victim] {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        }
        let state = State {
            disk: Some(Served {
                at: Way::Server {
                    uri: format!("nbd+unix:///?socket={}", victim.display()),
                    unix_socket: Some(victim.clone()),
                },
                front_end: "nbd".into(),
                size: None,
                read_only: None,
                parallel: false,
                lanes: 1,
            }),
            ..starting(&format!("nbd+unix:///?socket={}", ours.display()))
        };
        remove(&state, &folder).unwrap();
        assert!(victim.exists());
        assert!(!ours.exists());
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
