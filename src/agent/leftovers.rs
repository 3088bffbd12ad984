//! Removing what a worker left behind that was killed or crashed: a device, a mount, a folder.
//!
//! The agent does it for its own worker; `list`, `attach` and `detach` do it for attachments whose
//! agent is gone, too. All of it can be repeated, and nothing there is no error. A file that fails, because
//! its worker has died, stays until the user detaches it or attaches something there.

use std::io;

use parking_lot::{Mutex, MutexGuard};

use crate::Refusal;
use crate::attachment::{Folder, Held, Phase, State, ended_well, keep_log, kept_log};
use crate::frontends::Dead;

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
    let front_end = state.target.front_end();
    front_end.remove_leftover(&dead(state, folder), state.target_is_new)
}

fn dead<'a>(state: &'a State, folder: &'a Folder) -> Dead<'a> {
    Dead {
        name: &state.name,
        folder: folder.path(),
        identity: state.identity,
    }
}

/// Whether an attachment whose worker has ended left something that fails, and better stays.
pub(super) fn fails(state: &State, folder: &Folder) -> bool {
    let served = matches!(state.phase, Phase::Attached | Phase::Crashed);
    served
        && !ended_well(folder)
        && state
            .target
            .front_end()
            .fails(&dead(state, folder), state.namespace.as_deref())
}

/// What is said of an attachment whose end nobody has seen.
const UNSEEN: &str = "its agent and its worker have died";

/// Remove all of an attachment that nobody looked after before it was claimed, or log why that is not
/// possible yet. A file that fails stays.
pub(super) fn sweep(folder: &Folder, held: &Held) {
    let name = folder.name();
    let removed = match State::read(folder) {
        Ok(mut state) if fails(&state, folder) => {
            if state.phase != Phase::Crashed {
                state.crash(UNSEEN);
                if let Err(error) = state.write(folder) {
                    log::warn!("{name}: state of the attachment: {error}");
                }
            }
            return;
        }
        Ok(state) => remove(&state, folder),
        // It never came so far that there was anything to remove.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Refusal::caused(folder.state().display(), error)),
    };
    match removed {
        Ok(()) => remove_folder(folder, held),
        Err(refusal) => log::warn!("{name}: what is left of it cannot be removed: {refusal}"),
    }
}

fn remove_folder(folder: &Folder, held: &Held) {
    if !ended_well(folder) {
        keep_log(folder);
    }
    if let Err(error) = folder.remove(held) {
        let name = folder.name();
        log::warn!("{name}: folder `{}`: {error}", folder.path().display());
    }
}

/// Remove all of a crashed attachment, which was claimed; gives what its users have lost, if they may have.
/// With `force` it goes, too, where what fails can only be unmounted in another mount namespace.
///
/// # Errors
/// One sentence; it may succeed later.
pub(super) fn clear(folder: &Folder, held: &Held, force: bool) -> Result<Option<Refusal>, Refusal> {
    let Ok(state) = State::read(folder) else {
        // It never came so far that there was anything to lose.
        return Ok(None);
    };
    if state.phase != Phase::Crashed {
        return Ok(None);
    }
    let name = &state.name;
    remove(&state, folder)?;
    if !force && fails(&state, folder) {
        return Err(Refusal::about(
            name,
            format_args!(
                "what is left of `{}` is mounted in another mount namespace",
                state.target
            ),
        )
        .hint(format!(
            "unmount it there; `pydisk detach --force {name}` leaves it"
        )));
    }
    let cause = state.cause.as_deref().unwrap_or(UNSEEN);
    let lost = state.is_writable().then(|| {
        Refusal::about(
            name,
            format_args!("{cause}; what it had not stored is lost"),
        )
        .hint(format!("its log is {}", kept_log(folder).display()))
    });
    remove_folder(folder, held);
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::Served;
    use crate::frontends::Endpoint;

    fn starting(target: &str) -> State {
        State {
            name: "x".into(),
            phase: Phase::Starting,
            cause: None,
            plugin: "x.py".into(),
            parameters: Vec::new(),
            target: target.parse().unwrap(),
            target_is_new: false,
            identity: None,
            disk: None,
            agent_pid: 1,
            worker_pid: None,
            namespace: None,
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
                at: Endpoint::Server {
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
