//! The user's command of `--run`.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

use pydisk_kernel::proc::{self, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::machine::Event;
use super::sources::{Inbox, ended};
use super::worker_process::shell_status;
use crate::attachment::{Job, Served, Spelling};
use crate::frontends::Endpoint;
use crate::frontends::nbd::{Address, Place, TlsMode, TlsSetup};

/// Run the user's command in a shell; its end arrives as an event.
pub(super) fn run(command: &str, job: &Job, disk: &Served, inbox: &Inbox) -> io::Result<Pid> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .envs(variables(&disk.at, &job.conduct.spelling))
        .envs(tls_variables(&job.server.tls, &job.conduct.spelling))
        .env("name", &job.name)
        .spawn()?;
    let pid = Pid::from_child(&child);
    let inbox = inbox.clone();
    tokio::spawn(async move {
        ended(pid).await;
        let status = child.wait().map_or(u8::MAX, shell_status);
        inbox.happened(Event::CommandEnded(status));
    });
    Ok(pid)
}

/// What the command finds the disk by; for a server the names are nbdkit's.
fn variables(at: &Endpoint, spelling: &Spelling) -> Vec<(&'static str, OsString)> {
    if let Some(path) = at.device() {
        return vec![("device", path.into())];
    }
    let place = spelling.place(at);
    let unix_socket = at.unix_socket().map(Path::as_os_str);
    let mut variables = vec![
        ("uri", place.clone().into()),
        ("nbd", place.into()),
        ("unixsocket", unix_socket.unwrap_or_default().into()),
    ];
    if let Some(Ok(address)) = at.uri().map(str::parse::<Address>) {
        let port = match address.place {
            Place::Tcp { port, .. } | Place::Everywhere { port } => port.to_string(),
            Place::Vsock(port) => port.to_string(),
            _ => String::new(),
        };
        variables.push(("port", port.into()));
        variables.push(("exportname", address.export.into()));
    }
    variables
}

/// How a server's clients encrypt, as nbdkit says it. There the folder is told as it was given, whether
/// they can or not.
fn tls_variables(tls: &TlsSetup, spelling: &Spelling) -> Vec<(&'static str, OsString)> {
    let mode = match tls.mode {
        TlsMode::Off => None,
        TlsMode::Allowed => Some(("tls", "1".into())),
        TlsMode::Required => Some(("tls", "2".into())),
    };
    let folder = spelling
        .certificates()
        .or(tls.certificates.as_deref().filter(|_| mode.is_some()));
    let folder = folder.map(|folder| ("tls_certificates", folder.into()));
    mode.into_iter().chain(folder).collect()
}

/// Tell the user's command to end, and what it has started: a shell that is told so ends and leaves
/// the others alone. They have no process group of their own, because they may use the terminal.
pub(super) fn end(command: Pid) {
    let started = descendants(command);
    // The shell first, which would otherwise go on to its next line.
    for pid in [command].into_iter().chain(started) {
        match kill_process(pid, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => log::warn!(
                "the command's process {} cannot be told to end: {error}",
                pid.as_raw_nonzero()
            ),
        }
    }
}

/// The processes below one, as far as their parents still live.
fn descendants(of: Pid) -> Vec<Pid> {
    let number = |pid: u32| Pid::from_raw(pid.try_into().ok()?);
    let children: Vec<(Pid, Pid)> = proc::processes()
        .into_iter()
        .flatten()
        .filter_map(|pid| Some((number(Stat::of(pid)?.parent)?, number(pid)?)))
        .collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let below = children.iter().filter(|(above, _)| *above == parent);
        found.extend(below.map(|(_, pid)| *pid));
        next += 1;
    }
    found.split_off(1)
}
