//! The end of an attachment: what the dead worker left behind is removed, everybody who waits is
//! told, and the folder goes.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGTERM;

use super::{Agent, Event, Launcher, Stopping, Waiting, answer};
use crate::Refusal;
use crate::agent::command;
use crate::agent::leftovers;
use crate::agent::worker_process::{WorkerProcess, ending};
use crate::attachment::{Answer, FromAgent, FromWorker, Phase, Told, keep_log, patience, send};

/// How an attachment ended.
#[derive(Debug)]
pub enum Outcome {
    /// As it should.
    Stopped,
    /// It never was attached.
    Refused(Refusal),
    /// The device is gone, but not as it should; what was wrong.
    Failed(Refusal),
    /// As it should, with the exit status of the user's command.
    Command(u8),
}

impl Agent {
    /// The worker has ended (or is given up, unless `dead`): find out how, and remove what it left
    /// behind.
    pub(super) fn bury(&mut self, worker: &mut WorkerProcess, dead: bool) -> Result<(), Refusal> {
        if dead {
            self.hear_last_words(worker);
        }
        let words = self.last_words.take().filter(|_| dead);
        if !matches!(words, Some(FromWorker::Stopped(_) | FromWorker::Refused(_))) {
            // While its number is still its own, that is, before it is waited for.
            worker.kill_group();
        }
        let status = dead.then(|| worker.status());
        match words {
            Some(FromWorker::Stopped(told)) => {
                if self.became_another_user() {
                    self.clean_up();
                }
                if let Some(told) = told {
                    return Err(told.into());
                }
                log::info!("detached");
                return Ok(());
            }
            Some(FromWorker::Refused(told)) => {
                // A plugin that does not answer the first read leaves a device behind.
                if self.device_made || self.became_another_user() {
                    self.clean_up();
                }
                return Err(told.into());
            }
            _ => {}
        }
        let killed = self
            .stopping
            .as_ref()
            .is_some_and(|stopping| stopping.killed_at.is_some());
        let hung = &self.hung;
        let what = match status {
            _ if killed && self.is_read_only() => {
                format!("the plugin did not stop in time and was killed{hung}")
            }
            _ if killed && self.device_made => format!(
                "the plugin did not stop in time and was killed{hung}; what it had not stored is lost"
            ),
            _ if killed => "it was stopped before it could be used".to_owned(),
            Some(Ok(status)) => {
                format!("the worker {}{}", ending(status), worker.suspicion(status))
            }
            Some(Err(error)) => format!("the worker is lost: {error}"),
            None => "the worker does not end".to_owned(),
        };
        self.log_failure(&what);
        if self.told && !killed {
            self.state.crash(&what);
            if let Err(error) = self.save() {
                log::warn!("state of the attachment: {error}");
            }
        }
        let what = Refusal::new(format!("{}: {what}", self.job.name));
        if !self.fails_from_now_on() {
            // Whatever was heard of it: what is not there is no error.
            self.clean_up();
            return Err(what);
        }
        let name = &self.job.name;
        let hint = format!("`pydisk detach {name}` ends that, or the next attach to this path");
        log::warn!("{} fails from now on\nhint: {hint}", self.job.target);
        if self.command.is_some() {
            self.outlast_command();
            self.clean_up();
        } else {
            self.keep_folder = true;
        }
        Err(what)
    }

    /// Whether the disk of a worker that has died stays as a file that fails: somebody knows of it, and nobody
    /// wants it to go.
    fn fails_from_now_on(&mut self) -> bool {
        if !self.told || !leftovers::fails(&self.state, &self.folder) {
            return false;
        }
        // A launcher that was told passes that on at once.
        let patience = Instant::now() + patience::LAST_WORDS.get();
        let left = |agent: &Self| {
            let decided = agent.taken || agent.stopping.is_some() || !agent.waiting.is_empty();
            match decided {
                true => Duration::ZERO,
                false => patience.saturating_duration_since(Instant::now()),
            }
        };
        while let Ok(event) = self.events.recv_timeout(left(self)) {
            self.note_late(event);
        }
        self.taken && self.stopping.is_none() && self.waiting.is_empty()
    }

    /// Until the user's command has ended, whose disk fails, or somebody wants the disk to go.
    fn outlast_command(&mut self) {
        while self.command_status.is_none() && self.waiting.is_empty() {
            let event = self.events.recv();
            self.note_late(event.expect("the agent holds a sender"));
        }
    }

    /// What still counts once the worker has ended.
    fn note_late(&mut self, event: Event) {
        match event {
            Event::Silent => self.silent = true,
            Event::Taken => self.taken = true,
            Event::Detach {
                stream, unstored, ..
            } => {
                self.note_unstored(unstored);
                self.waiting.push(Waiting {
                    stream,
                    until: None,
                });
            }
            Event::Stop(unstored) => self.note_unstored(unstored),
            Event::Hangs(place) => self.hung = place,
            Event::CommandEnded(status) => self.command_status = Some(status),
            Event::Signal(signal) if self.command.is_some() => {
                // The terminal sends the others to the command as well, which decides.
                if let Some(command) = self.command
                    && self.command_status.is_none()
                    && signal == SIGTERM
                {
                    command::end(command);
                }
            }
            Event::Signal(_) => {
                self.stopping.get_or_insert_with(|| Stopping::new(None));
            }
            // Nobody knows of the disk.
            Event::LauncherGone if !self.taken => {
                self.stopping.get_or_insert_with(|| Stopping::new(None));
            }
            Event::Heard(_) | Event::Ended | Event::LauncherGone => {}
        }
    }

