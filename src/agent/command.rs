//! The user's command of `--run`.

use std::io;
use std::process::Command;
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::state::Served;
use super::supervise::Event;
use super::worker_process::shell_status;

/// Run the user's command in a shell; its end arrives as an event.
pub(super) fn run(
    command: &str,
    name: &str,
    disk: &Served,
    events: &Sender<Event>,
) -> io::Result<Pid> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("device", &disk.device)
        .env("name", name)
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

/// Tell the user's command to end.
pub(super) fn end(command: Pid) {
    if let Err(error) = kill_process(command, Signal::TERM) {
        log::warn!("the command cannot be told to end: {error}");
    }
}
