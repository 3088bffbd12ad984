//! What the worker says, and what follows from it.
//!
//! The worker runs the plugin's code, which may have fewer rights than the agent (`-u`) and can write
//! to the same socket. So nothing here goes by the worker's word where the job says it as well.

use super::{Agent, Launcher, answer};
use crate::agent::command;
use crate::agent::worker_process::WorkerProcess;
use crate::attachment::{Answer, FromAgent, FromWorker, Phase, Served, Step, patience, send};
use crate::{Refusal, logging};

impl Agent {
    pub(super) fn heard(&mut self, message: FromWorker, worker: &mut WorkerProcess) {
        match message {
            FromWorker::Doing(step) => self.goes_on(step),
            FromWorker::Starting => self.device_made = true,
            FromWorker::Ready(served) => self.ready(&served, worker),
            FromWorker::Shutdown | FromWorker::Signalled => {
                log::info!(
                    "{}",
                    match message {
                        FromWorker::Shutdown => "the plugin has called nbdkit.shutdown",
                        _ => "the worker was told to end by SIGTERM",
                    }
                );
                if let Some(command) = self.command
                    && self.command_status.is_none()
                {
                    command::end(command);
                }
                // Nobody waits for the end, as for that of a process that was signalled. Whoever asks
                // twice must not cut the first time short.
                if self.stopping.is_none() {
                    self.end(worker, patience::DETACH.get());
                }
            }
            // A process that the plugin forked may say what its parent would if it failed here.
            FromWorker::Refused(_) if self.state.disk.is_some() => {
                log::debug!("the worker refuses a disk that could be used: ignored");
            }
            FromWorker::Stopped(_) if self.state.disk.is_none() => {
                log::debug!("the worker stops a disk that could not be used: ignored");
            }
            FromWorker::Refused(_) | FromWorker::Stopped(_) => self.last_words = Some(message),
        }
    }

    /// Tell everybody who waits. A life goes forward: a worker that says this again and again must not keep the agent
    /// busy, nor waiting for somebody who does not listen.
    fn goes_on(&mut self, step: Step) {
        if step <= self.step {
            return;
        }
        self.step = step;
        if let Some(progress) = &self.progress {
            progress.goes_on(step);
        }
        for waiting in &self.waiting {
            answer(&waiting.stream, &Answer::Doing(step));
        }
        if !self.told
            && let Launcher::Process(stream) = &self.launcher
            && let Err(error) = send(stream, &FromAgent::Doing(step))
        {
            log::debug!("the launcher is gone: {error}");
        }
    }

    fn ready(&mut self, served: &Served, worker: &mut WorkerProcess) {
        if self.state.disk.is_some() {
            log::warn!("the worker says once more that its disk can be used: ignored");
            return;
        }
        // A server's endpoint is told to the user's command.
        let asked_for = self.job.target.front_end();
        if !asked_for.may_be_at(self.folder.path(), &served.at) {
            self.given_up = Some(Refusal::new(format!(
                "{}: the worker says that it serves `{}`, which is not what it was asked for",
                self.job.name, served.at
            )));
            self.stop(worker, Some(patience::SIGNAL.get()));
            return;
        }
        // Whoever refused it was not the worker.
        self.last_words = None;
        self.state.disk = Some(served.clone());
        if self.stopping.is_some() {
            return;
        }
        self.state.phase = Phase::Attached;
        self.progress = None;
        self.step = Step::Users;
        match self.tell_launcher(served) {
            Ok(()) => {
                self.told = true;
                log::info!("attached as {}", served.at);
            }
            Err(error) => {
                self.given_up = Some(Refusal::new(format!("{}: {error}", self.job.name)));
                self.stop(worker, Some(patience::SIGNAL.get()));
            }
        }
    }

    fn tell_launcher(&mut self, served: &Served) -> std::io::Result<()> {
        self.save()?;
        let log = self.job.logging.open(&self.folder.log())?;
        self.job.conduct.write_pid_file()?;
        match &self.launcher {
            Launcher::Process(stream) => {
                self.log_to(log)?;
                send(stream, &FromAgent::Ready(served.clone()))?;
            }
            Launcher::Myself { command, tell } => {
                tell(served);
                self.taken = true;
                if let Some(command) = command {
                    let command = command::run(command, &self.job, served, &self.sender)?;
                    self.command = Some(command);
                }
                self.log_to(log)?;
            }
        }
        Ok(())
    }

    fn log_to(&self, log: logging::Opened) -> std::io::Result<()> {
        log.take_over()?;
        if let Err(error) = logging::watch(&self.folder.log()) {
            log::debug!("the log is not watched: {error}");
        }
        Ok(())
    }
}
