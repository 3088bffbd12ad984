//! The user's command of `--run`.

use std::ffi::OsString;
use std::io;
use std::process::Command;
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::messages::Job;
use super::state::{Served, Way};
use super::supervise::Event;
use super::worker_process::shell_status;
use crate::frontends::nbd::{Address, Place, TlsMode, TlsSetup};

/// Run the user's command in a shell; its end arrives as an event.
pub(super) fn run(
    command: &str,
    job: &Job,
    disk: &Served,
    events: &Sender<Event>,
) -> io::Result<Pid> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .envs(variables(&disk.at))
        .envs(tls_variables(&job.server.tls))
        .env("name", &job.name)
        .spawn()?;
    let pid = Pid::from_child(&child);
    let events = events.clone();
    thread::Builder::new()
        .name("command".into())
        .spawn(move || {
            let status = child.wait().map_or(u8::MAX, shell_status);
            events.send(Event::CommandEnded(status)).unwrap_or_default();
        })?;
    Ok(pid)
}

/// What the command finds the disk by; for a server the names are nbdkit's.
fn variables(at: &Way) -> Vec<(&'static str, OsString)> {
    let (uri, unix_socket) = match at {
        Way::Device(path) => return vec![("device", path.into())],
        Way::Server { uri, unix_socket } => (uri, unix_socket),
    };
    let mut variables = vec![
        ("uri", uri.into()),
        ("nbd", uri.into()),
        ("unixsocket", unix_socket.clone().unwrap_or_default().into()),
    ];
    if let Ok(address) = uri.parse::<Address>() {
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

/// How a server's clients encrypt, as nbdkit says it; nothing where they cannot.
fn tls_variables(tls: &TlsSetup) -> Vec<(&'static str, OsString)> {
    let mode = match tls.mode {
        TlsMode::Off => return Vec::new(),
        TlsMode::Allowed => "1",
        TlsMode::Required => "2",
    };
    let folder = tls.certificates.clone().unwrap_or_default();
    vec![("tls", mode.into()), ("tls_certificates", folder.into())]
}

/// Tell the user's command to end.
pub(super) fn end(command: Pid) {
    if let Err(error) = kill_process(command, Signal::TERM) {
        log::warn!("the command cannot be told to end: {error}");
    }
}
