//! Who uses a device or a server that is to be removed, and saving what the users of a device have
//! not stored yet.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use pydisk_kernel::mounts::{self, Device};
use pydisk_kernel::usage;

use super::clients;
use super::folder::{Folder, Holder, Role};
use super::state::{Served, State, Way};
use crate::Refusal;

/// How long a user may take to go away: udev and friends open every device for a moment.
const RETRY_FOR: Duration = Duration::from_millis(1500);
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How long syncing may take, all in all.
const SYNC_PATIENCE: Duration = Duration::from_millis(1500);

/// Make sure that the device or the server of an attachment can be removed. With `force` it can, and what its users
/// wrote is synced as far as that is possible in a short time.
///
/// # Errors
/// One sentence that names who uses it.
pub(super) fn clear(state: &State, folder: &Folder, force: bool) -> Result<(), Refusal> {
    let Some(disk) = &state.disk else {
        return Ok(());
    };
    if force {
        sync(disk);
        return Ok(());
    }
    let name = &state.name;
    let what = match &disk.at {
        Way::Device(_) => "unmount or close it",
        Way::Server { .. } => "disconnect them",
    };
    match users(state, folder) {
        None => Ok(()),
        Some(users) => Err(Refusal::new(format!("{name}: {users}"))
            .hint(format!("{what}, or use `pydisk detach --force {name}`"))),
    }
}

/// Who still uses the device after a moment of patience: a sentence, or `None` for nobody.
#[must_use]
pub(super) fn users(state: &State, folder: &Folder) -> Option<String> {
    let at = &state.disk.as_ref()?.at;
    let ours = processes(state, folder);
    let patience = Instant::now() + RETRY_FOR;
    loop {
        let found = match at {
            Way::Device(device) => words(usage::users(device, &ours)),
            Way::Server { .. } => words(clients(folder)),
        };
        let found = match found {
            Ok(found) => found,
            // A worker that does not answer may well have clients; one that is gone has none.
            Err(error) if matches!(at, Way::Server { .. }) && !is_gone(&error) => {
                return Some(format!(
                    "{at}: who is connected cannot be found out: {error}"
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
            let verb = match at {
                Way::Device(_) => "",
                Way::Server { .. } => "is used by ",
            };
            return Some(format!("{at} {verb}{}", found.join(", ")));
        }
        thread::sleep(RETRY_EVERY);
    }
}

/// The processes of the attachment that live, and this one, which may have inherited the device from whoever uses
/// it, who is found as well. The numbers in the state may be those of other processes by now.
fn processes(state: &State, folder: &Folder) -> Vec<u32> {
    let this = std::process::id();
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
fn clients(folder: &Folder) -> io::Result<Vec<clients::Connected>> {
    let mut found = clients::connected(folder)?;
    found.retain(|client| client.export.is_some());
    Ok(found)
}

/// Write back what the file systems on the device and its own cache hold, as far as that succeeds
/// within [`SYNC_PATIENCE`]: the plugin below may hang.
pub(super) fn sync(disk: &Served) {
    let Way::Device(device) = &disk.at else {
        // What a server's clients have not sent is not here.
        return;
    };
    let (done, finished) = channel();
    let mut under_way = 0_usize;
    for path in cached_by(device) {
        let done = done.clone();
        let started = thread::Builder::new().name("sync".into()).spawn(move || {
            if let Err(error) = sync_one(&path) {
                log::warn!("{}: sync: {error}", path.display());
            }
            done.send(()).unwrap_or_default();
        });
        under_way += usize::from(started.is_ok());
    }
    let patience = Instant::now() + SYNC_PATIENCE;
    while under_way > 0 {
        let left = patience.saturating_duration_since(Instant::now());
        if finished.recv_timeout(left).is_err() {
            log::warn!(
                "{}: not everything could be synced in time",
                device.display()
            );
            return;
        }
        under_way -= 1;
    }
}

/// The device and where it, or a partition of it, is mounted.
fn cached_by(device: &Path) -> Vec<PathBuf> {
    let numbers = numbers(device);
    if numbers.is_empty() {
        // A file: its users' writes go straight to the plugin.
        return Vec::new();
    }
    let name = device.as_os_str().as_encoded_bytes();
    let mut paths: Vec<_> = mounts::mounts()
        .unwrap_or_default()
        .into_iter()
        .filter(|mount| {
            // btrfs shows numbers of its own, but the device as its source.
            numbers.contains(&mount.device)
                || mount
                    .source
                    .as_encoded_bytes()
                    .strip_prefix(name)
                    .is_some_and(is_partition)
        })
        .map(|mount| mount.at)
        .collect();
    paths.push(device.to_owned());
    paths
}

/// Whether this, behind the name of a device, names the device itself or one of its partitions.
fn is_partition(rest: &[u8]) -> bool {
    match rest {
        [] => true,
        [b'p', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The numbers of a block device and of its partitions; none for anything else.
fn numbers(device: &Path) -> Vec<Device> {
    let Some(name) = device.file_name().filter(|_| device.starts_with("/dev")) else {
        return Vec::new();
    };
    let folder = Path::new("/sys/block").join(name);
    let mut numbers: Vec<_> = read_number(&folder).into_iter().collect();
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            numbers.extend(read_number(&entry.path()));
        }
    }
    numbers
}

fn read_number(folder: &Path) -> Option<Device> {
    Device::parse(&fs::read_to_string(folder.join("dev")).ok()?)
}

fn sync_one(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    if file.metadata()?.rdev() != 0 {
        return file.sync_all();
    }
    Ok(rustix::fs::syncfs(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_told_from_other_devices() {
        for rest in ["", "p1", "p12"] {
            assert!(is_partition(rest.as_bytes()), "{rest}");
        }
        for rest in ["1", "p", "p1x", "0p1"] {
            assert!(!is_partition(rest.as_bytes()), "{rest}");
        }
    }

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

    #[test]
    fn a_file_has_nothing_to_sync() {
        assert_eq!(cached_by(Path::new("/tmp/disk.img")), Vec::<PathBuf>::new());
    }
}
