//! Lives of attachments: what happens, and what is decided about it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::agent::testing::{job, served};
use crate::attachment::{Folder as AttachmentFolder, Phase, Told, patience};
use crate::frontends::Endpoint;

mod ends;
mod random;
mod starts;
mod stops;

const FOLDER: &str = "/run/pydisk/x";
const TERM: i32 = 15;
const INT: i32 = 2;
const HUP: i32 = 1;

/// An attachment, and the time in it.
struct Life {
    machine: Machine,
    now: Instant,
    /// What was logged from `Info` on.
    logged: Vec<String>,
}

/// The disk at a device node.
fn device() -> Served {
    served(Endpoint::Device("/dev/ublkb7".into()))
}

/// The disk of a server that nobody has to store anything for.
fn server() -> Served {
    let socket = "/tmp/x.sock";
    served(Endpoint::Server {
        uri: format!("nbd+unix:///?socket={socket}"),
        unix_socket: Some(socket.into()),
    })
}

fn told(sentence: &str) -> Told {
    Refusal::new(sentence).into()
}

fn detach(client: Client, force: bool) -> Event {
    Event::Detach {
        client,
        force,
        unstored: Vec::new(),
    }
}

fn published() -> Event {
    Event::Published(Published {
        taken: false,
        command: false,
        result: Ok(()),
    })
}

fn heard(message: FromWorker) -> Event {
    Event::Heard(message)
}

fn stopped() -> Event {
    heard(FromWorker::Stopped(None))
}

/// An action in a word or two; nothing where it is a line in the log.
fn word(action: &Action) -> Option<String> {
    let answer = |answer: &Answer| match answer {
        Answer::Doing(step) => format!("waits for {step}"),
        Answer::Done(None) => "done".to_owned(),
        Answer::Done(Some(told)) => format!("done, {}", Refusal::from(told.clone())),
        Answer::Unstored(all) => {
            let all: Vec<_> = all
                .iter()
                .map(|told| Refusal::from(told.clone()).to_string())
                .collect();
            format!("unstored {}", all.join(" and "))
        }
        Answer::Refused(told) => format!("refused {}", Refusal::from(told.clone())),
    };
    Some(match action {
        Action::Log(..) => return None,
        Action::Save => "save".into(),
        Action::Publish(_) => "publish".into(),
        Action::TellLauncher(FromAgent::Refused(told)) => {
            format!("launcher: {}", Refusal::from(told.clone()))
        }
        Action::TellLauncher(FromAgent::Doing(step)) => format!("launcher waits for {step}"),
        Action::TellLauncher(FromAgent::Ready(_)) => "launcher: ready".into(),
        Action::TellUser(step) => format!("user waits for {step}"),
        Action::TellUserOfEnd => "user waits for the end".into(),
        Action::UserKnows => return None,
        Action::Answer(client, given) => format!("{client}: {}", answer(given)),
        Action::StopWorker => "stop".into(),
        Action::KillWorker => "kill".into(),
        Action::KillGroup => "kill group".into(),
        Action::Reap => "reap".into(),
        Action::Locate => "locate".into(),
        Action::Store(_, patience) => format!("store {} ms", patience.as_millis()),
        Action::Release => "release".into(),
        Action::EndCommand => "end command".into(),
        Action::Examine => "examine".into(),
        Action::RemoveLeftovers => "remove leftovers".into(),
        Action::KeepLog => "keep log".into(),
        Action::RemoveFolder => "remove folder".into(),
    })
}

fn state(job: &Job) -> State {
    crate::agent::runtime::first_state(job, &AttachmentFolder::at(FOLDER.into()))
}

impl Life {
    fn of(job: &Job) -> Self {
        let mut life = Self {
            machine: Machine::new(job, state(job)),
            now: Instant::now(),
            logged: Vec::new(),
        };
        assert_eq!(life.on(Event::Started(7)), "save");
        life
    }

    /// Whose disk is to be a device node.
    fn at_device() -> Self {
        Self::of(&job(Path::new(FOLDER), "/dev/ublkb7"))
    }

    /// Whose disk is to be served at a Unix socket.
    fn at_server() -> Self {
        Self::of(&job(Path::new(FOLDER), "nbd+unix:///?socket=/tmp/x.sock"))
    }

    /// The disk can be used, and somebody knows.
    fn serving(mut self, disk: Served) -> Self {
        assert_eq!(self.on(heard(FromWorker::Starting)), "");
        assert_eq!(self.on(heard(FromWorker::Ready(disk))), "publish");
        assert_eq!(self.on(published()), "");
        assert_eq!(self.on(Event::Taken), "");
        assert_eq!(self.machine.state().phase, Phase::Attached);
        self
    }

    /// What is decided, in words.
    fn on(&mut self, event: Event) -> String {
        let actions = self.machine.step(event, self.now);
        for action in &actions {
            if let Action::Log(level, line) = action
                && *level <= Level::Info
            {
                self.logged.push(line.clone());
            }
        }
        let words: Vec<_> = actions.iter().filter_map(word).collect();
        words.join("; ")
    }

    /// What is decided when this much later the deadline has come.
    fn after(&mut self, milliseconds: u64) -> String {
        let at = self.now + Duration::from_millis(milliseconds);
        let deadline = self.machine.deadline();
        assert_eq!(deadline.map(|due| due - self.now), Some(at - self.now));
        self.now = at;
        self.on(Event::Tick)
    }

    /// The worker ends and is waited for, after it has said what it had to say.
    fn worker_ends(&mut self) -> String {
        assert_eq!(self.on(Event::Silent), "");
        self.on(Event::Ended)
    }

    fn outcome(&self) -> String {
        match self.machine.outcome().expect("it is over") {
            Outcome::Stopped => "stopped".into(),
            Outcome::Refused(refusal) => format!("refused: {refusal}"),
            Outcome::Failed(refusal) => format!("failed: {refusal}"),
            Outcome::Command(status) => format!("command {status}"),
        }
    }
}

fn killed() -> Event {
    Event::Reaped("the worker was killed by SIGSEGV".into())
}
