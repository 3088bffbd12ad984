//! What is decided while the worker lives: it starts, serves, and is stopped.

use std::time::{Duration, Instant};

use log::Level;
use rustix::process::Signal;

use super::dead::{Death, Folder};
use super::stopping::{Due, Stopping};
use super::{Action, Command, Event, Machine, Published, Stage, Waiting};
use crate::Refusal;
use crate::attachment::{Answer, FromAgent, FromWorker, Phase, Served, Step, patience};

impl Machine {
    pub(super) fn while_alive(&mut self, event: Event, now: Instant) {
        match event {
            Event::Tick => self.deadlines(now),
            Event::NotStarted(refusal) => self.finish(Err(refusal), Folder::Goes),
            Event::Started(pid) => {
                self.state.worker_pid = Some(pid);
                self.act(Action::Save);
            }
            Event::Heard(message) => self.heard(message, now),
            Event::Silent => self.worker.silent = true,
            Event::Ended => self.died(true, now),
            Event::Published(published) => self.published(published, now),
            Event::Taken => self.launcher.taken = true,
            Event::LauncherGone if self.launcher.taken => {}
            Event::LauncherGone => {
                self.log(Level::Debug, "the launcher is gone");
                self.stop(Some(patience::SIGNAL.get()), now);
            }
            Event::Signal(signal) => self.signalled(signal, now),
            Event::Detach {
                client,
                force,
                unstored,
            } => {
                self.note_unstored(unstored);
                let until = (!force).then(|| now + patience::DETACH.get());
                let (end_wanted, told) = match &self.stage {
                    Stage::Stopping(stopping) => (true, stopping.told),
                    _ => (false, false),
                };
                if end_wanted {
                    self.act(Action::Answer(client, Answer::Doing(self.worker.step)));
                }
                self.waiting.push(Waiting { client, until });
                // What lies on the disk is stored first, where that has begun.
                if force || !end_wanted || told {
                    self.stop(force.then(|| patience::FORCE.get()), now);
                }
            }
            Event::Stored(unstored) => {
                self.note_unstored(unstored);
                self.stop(None, now);
            }
            Event::Hangs(place) => self.worker.hung = place,
            Event::CommandEnded(status) => {
                self.command = Command::Ended(status);
                self.release();
            }
            // Answers to what is asked about dead workers only.
            Event::Reaped(_) | Event::Fails(_) | Event::Removed(_) => {}
        }
    }

    /// Whether somebody or something wants the disk to go.
    pub(super) fn end_wanted(&self) -> bool {
        match &self.stage {
            Stage::Starting | Stage::Serving => false,
            Stage::LastWords { death, .. }
            | Stage::Reaping { death, .. }
            | Stage::Examining { death, .. }
            | Stage::Deciding { death, .. } => death.end_wanted,
            _ => true,
        }
    }

    pub(super) fn heard(&mut self, message: FromWorker, now: Instant) {
        match message {
            FromWorker::Doing(step) => self.goes_on(step),
            FromWorker::Starting => self.worker.made = true,
            FromWorker::Ready(served) => self.ready(&served, now),
            FromWorker::Shutdown => self.wants_to_end("the plugin has called nbdkit.shutdown", now),
            FromWorker::Signalled => {
                self.wants_to_end("the worker was told to end by SIGTERM", now)
            }
            // A process that the plugin forked may say what its parent would if it failed here.
            FromWorker::Refused(_) if self.state.disk.is_some() => {
                let line = "the worker refuses a disk that could be used: ignored";
                self.log(Level::Debug, line);
            }
            FromWorker::Stopped(_) if self.state.disk.is_none() => {
                let line = "the worker stops a disk that could not be used: ignored";
                self.log(Level::Debug, line);
            }
            FromWorker::Refused(_) | FromWorker::Stopped(_) => {
                self.worker.last_words = Some(message);
            }
        }
    }