    fn is_read_only(&self) -> bool {
        let disk = self.state.disk.as_ref();
        disk.is_some_and(|disk| disk.read_only == Some(true))
    }

    /// The worker may have no right to remove its socket any more.
    fn became_another_user(&self) -> bool {
        self.job.conduct.user.is_some()
    }

    /// If that is not possible, the folder stays, so that another command tries again.
    fn clean_up(&mut self) {
        if let Err(refusal) = self.remove_leftovers() {
            log::error!("{refusal}");
            self.keep_folder = true;
            // Nobody wants it to stay: whoever comes next tries again.
            if self.state.phase == Phase::Crashed {
                self.state.phase = Phase::Stopping;
                if let Err(error) = self.save() {
                    log::warn!("state of the attachment: {error}");
                }
            }
        }
    }

    fn hear_last_words(&mut self, worker: &mut WorkerProcess) {
        let patience = Instant::now() + patience::LAST_WORDS.get();
        let left = || patience.saturating_duration_since(Instant::now());
        // A refusal need not be the last word, see `heard`.
        while !self.silent
            && !matches!(self.last_words, Some(FromWorker::Stopped(_)))
            && let Ok(event) = self.events.recv_timeout(left())
        {
            match event {
                // It has ended already.
                Event::Heard(FromWorker::Shutdown | FromWorker::Signalled) => {}
                Event::Heard(message) => self.heard(message, worker),
                event => self.note_late(event),
            }
        }
    }

    /// In a thread, because the kernel may wait for a device as long as it likes.
    fn remove_leftovers(&self) -> Result<(), Refusal> {
        let (done, removed) = channel();
        let (state, folder) = (self.state.clone(), self.folder.clone());
        let started = thread::Builder::new()
            .name("leftovers".into())
            .spawn(move || {
                done.send(leftovers::remove(&state, &folder))
                    .unwrap_or_default();
            });
        if let Err(error) = started {
            return Err(Refusal::new(format!("{}: {error}", self.job.name)));
        }
        removed
            .recv_timeout(patience::LEFTOVER.get())
            .unwrap_or_else(|_late| {
                Err(Refusal::new(format!(
                    "{}: the kernel has not let go of the device yet",
                    self.job.name
                ))
                .hint("`pydisk list` tries again"))
            })
    }

    /// Remove the folder, tell everybody who waits, and say how it ended.
    pub(super) fn finish(mut self, ended: Result<(), Refusal>) -> Outcome {
        self.progress = None;
        // The log of a crashed disk stays where its state does.
        let stays = self.keep_folder && self.state.phase == Phase::Crashed;
        if self.told && !stays && !(ended.is_ok() && self.unstored.is_empty()) {
            keep_log(&self.folder);
        }
        if !self.keep_folder
            && let Err(error) = self.folder.remove(&self.held)
        {
            log::warn!("folder `{}`: {error}", self.folder.path().display());
        }
        for waiting in &self.waiting {
            answer(&waiting.stream, &self.answer_to(waiting, &ended));
        }
        if !self.told {
            let given_up = self.given_up.take();
            let refusal = given_up.or(ended.err()).unwrap_or_else(|| {
                Refusal::new(format!(
                    "{}: it was stopped before it could be used",
                    self.job.name
                ))
            });
            if let Launcher::Process(stream) = &self.launcher
                && let Err(error) = send(stream, &FromAgent::Refused(refusal.clone().into()))
            {
                log::debug!("the launcher is gone: {error}");
            }
            return Outcome::Refused(refusal);
        }
        let command = self.command_end();
        let ended = self.with_unstored(ended);
        match (ended, command) {
            (Err(refusal), _) => Outcome::Failed(refusal),
            (Ok(()), Some(status)) => Outcome::Command(status),
            (Ok(()), None) => Outcome::Stopped,
        }
    }

    /// What somebody is told who wanted the disk to go.
    fn answer_to(&self, waiting: &Waiting, ended: &Result<(), Refusal>) -> Answer {
        let refusal = ended.as_ref().err().cloned();
        let forced = waiting.until.is_none() && !self.keep_folder;
        match refusal {
            Some(refusal) if !forced => {
                let all = self.with_unstored(Err(refusal));
                Answer::Refused(all.expect_err("it was one").into())
            }
            // Nobody knew of the disk, or nobody could write to it.
            Some(refusal) if self.unstored.is_empty() && (!self.told || self.is_read_only()) => {
                Answer::Done(Some(refusal.into()))
            }
            None if self.unstored.is_empty() => Answer::Done(None),
            refusal => {
                let all = self.unstored.iter().cloned().chain(refusal);
                Answer::Unstored(all.map(Told::from).collect())
            }
        }
    }

    /// How it ended, for who is told in one sentence.
    fn with_unstored(&self, ended: Result<(), Refusal>) -> Result<(), Refusal> {
        if self.unstored.is_empty() {
            return ended;
        }
        let all = self.unstored.iter().cloned().chain(ended.err());
        let all: Vec<_> = all.map(|refusal| refusal.to_string()).collect();
        Err(Refusal::new(all.join("\n")))
    }

    /// The exit status of the user's command, which may take its time to notice that its disk is
    /// gone.
    fn command_end(&mut self) -> Option<u8> {
        let command = self.command.take()?;
        while self.command_status.is_none() {
            match self.events.recv() {
                Ok(Event::CommandEnded(status)) => self.command_status = Some(status),
                Ok(Event::Signal(SIGTERM)) => command::end(command),
                Ok(_) => {}
                Err(_) => unreachable!("the agent holds a sender"),
            }
        }
        self.command_status
    }
}
