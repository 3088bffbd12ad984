//! What is decided once the worker has ended: how it ended, what becomes of its disk, and the end of the attachment.

use std::time::Instant;

use log::Level;
use rustix::process::Signal;

use super::{Action, Command, Event, Machine, Outcome, Stage, Waiting};
use crate::Refusal;
use crate::attachment::{FromAgent, FromWorker, Phase, patience};

const TERM: i32 = Signal::TERM.as_raw();

/// What becomes of the attachment's folder at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folder {
    /// There is nothing left that it must tell of.
    Goes,
    /// Something is left.
    Stays,
}

/// A worker that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    /// Whether it has; it is given up otherwise, since it cannot even be killed.
    pub(super) ended: bool,
    /// Whether somebody or something wants the disk to go.
    pub(super) end_wanted: bool,
    /// Whether the agent has killed it.
    pub(super) killed: bool,
}

impl Machine {
    pub(super) fn once_dead(&mut self, event: Event, now: Instant) {
        match (event, &self.stage) {
            (Event::Heard(FromWorker::Shutdown | FromWorker::Signalled), _) => {}
            (Event::Heard(message), Stage::LastWords { .. }) => self.heard(message, now),
            (Event::Published(published), _) => self.published(published, now),
            (Event::Reaped(how), Stage::Reaping { .. }) => self.reaped(&how, now),
            (Event::Fails(fails), Stage::Examining { .. }) => self.examined(fails, now),
            (Event::Removed(result), Stage::Removing { .. }) => self.removed(result),
            (event, _) => self.note_late(event),
        }
        self.goes_by(now);
    }

    /// Go on where what a stage waits for has come, or is waited for no longer.
    fn goes_by(&mut self, now: Instant) {
        match &self.stage {
            // A refusal need not be the last word, see `heard`.
            Stage::LastWords { until, death }
                if *until <= now
                    || self.worker.silent
                    || matches!(self.worker.last_words, Some(FromWorker::Stopped(_))) =>
            {
                let death = *death;
                self.reap(death, now);
            }
            Stage::Deciding { until, death, .. }
                if *until <= now
                    || self.launcher.taken
                    || death.end_wanted
                    || !self.waiting.is_empty() =>
            {
                self.decide(now);
            }
            Stage::Outlasting { what }
                if self.command != Command::Runs || !self.waiting.is_empty() =>
            {
                let what = what.clone();
                self.remove(Err(what), now);
            }
            Stage::Removing { until, .. } if *until <= now => {
                let late = self.refusal("the kernel has not let go of the device yet");
                self.removed(Err(late.hint("`pydisk list` tries again")));
            }
            Stage::Command { ended, folder } => {
                let (ended, folder) = (ended.clone(), *folder);
                self.answer_all(&ended, folder);
                self.come_to_an_end();
            }
            _ => {}
        }
    }

    /// What still counts once the worker has ended.
    fn note_late(&mut self, event: Event) {
        match event {
            Event::Silent => self.worker.silent = true,
            Event::Taken => self.launcher.taken = true,
            Event::Detach {
                client, unstored, ..
            } => {
                self.note_unstored(unstored);
                self.waiting.push(Waiting {
                    client,
                    until: None,
                });
            }
            Event::Stored(unstored) => self.note_unstored(unstored),
            Event::Hangs(place) => self.worker.hung = place,
            Event::CommandEnded(status) => self.command = Command::Ended(status),
            Event::Signal(TERM) if self.command != Command::None => self.end_command(),
            // The terminal sends the others to the command as well, which decides.
            Event::Signal(_) if self.command != Command::None => {}
            Event::Signal(_) => self.want_end(),
            // Nobody knows of the disk.
            Event::LauncherGone if !self.launcher.taken => self.want_end(),
            _ => {}
        }
    }

    /// Somebody or something wants the disk of a dead worker to go.
    pub(super) fn want_end(&mut self) {
        if let Stage::LastWords { death, .. }
        | Stage::Reaping { death, .. }
        | Stage::Examining { death, .. }
        | Stage::Deciding { death, .. } = &mut self.stage
        {
            death.end_wanted = true;
        }
    }

    pub(super) fn hear_last_words(&mut self, death: Death, now: Instant) {
        if !death.ended {
            self.worker.last_words = None;
            self.reap(death, now);
            return;
        }
        let until = now + patience::LAST_WORDS.get();
        self.stage = Stage::LastWords { until, death };
        self.goes_by(now);
    }

    fn reap(&mut self, death: Death, now: Instant) {
        let words = self.worker.last_words.take();
        if words.is_none() {
            // While its number is still its own, that is, before it is waited for.
            self.act(Action::KillGroup);
        }
        self.stage = Stage::Reaping { death, words };
        if death.ended {
            self.act(Action::Reap);
        } else {
            self.reaped("the worker does not end", now);
        }
    }

    /// It is known how the worker ended.
    fn reaped(&mut self, how: &str, now: Instant) {
        let Stage::Reaping { death, words } = &mut self.stage else {
            return;
        };
        let (death, words) = (*death, words.take());
        match words {
            Some(FromWorker::Stopped(told)) => {
                if told.is_none() {
                    self.log(Level::Info, "detached");
                }
                let ended = told.map_or(Ok(()), |told| Err(told.into()));
                self.clear_away(self.terms.other_user, ended, now);
            }
            Some(FromWorker::Refused(told)) => {
                // A plugin that does not answer the first read leaves a device behind.
                let left = self.worker.made || self.terms.other_user;
                self.clear_away(left, Err(told.into()), now);
            }
            _ => self.crashed(death, how, now),
        }
    }

