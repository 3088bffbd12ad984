//! The worker as its agent sees it: a child process at the other end of a socket pair.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, split};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::yield_now;

use super::machine::Event;
use super::oom::Kills;
use super::sources::{Inbox, ended};
use super::wire;
use crate::attachment::{Job, Passing, Process, ToWorker};
use crate::refusal;

/// A worker that was started and not yet waited for, as far as its agent acts on it.
pub(super) trait Worker: fmt::Debug {
    /// Its process number.
    fn id(&self) -> u32;
    /// Ask it to end.
    fn stop(&self);
    /// End it and what its plugin started, unless that went away into a group of its own.
    fn kill(&mut self);
    /// End what a dead worker's plugin left running: it may have the device open.
    fn kill_group(&self);
    /// Wait for it, which has ended; how it did, as a sentence.
    fn reap(&mut self) -> String;
}

/// Starts a worker for a job and hands it what is passed on. What it says and that it ended is put into the inbox.
pub(super) type Start = dyn FnMut(&Job, Passing, &Inbox) -> io::Result<Box<dyn Worker>>;

/// Start a worker process in the folder of this one.
pub(super) fn start(job: &Job, passing: Passing, inbox: &Inbox) -> io::Result<Box<dyn Worker>> {
    let (mine, theirs) = UnixStream::pair()?;
    mine.set_nonblocking(true)?;
    let mine = tokio::net::UnixStream::from_std(mine)?;
    let mut command = Process::Worker.command()?;
    command
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // What a plugin prints must never get between the lines of `pydisk attach`.
        .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
    if let Some(python) = &job.plugin.python {
        command.env("PYTHONEXECUTABLE", python);
    }
    // What systemd passed is the server's, not for what the plugin starts.
    for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(variable);
    }
    let kills = Kills::now();
    let child = passing.hand_over(|| command.spawn())?;
    let pid = Pid::from_child(&child);
    let commands = converse(mine, job.clone(), inbox);
    let inbox = inbox.clone();
    tokio::spawn(async move {
        ended(pid).await;
        inbox.happened(Event::Ended);
    });
    Ok(Box::new(WorkerProcess {
        child,
        commands,
        kills,
    }))
}

/// Hand a worker its job, and from then on what is sent here. What it says is put into the inbox.
pub(super) fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    job: Job,
    inbox: &Inbox,
) -> UnboundedSender<ToWorker> {
    let (from, mut to) = split(stream);
    let (commands, mut sent) = unbounded_channel();
    tokio::spawn(async move {
        // A worker that is dead already is reported by what waits for its end.
        let mut written = wire::send(&mut to, &job).await;
        drop(job);
        while written.is_ok()
            && let Some(command) = sent.recv().await
        {
            written = wire::send::<ToWorker>(&mut to, &command).await;
        }
        if let Err(error) = written {
            log::debug!("the worker takes no messages: {error}");
        }
    });
    let inbox = inbox.clone();
    tokio::spawn(async move {
        let mut from = BufReader::new(from);
        while let Some(message) = wire::receive(&mut from).await.unwrap_or_else(|error| {
            log::error!("the worker sent what is no message: {error}");
            None
        }) {
            inbox.happened(Event::Heard(message));
            // A worker that never stops talking is heard no faster than it is understood.
            yield_now().await;
        }
        inbox.happened(Event::Silent);
    });
    commands
}

#[derive(Debug)]
struct WorkerProcess {
    child: Child,
    commands: UnboundedSender<ToWorker>,
    /// What the kernel had ended before.
    kills: Kills,
}

impl Worker for WorkerProcess {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn stop(&self) {
        if self.commands.send(ToWorker::Stop).is_err() {
            log::debug!("the worker cannot be asked to stop: it takes no messages");
        }
    }

    fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            log::warn!("the worker cannot be killed: {error}");
        }
        self.kill_group();
    }

    fn kill_group(&self) {
        match kill_process_group(Pid::from_child(&self.child), Signal::KILL) {
            // No such group: the worker had not made it yet. Only zombies in it: nothing to end.
            Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => {}
            Err(error) => log::warn!("what the plugin started cannot be killed: {error}"),
        }
    }

    fn reap(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => {
                // Nobody here has killed it.
                let suspicion = match status.signal() == Some(Signal::KILL.as_raw()) {
                    true => self.kills.suspicion(),
                    false => "",
                };
                format!("the worker {}{suspicion}", ending(status))
            }
            Err(error) => format!("the worker is lost: {}", refusal::words(&error)),
        }
    }
}

/// How a process ended, in words: `was killed by SIGSEGV`, `exited with status 3`.
#[must_use]
pub fn ending(status: ExitStatus) -> String {
    if let Some(signal) = status.signal() {
        let name = signal_hook::low_level::signal_name(signal)
            .map_or_else(|| format!("signal {signal}"), str::to_owned);
        let dumped = if status.core_dumped() {
            " (core dumped)"
        } else {
            ""
        };
        return format!("was killed by {name}{dumped}");
    }
    format!("exited with status {}", status.code().unwrap_or_default())
}

/// The status that a shell would show for a process that ended like this.
pub(super) fn shell_status(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_in_words() {
        assert_eq!(ending(ExitStatus::from_raw(11)), "was killed by SIGSEGV");
        assert_eq!(
            ending(ExitStatus::from_raw(6 | 0x80)),
            "was killed by SIGABRT (core dumped)"
        );
        assert_eq!(ending(ExitStatus::from_raw(3 << 8)), "exited with status 3");
        assert_eq!(ending(ExitStatus::from_raw(40)), "was killed by signal 40");
    }

    #[test]
    fn the_end_of_a_process_as_a_shell_shows_it() {
        assert_eq!(shell_status(ExitStatus::from_raw(0)), 0);
        assert_eq!(shell_status(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(shell_status(ExitStatus::from_raw(15)), 143);
    }
}