    /// Tell everybody who waits. A life goes forward: a worker that says this again and again must not keep the agent
    /// busy, nor waiting for somebody who does not listen.
    fn goes_on(&mut self, step: Step) {
        if step <= self.worker.step {
            return;
        }
        self.worker.step = step;
        self.act(Action::TellUser(step));
        let clients: Vec<_> = self.waiting.iter().map(|waiting| waiting.client).collect();
        for client in clients {
            self.act(Action::Answer(client, Answer::Doing(step)));
        }
        if !self.launcher.told {
            self.act(Action::TellLauncher(FromAgent::Doing(step)));
        }
    }

    fn ready(&mut self, served: &Served, now: Instant) {
        if self.state.disk.is_some() {
            let line = "the worker says once more that its disk can be used: ignored";
            self.log(Level::Warn, line);
            return;
        }
        // A server's endpoint is told to the user's command.
        let asked_for = self.state.target.front_end();
        if !asked_for.may_be_at(&self.terms.folder, &served.at) {
            let what = format!(
                "the worker says that it serves `{}`, which is not what it was asked for",
                served.at
            );
            self.launcher.given_up = Some(self.refusal(what));
            self.stop(Some(patience::SIGNAL.get()), now);
            return;
        }
        // Whoever refused it was not the worker.
        self.worker.last_words = None;
        self.state.disk = Some(served.clone());
        if self.end_wanted() {
            return;
        }
        self.state.phase = Phase::Attached;
        self.worker.step = Step::Users;
        self.act(Action::UserKnows);
        self.act(Action::Publish(served.clone()));
        if matches!(self.stage, Stage::Starting) {
            self.stage = Stage::Serving;
        }
    }

    pub(super) fn published(&mut self, published: Published, now: Instant) {
        if published.command {
            self.command = Command::Runs;
        }
        self.launcher.taken |= published.taken;
        match published.result {
            Ok(()) => {
                self.launcher.told = true;
                if let Some(disk) = &self.state.disk {
                    let line = format!("attached as {}", disk.at);
                    self.log(Level::Info, line);
                }
            }
            Err(refusal) => {
                self.launcher.given_up = Some(refusal);
                self.stop(Some(patience::SIGNAL.get()), now);
            }
        }
    }

    fn wants_to_end(&mut self, line: &str, now: Instant) {
        self.log(Level::Info, line);
        self.end_command();
        // Nobody waits for the end, as for that of a process that was signalled. Whoever asks twice must not cut the
        // first time short.
        if !self.end_wanted() {
            self.end(patience::DETACH.get(), now);
        }
    }

    fn signalled(&mut self, signal: i32, now: Instant) {
        if self.command == Command::Runs {
            // The terminal sends the first two to the command as well, which decides.
            if signal != Signal::TERM.as_raw() {
                return;
            }
            self.end_command();
        }
        if signal == Signal::HUP.as_raw() && self.terms.ignores_hangup {
            return;
        }
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("signal");
        self.log(Level::Info, format!("stopped by {name}"));
        let interrupted = signal == Signal::INT.as_raw();
        if interrupted {
            self.tell_interrupt();
        }
        // A user who types it twice is in a hurry; a script that repeats its signal until the process is gone must not
        // cost the plugin what it is about to store.
        let typed = interrupted || signal == Signal::QUIT.as_raw();
        let patience = match typed && self.end_wanted() {
            true => patience::SIGNAL.get(),
            false => self.terms.patience,
        };
        self.end(patience, now);
    }

    /// Tell the user who typed it what comes of it.
    fn tell_interrupt(&mut self) {
        let line = if !self.worker.made {
            format!(
                "{} is not waited for: nothing is attached",
                self.worker.step
            )
        } else {
            let patience = match self.end_wanted() {
                true => patience::SIGNAL.get(),
                false => self.terms.patience,
            };
            format!("the plugin has {} s to flush and close", patience.as_secs())
        };
        self.log(Level::Info, line);
    }

