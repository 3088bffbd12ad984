//! The worker as its agent sees it: a child process at the other end of a socket pair.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::oom::Kills;
use super::supervise::Event;
use crate::attachment::{FromWorker, Job, Passing, Process, Receiver, ToWorker, send};

/// A worker that was started and not yet waited for.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    stream: UnixStream,
    /// What the kernel had ended before.
    kills: Kills,
}

impl WorkerProcess {
    /// Start a worker in the folder of this process and hand it the job and what is passed on. What it says and that it
    /// ended arrives as events.
    pub(super) fn start(job: &Job, passing: Passing, events: &Sender<Event>) -> io::Result<Self> {
        let (mine, theirs) = UnixStream::pair()?;
        let mut command = Process::Worker.command()?;
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // What a plugin prints must never get between the lines of `pydisk attach`.
            .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        if let Some(python) = &job.python {
            command.env("PYTHONEXECUTABLE", python);
        }
        // What systemd passed is the server's, not for what the plugin starts.
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            command.env_remove(variable);
        }
        let kills = Kills::now();
        let child = passing.hand_over(|| command.spawn())?;
        let worker = Self {
            child,
            stream: mine,
            kills,
        };
        worker.listen(events)?;
        // A worker that is dead already is reported by the thread that waits for its end.
        if let Err(error) = send(&worker.stream, job) {
            log::debug!("the worker takes no job: {error}");
        }
        Ok(worker)
    }

    fn listen(&self, events: &Sender<Event>) -> io::Result<()> {
        let mut receiver = Receiver::of(&self.stream)?;
        let heard = events.clone();
        thread::Builder::new()
            .name("worker-says".into())
            .spawn(move || {
                while let Some(message) = receiver.receive::<FromWorker>().unwrap_or_else(|error| {
                    log::error!("the worker sent what is no message: {error}");
                    None
                }) {
                    if heard.send(Event::Heard(message)).is_err() {
                        return;
                    }
                }
                // The agent may have ended by now; then nobody needs to know.
                heard.send(Event::Silent).unwrap_or_default();
            })?;
        let pid = self.pid();
        let ended = events.clone();
        thread::Builder::new()
            .name("worker-ends".into())
            .spawn(move || {
                // The process stays a zombie, so that nobody else gets its number before the agent has
                // ended what the plugin left running under it.
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                while matches!(
                    waitid(WaitId::Pid(pid), options),
                    Err(rustix::io::Errno::INTR)
                ) {}
                ended.send(Event::Ended).unwrap_or_default();
            })?;
        Ok(())
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ask the worker to end.
    pub(super) fn stop(&self) {
        if let Err(error) = send(&self.stream, &ToWorker::Stop) {
            log::debug!("the worker cannot be asked to stop: {error}");
        }
    }

    /// End the worker and what its plugin started, unless that went away into a group of its own.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            log::warn!("the worker cannot be killed: {error}");
        }
        self.kill_group();
    }

    /// End what a dead worker's plugin left running: it may hold the device open.
    pub(super) fn kill_group(&self) {
        match kill_process_group(self.pid(), Signal::KILL) {
            // No such group: the worker had not made it yet. Only zombies in it: nothing to end.
            Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => {}
            Err(error) => log::warn!("what the plugin started cannot be killed: {error}"),
        }
    }

    /// How the worker ended. Call it when it has: otherwise this waits.
    pub(super) fn status(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Who may have ended a worker that died like this and that nobody here has killed, as the rest of a sentence.
    pub(super) fn suspicion(&self, status: ExitStatus) -> &'static str {
        if status.signal() == Some(Signal::KILL.as_raw()) {
            return self.kills.suspicion();
        }
        ""
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
