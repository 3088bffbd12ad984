//! What an agent decides: one attachment from the start of its worker to the end, as a state machine.
//!
//! [`Machine::step`] takes what happened and gives what is to be done about it. It starts no process, opens no file and
//! reads no clock, so each path through an attachment's life can be tried without any of them; the tables in
//! `tests.rs` do. [`super::runtime`] makes the events and carries the actions out.
//!
//! ```text
//! Starting -> Serving -> Stopping -> LastWords -> Reaping -> Removing -> Command -> Over
//!     |          |                      ^            |          ^
//!     +----------+----------------------+            v          |
//!                                       Examining -> Deciding -> Outlasting
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use log::Level;

use crate::Refusal;
use crate::attachment::{Answer, FromAgent, FromWorker, Job, Served, State, Step};
use crate::logging::Sink;

mod alive;
mod answers;
mod dead;
mod stopping;
#[cfg(test)]
mod tests;

use dead::{Death, Folder};
use stopping::Stopping;

/// How an attachment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Somebody at the control socket who waits for an answer, by number.
pub(super) type Client = u64;

/// What can happen to an attachment.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A deadline has passed.
    Tick,
    /// The worker cannot be started.
    NotStarted(Refusal),
    /// The worker runs; its process number.
    Started(u32),
    /// The worker said something.
    Heard(FromWorker),
    /// The worker will say no more.
    Silent,
    /// The worker has ended, and was not waited for.
    Ended,
    /// How it ended, as a sentence: the answer to [`Action::Reap`].
    Reaped(String),
    /// The answer to [`Action::Publish`].
    Published(Published),
    /// The launcher has passed the device path on.
    Taken,
    /// The launcher has ended.
    LauncherGone,
    /// A signal to the agent.
    Signal(i32),
    /// Somebody asks for the device to be removed; nobody uses it, or that does not matter.
    Detach {
        /// Where the answer goes.
        client: Client,
        /// Whether the worker is killed if it does not stop soon.
        force: bool,
        /// What its users have written and could not be stored.
        unstored: Vec<Refusal>,
    },
    /// What had to be done before the worker is stopped has been done; what could not be stored. The answer to
    /// [`Action::Store`] and [`Action::Release`].
    Stored(Vec<Refusal>),
    /// Where the worker is that is to be killed, as it goes on in a sentence: the answer to [`Action::Locate`].
    Hangs(String),
    /// The user's command has ended; its exit status.
    CommandEnded(u8),
    /// Whether a dead worker's disk is still there and fails: the answer to [`Action::Examine`].
    Fails(bool),
    /// What a dead worker left has been removed, or not: the answer to [`Action::RemoveLeftovers`].
    Removed(Result<(), Refusal>),
}

/// What became of telling somebody of the disk.
#[derive(Clone, Debug)]
pub(super) struct Published {
    /// Whether it is certain by now that somebody knows of the disk.
    pub(super) taken: bool,
    /// Whether the user's command was started.
    pub(super) command: bool,
    /// What did not work, if anything.
    pub(super) result: Result<(), Refusal>,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Log a line.
    Log(Level, String),
    /// Write [`Machine::state`] to the attachment's folder.
    Save,
    /// Save, tell the launcher that the disk can be used, and run the user's command. [`Event::Published`] follows.
    Publish(Served),
    /// Tell the launcher something else.
    TellLauncher(FromAgent),
    /// Tell the user in the foreground what is waited for from here on.
    TellUser(Step),
    /// Tell the user in the foreground that the end has begun.
    TellUserOfEnd,
    /// Tell the user nothing more.
    UserKnows,
    /// Answer a client. Unless more is announced, it hears nothing after this.
    Answer(Client, Answer),
    /// Ask the worker to end.
    StopWorker,
    /// End the worker and what its plugin started.
    KillWorker,
    /// End what a dead worker's plugin left running.
    KillGroup,
    /// Wait for the worker, which has ended. [`Event::Reaped`] follows.
    Reap,
    /// Find out where the worker is. [`Event::Hangs`] follows, or nothing.
    Locate,
    /// Store what lies on the disk, for so long. [`Event::Stored`] follows.
    Store(Served, Duration),
    /// See whether somebody uses the disk, and store what lies on it. [`Event::Stored`] follows.
    Release,
    /// Tell the user's command to end.
    EndCommand,
    /// See what a dead worker left. [`Event::Fails`] follows.
    Examine,
    /// Remove what a dead worker left. [`Event::Removed`] follows.
    RemoveLeftovers,
    /// Keep the log although the folder goes.
    KeepLog,
    /// Remove the attachment's folder.
    RemoveFolder,
}

/// What the job says, as far as anything is decided by it.
#[derive(Clone, Debug)]
struct Terms {
    name: String,
    folder: PathBuf,
    /// The user waits for the end, and sees what is logged.
    watched: bool,
    /// A terminal that is closed is no reason to end.
    ignores_hangup: bool,
    /// How long the worker may take to stop once a signal has come.
    patience: Duration,
    /// The worker becomes another user, and may have no right to remove its socket any more.
    other_user: bool,
}

impl Terms {
    fn of(job: &Job) -> Self {
        Self {
            name: job.name.clone(),
            folder: job.folder.clone(),
            watched: job.conduct.foreground && job.logging.sink == Sink::StandardError,
            ignores_hangup: job.conduct.ignores_hangup,
            patience: job.conduct.patience,
            other_user: job.conduct.user.is_some(),
        }
    }
}

