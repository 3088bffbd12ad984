//! Before a disk is taken away from its users: what they have written is stored, by whatever lies
//! between them and the disk. Which attachments lie on which.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pydisk_kernel::stack::{self, Server};

use crate::Refusal;
use crate::attachment::{Folder, Holder, Role, Root, Served, State, patience};

/// Store what lies on the disk of the attachment in this folder, and its own cache, as far as that
/// succeeds within `patience`: the plugin below may hang. Gives what could not be stored, a sentence
/// for each thing.
pub(super) fn store(disk: &Served, folder: &Folder, patience: Duration) -> Vec<Refusal> {
    let Some(device) = disk.at.device() else {
        // What a server's clients have not sent is not here.
        return Vec::new();
    };
    let name = folder.name();
    let (done, finished) = channel();
    let (own, path) = (folder.clone(), device.to_owned());
    let started = thread::Builder::new().name("store".into()).spawn(move || {
        let stored = stack::store(&path, &others(&own), patience);
        // Nobody listens any more where it took too long.
        done.send(stored).unwrap_or_default();
    });
    if let Err(error) = started {
        return vec![Refusal::caused(&name, error).during("nothing was stored")];
    }
    match finished.recv_timeout(patience + patience::STORE_LATE.get()) {
        Ok(Ok(faults)) => faults
            .into_iter()
            .map(|fault| Refusal::about(&name, fault))
            .collect(),
        // It is gone, and nobody has it any more.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Ok(Err(error)) => vec![Refusal::caused(&name, error).during(device.display())],
        Err(_late) => vec![Refusal::about(
            &name,
            format_args!(
                "{} could not be stored within {} s",
                device.display(),
                patience.as_secs_f32()
            ),
        )],
    }
}

/// For each of these attachments, the places in the list of those that lie on its disk.
#[must_use]
pub fn lying_on_each(folders: &[Folder]) -> Vec<BTreeSet<usize>> {
    let servers: Vec<Server> = folders.iter().map(server).collect();
    stack::lying_on_each(&servers, patience::LOOK.get())
}

/// All other attachments of this user: one of them may keep its disk on this one's.
fn others(own: &Folder) -> Vec<Server> {
    let folders = Root::all().and_then(|roots| {
        let found: Result<Vec<_>, _> = roots.iter().map(Root::folders).collect();
        Ok(found?.concat())
    });
    let folders = folders.unwrap_or_else(|refusal| {
        log::warn!("{refusal}");
        Vec::new()
    });
    let others = folders.iter().filter(|folder| *folder != own);
    others.map(server).collect()
}

/// An attachment as a program that keeps a disk somewhere.
fn server(folder: &Folder) -> Server {
    // One that is being made or removed just now has no state.
    let state = State::read(folder).ok();
    let pid = match folder.holder(Role::Worker) {
        Holder::Process(pid) => u32::try_from(pid.as_raw_nonzero().get()).ok(),
        Holder::Nobody | Holder::Foreign => None,
    };
    let disk = state.as_ref().and_then(|state| state.disk.as_ref());
    let at = disk.and_then(|disk| disk.at.device().map(Path::to_owned));
    let parameters = state.iter().flat_map(|state| &state.parameters);
    let files = parameters.map(|(_, value)| PathBuf::from(value));
    Server {
        pid,
        at,
        files: files.filter(|path| path.is_absolute()).collect(),
    }
}