    /// Store what lies on the disk, for half of `patience`, and stop the worker, which is killed when it takes longer
    /// than that after it.
    fn end(&mut self, patience: Duration, now: Instant) {
        let disk = self.state.disk.clone();
        let device = disk.filter(|disk| disk.at.device().is_some());
        let storing = device.as_ref().map_or(Duration::ZERO, |_| patience / 2);
        if let Stage::Stopping(stopping) = &mut self.stage {
            // What is being stored, or has begun to stop, goes on, and no longer than this.
            let tell_at = now + storing;
            stopping.tell_at.get_or_insert(tell_at);
            stopping.hurry(tell_at + patience);
            return;
        }
        let Some(disk) = device else {
            self.stop(Some(patience), now);
            return;
        };
        let kill_at = now + storing + patience;
        self.stage = Stage::Stopping(Stopping::new(Some(kill_at)));
        self.act(Action::Store(disk, storing));
    }

    /// The user's command has ended: let go of the disk, also if something still uses it.
    fn release(&mut self) {
        if !self.end_wanted() {
            self.stage = Stage::Stopping(Stopping::new(None));
            self.act(Action::Release);
        }
    }

    /// Tell the worker to stop, once, and kill it after `patience`, if one is given. A worker that has ended is only to
    /// be removed.
    pub(super) fn stop(&mut self, patience: Option<Duration>, now: Instant) {
        if matches!(self.stage, Stage::Starting | Stage::Serving) {
            self.stage = Stage::Stopping(Stopping::new(None));
        }
        let Stage::Stopping(stopping) = &mut self.stage else {
            self.want_end();
            return;
        };
        if let Some(patience) = patience {
            stopping.hurry(now + patience);
        }
        if stopping.told {
            return;
        }
        stopping.told = true;
        if self.worker.made {
            self.act(Action::TellUserOfEnd);
            self.act(Action::StopWorker);
        } else {
            // Its only thread is busy with the plugin, and there is nothing to flush yet.
            stopping.killed_at = Some(now);
            self.act(Action::KillWorker);
            self.act(Action::UserKnows);
        }
        self.state.phase = Phase::Stopping;
        self.act(Action::Save);
    }

    /// Do what is due.
    fn deadlines(&mut self, now: Instant) {
        let due = match &self.stage {
            Stage::Stopping(stopping) => stopping.due(now),
            _ => None,
        };
        match due {
            Some(Due::Tell) => {
                let why = "not all that lies on it was stored before a second signal";
                let refusal = self.refusal(why);
                self.note_unstored(vec![refusal]);
                self.stop(None, now);
            }
            Some(Due::Ask) => {
                self.stopping(|stopping| stopping.asked = true);
                self.act(Action::Locate);
            }
            Some(Due::Kill) => {
                let line = "the plugin did not stop in time: its worker is killed";
                self.log(Level::Warn, line);
                self.stopping(|stopping| stopping.killed_at = Some(now));
                self.act(Action::KillWorker);
            }
            Some(Due::GiveUp) => {
                let line = "the worker was killed and does not end: it waits in the kernel";
                self.log(Level::Error, line);
                self.died(false, now);
            }
            None => {}
        }
        self.give_up_on_the_slow(now);
    }

    fn stopping(&mut self, change: impl FnOnce(&mut Stopping)) {
        if let Stage::Stopping(stopping) = &mut self.stage {
            change(stopping);
        }
    }

    /// Answer the clients that have waited long enough.
    fn give_up_on_the_slow(&mut self, now: Instant) {
        let name = &self.terms.name;
        let seconds = patience::DETACH.get().as_secs();
        let refusal = Refusal::new(format!(
            "{name}: the plugin has not finished after {seconds} s; it goes on stopping"
        ))
        .hint(format!(
            "`pydisk detach --force {name}` ends it, whatever it has not stored yet"
        ));
        let late = self.waiting.extract_if(.., |waiting| {
            waiting.until.is_some_and(|until| until <= now)
        });
        for waiting in late.collect::<Vec<_>>() {
            let answer = Answer::Refused(refusal.clone().into());
            self.act(Action::Answer(waiting.client, answer));
        }
    }

    /// The worker has ended, or is given up unless `ended`.
    fn died(&mut self, ended: bool, now: Instant) {
        let killed = match &self.stage {
            Stage::Stopping(stopping) => stopping.killed_at.is_some(),
            _ => false,
        };
        let death = Death {
            ended,
            end_wanted: self.end_wanted(),
            killed,
        };
        self.hear_last_words(death, now);
    }
}