/// Where an attachment is in its life. What others are told of it is [`State::phase`].
#[derive(Debug)]
enum Stage {
    /// The worker loads the plugin and makes the disk.
    Starting,
    /// The disk can be used.
    Serving,
    /// The worker has been told to stop, or is about to be.
    Stopping(Stopping),
    /// The worker has ended, or cannot even be killed. Its last words may still be on their way.
    LastWords {
        /// How long they are waited for.
        until: Instant,
        death: Death,
    },
    /// It is found out how the worker ended.
    Reaping {
        death: Death,
        words: Option<FromWorker>,
    },
    /// It is found out whether the disk of a worker that died is there and fails.
    Examining { death: Death, what: Refusal },
    /// It is, and whether it shall stay depends on whether somebody was told of it.
    Deciding {
        /// A launcher that was told passes that on at once.
        until: Instant,
        death: Death,
        what: Refusal,
    },
    /// It stays until the user's command has ended, or somebody wants it to go.
    Outlasting { what: Refusal },
    /// What the worker left is being removed.
    Removing {
        /// How long that is waited for: the kernel may take as long as it likes.
        until: Instant,
        ended: Result<(), Refusal>,
    },
    /// All is done but the user's command, which may take its time to notice that its disk is gone.
    Command {
        ended: Result<(), Refusal>,
        folder: Folder,
    },
    /// Nothing is left to do.
    Over(Outcome),
}

/// What the worker has said. It runs the plugin's code, which may have fewer rights than the agent (`-u`) and can write
/// to the same socket: nothing goes by the worker's word where the job says it as well.
#[derive(Debug)]
struct Worker {
    /// What it was last heard to do.
    step: Step,
    /// Whether its front end may have made something that outlives it.
    made: bool,
    last_words: Option<FromWorker>,
    /// Whether it will say no more.
    silent: bool,
    /// Where it was when it had to be killed, as it goes on in a sentence.
    hung: String,
}

/// What the launcher knows.
#[derive(Debug, Default)]
struct Launcher {
    /// Whether it has been told that the disk can be used.
    told: bool,
    /// Whether it has passed that on, so that somebody knows of the disk.
    taken: bool,
    /// Why it is not told of a disk that could be used.
    given_up: Option<Refusal>,
}

/// The user's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    None,
    Runs,
    Ended(u8),
}

/// A client that waits for the end.
#[derive(Debug)]
struct Waiting {
    client: Client,
    /// How long it waits; none waits for what comes of it by force.
    until: Option<Instant>,
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Machine {
    terms: Terms,
    state: State,
    stage: Stage,
    worker: Worker,
    launcher: Launcher,
    command: Command,
    waiting: Vec<Waiting>,
    /// What the disk's users have written and could not be stored.
    unstored: Vec<Refusal>,
    /// What this step has decided.
    actions: Vec<Action>,
}

impl Machine {
    /// An attachment whose worker is about to be started.
    pub(super) fn new(job: &Job, state: State) -> Self {
        Self {
            terms: Terms::of(job),
            state,
            stage: Stage::Starting,
            worker: Worker {
                step: Step::Load,
                made: false,
                last_words: None,
                silent: false,
                hung: String::new(),
            },
            launcher: Launcher::default(),
            command: Command::None,
            waiting: Vec::new(),
            unstored: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// What others may know of the attachment now.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// How it ended, once there is nothing left to do.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        match &self.stage {
            Stage::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Starting | Stage::Serving => self.first_to_give_up(),
            Stage::Stopping(stopping) => {
                let both = [stopping.deadline(), self.first_to_give_up()];
                both.into_iter().flatten().min()
            }
            Stage::LastWords { until, .. }
            | Stage::Deciding { until, .. }
            | Stage::Removing { until, .. } => Some(*until),
            Stage::Reaping { .. }
            | Stage::Examining { .. }
            | Stage::Outlasting { .. }
            | Stage::Command { .. }
            | Stage::Over(_) => None,
        }
    }

    fn first_to_give_up(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .filter_map(|waiting| waiting.until)
            .min()
    }

    /// What is to be done, in this order, because this has happened `now`.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match &self.stage {
            Stage::Starting | Stage::Serving | Stage::Stopping(_) => self.while_alive(event, now),
            _ => self.once_dead(event, now),
        }
        std::mem::take(&mut self.actions)
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn log(&mut self, level: Level, line: impl Into<String>) {
        self.act(Action::Log(level, line.into()));
    }

    /// A sentence about this attachment.
    fn refusal(&self, what: impl std::fmt::Display) -> Refusal {
        Refusal::about(&self.terms.name, what)
    }

    /// Log what went wrong, unless the launcher or this process says it to the user.
    fn log_failure(&mut self, what: &impl std::fmt::Display) {
        if self.launcher.told && !self.terms.watched {
            self.log(Level::Error, what.to_string());
        }
    }

    fn note_unstored(&mut self, unstored: Vec<Refusal>) {
        for refusal in unstored {
            // Two may have tried.
            if !self.unstored.contains(&refusal) {
                self.log_failure(&refusal);
                self.unstored.push(refusal);
            }
        }
    }

    /// The user's command decides when it ends; a signal that it has not had itself is passed on.
    fn end_command(&mut self) {
        if self.command == Command::Runs {
            self.act(Action::EndCommand);
        }
    }

    fn is_read_only(&self) -> bool {
        let disk = self.state.disk.as_ref();
        disk.is_some_and(|disk| disk.read_only == Some(true))
    }
}
