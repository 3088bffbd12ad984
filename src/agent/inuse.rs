//! Who uses a device or a server that is to be removed.

use std::io;
use std::thread;
use std::time::Instant;

use pydisk_kernel::usage;

use super::leftovers::tidying;
use super::storing;
use crate::attachment::{Connected, Folder, Holder, Role, State, connected, patience};
use crate::{Refusal, refusal};

/// Make sure that the device or the server of an attachment can be removed. With `force` it can, and what its users
/// wrote is stored as far as that is possible in a short time; gives what could not be, a sentence for each thing.
///
/// # Errors
/// One sentence that names who uses it.
pub(super) fn clear(state: &State, folder: &Folder, force: bool) -> Result<Vec<Refusal>, Refusal> {
    let Some(disk) = &state.disk else {
        return Ok(Vec::new());
    };
    if force {
        return Ok(storing::store(disk, folder, patience::STORE.get()));
    }
    let name = &state.name;
    let what = match disk.at.device() {
        Some(_) => "unmount or close it",
        None => "disconnect them",
    };
    match users(state, folder) {
        None => Ok(Vec::new()),
        Some(users) => Err(Refusal::about(name, users)
            .hint(format!("{what}, or use `pydisk detach --force {name}`"))),
    }
}

/// Who still uses the device after a moment of patience: a sentence, or `None` for nobody.
#[must_use]
pub(super) fn users(state: &State, folder: &Folder) -> Option<String> {
    let at = &state.disk.as_ref()?.at;
    let ours = processes(state, folder);
    let patience = Instant::now() + patience::USERS.get();
    loop {
        let found = match at.device() {
            Some(device) => words(usage::users(device, &ours)),
            None => words(clients(folder)),
        };
        let found = match found {
            Ok(found) => found,
            // A worker that does not answer may well have clients; one that is gone has none.
            Err(error) if at.device().is_none() && !is_gone(&error) => {
                return Some(format!(
                    "{at}: who is connected cannot be found out: {}",
                    refusal::words(&error)
                ));
            }
            Err(error) => {
                log::warn!("{at}: its users cannot be found: {error}");
                return None;
            }
        };
        if found.is_empty() {
            return None;
        }
        if Instant::now() >= patience {
            let verb = match at.device() {
                Some(_) => "",
                None => "is used by ",
            };
            return Some(format!("{at} {verb}{}", found.join(", ")));
        }
        thread::sleep(patience::USERS_AGAIN.get());
    }
}

/// The processes of the attachment that live, and this one, which may have inherited the device from whoever uses
/// it, who is found as well. The numbers in the state may be those of other processes by now.
fn processes(state: &State, folder: &Folder) -> Vec<u32> {
    let this = std::process::id();
    // Whoever is asked here may be held by another thread, which removes what is left of it.
    let _tidying = tidying();
    // An agent never asks about the role that it holds itself.
    let agent = (state.agent_pid != this).then_some(Role::Agent);
    let others = agent.into_iter().chain([Role::Worker]);
    let others = others.filter_map(|role| match folder.holder(role) {
        Holder::Process(pid) => Some(pid.as_raw_pid().cast_unsigned()),
        Holder::Nobody | Holder::Foreign => None,
    });
    others.chain([this]).collect()
}

/// Nobody listens, or it died before it took the connection or after it had begun to answer.
fn is_gone(worker: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    let gone = [ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof];
    gone.contains(&worker.kind())
}

fn words<T: ToString>(found: io::Result<impl IntoIterator<Item = T>>) -> io::Result<Vec<String>> {
    Ok(found?.into_iter().map(|one| one.to_string()).collect())
}

/// The clients that have an export open. Whoever only negotiates will be gone before long.
fn clients(folder: &Folder) -> io::Result<Vec<Connected>> {
    let mut found = connected(folder)?;
    found.retain(|client| client.export.is_some());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// Both processes are dead, and one that uses the disk has the number that the agent had.
    #[test]
    fn a_user_with_the_number_of_a_dead_process_is_a_user() {
        let place = tempfile::tempdir().unwrap();
        let disk = place.path().join("disk");
        fs::write(&disk, "").unwrap();
        let mut user = std::process::Command::new("sleep")
            .arg("600")
            .stdin(File::open(&disk).unwrap())
            .spawn()
            .unwrap();
        let text = format!(
            r#"{{"name": "x", "phase": "attached", "plugin": "/x.py", "parameters": [],
                "target": {{"file": {disk:?}}}, "target_is_new": false, "since": 0, "log": null,
                "disk": {{"at": {{"device": {disk:?}}}, "front_end": "fuse", "size": 0,
                "read_only": false, "parallel": false}},
                "agent_pid": {0}, "worker_pid": {0}}}"#,
            user.id()
        );
        let state = State::parse(text.as_bytes()).unwrap();
        let found = users(&state, &Folder::at(place.path().to_owned()));
        user.kill().unwrap();
        user.wait().unwrap();
        let found = found.unwrap();
        assert!(found.contains(&format!("(pid {})", user.id())), "{found}");
    }
}