    /// The worker has ended without a word.
    fn crashed(&mut self, death: Death, how: &str, now: Instant) {
        let hung = &self.worker.hung;
        let what = match death.killed {
            true if self.is_read_only() => {
                format!("the plugin did not stop in time and was killed{hung}")
            }
            true if self.worker.made => format!(
                "the plugin did not stop in time and was killed{hung}; what it had not stored is lost"
            ),
            true => "it was stopped before it could be used".to_owned(),
            false => how.to_owned(),
        };
        self.log_failure(&what);
        if self.launcher.told && !death.killed {
            self.state.crash(&what);
            self.act(Action::Save);
        }
        let what = self.refusal(what);
        if self.launcher.told {
            self.stage = Stage::Examining { death, what };
            self.act(Action::Examine);
        } else {
            self.remove(Err(what), now);
        }
    }

    fn examined(&mut self, fails: bool, now: Instant) {
        let Stage::Examining { death, what } = &self.stage else {
            return;
        };
        let (death, what) = (*death, what.clone());
        if fails {
            let until = now + patience::LAST_WORDS.get();
            self.stage = Stage::Deciding { until, death, what };
        } else {
            // Whatever was heard of it: what is not there is no error.
            self.remove(Err(what), now);
        }
    }

    /// The disk of a worker that has died stays as a file that fails, where somebody knows of it and nobody wants it to
    /// go.
    fn decide(&mut self, now: Instant) {
        let Stage::Deciding { death, what, .. } = &self.stage else {
            return;
        };
        let (death, what) = (*death, what.clone());
        if !self.launcher.taken || death.end_wanted || !self.waiting.is_empty() {
            self.remove(Err(what), now);
            return;
        }
        let (name, target) = (&self.terms.name, &self.state.target);
        let hint = format!("`pydisk detach {name}` ends that, or the next attach to this path");
        let line = format!("{target} fails from now on\nhint: {hint}");
        self.log(Level::Warn, line);
        if self.command == Command::None {
            self.finish(Err(what), Folder::Stays);
        } else {
            self.stage = Stage::Outlasting { what };
            self.goes_by(now);
        }
    }

    fn clear_away(&mut self, left: bool, ended: Result<(), Refusal>, now: Instant) {
        if left {
            self.remove(ended, now);
        } else {
            self.finish(ended, Folder::Goes);
        }
    }

    fn remove(&mut self, ended: Result<(), Refusal>, now: Instant) {
        let until = now + patience::LEFTOVER.get();
        self.stage = Stage::Removing { until, ended };
        self.act(Action::RemoveLeftovers);
    }

    /// If that was not possible, the folder stays, so that another command tries again.
    fn removed(&mut self, result: Result<(), Refusal>) {
        let Stage::Removing { ended, .. } = &self.stage else {
            return;
        };
        let ended = ended.clone();
        let Err(refusal) = result else {
            self.finish(ended, Folder::Goes);
            return;
        };
        self.log(Level::Error, refusal.to_string());
        // Nobody wants it to stay: the command that comes next tries again.
        if self.state.phase == Phase::Crashed {
            self.state.phase = Phase::Stopping;
            self.act(Action::Save);
        }
        self.finish(ended, Folder::Stays);
    }

    /// Remove the folder, tell everybody who waits, and say how it ended.
    pub(super) fn finish(&mut self, ended: Result<(), Refusal>, folder: Folder) {
        self.act(Action::UserKnows);
        // The log of a crashed disk stays where its state does.
        let log_stays = folder == Folder::Stays && self.state.phase == Phase::Crashed;
        let all_well = ended.is_ok() && self.unstored.is_empty();
        if self.launcher.told && !log_stays && !all_well {
            self.act(Action::KeepLog);
        }
        if folder == Folder::Goes {
            self.act(Action::RemoveFolder);
        }
        self.answer_all(&ended, folder);
        if self.launcher.told {
            self.stage = Stage::Command { ended, folder };
            self.come_to_an_end();
            return;
        }
        let given_up = self.launcher.given_up.take();
        let refusal = given_up
            .or(ended.err())
            .unwrap_or_else(|| self.refusal("it was stopped before it could be used"));
        let told = FromAgent::Refused(refusal.clone().into());
        self.act(Action::TellLauncher(told));
        self.stage = Stage::Over(Outcome::Refused(refusal));
    }

    /// All is done but for the user's command.
    fn come_to_an_end(&mut self) {
        let Stage::Command { ended, .. } = &self.stage else {
            return;
        };
        let outcome = match (self.with_unstored(ended.clone()), self.command) {
            (_, Command::Runs) => return,
            (Err(refusal), _) => Outcome::Failed(refusal),
            (Ok(()), Command::Ended(status)) => Outcome::Command(status),
            (Ok(()), Command::None) => Outcome::Stopped,
        };
        self.stage = Stage::Over(outcome);
    }
}
