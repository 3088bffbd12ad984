//! `pydisk detach`: remove a device, by its agent or without.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::list::{self, Entry};
use super::{Failure, complain};
use crate::agent::{self, Answer, Ask, Folder, Root};
use crate::{Refusal, logging};

/// How long an agent may take to answer, beyond what it gives the plugin: looking for users, syncing,
/// and removing what is left.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// How long the folder of an attachment whose agent ended meanwhile may take to go.
const GONE_PATIENCE: Duration = Duration::from_secs(6);

pub(super) fn detach(which: &[String], all: bool, force: bool) -> Result<ExitCode, Failure> {
    let found: Vec<Result<Entry, Refusal>> = if all {
        list::entries()?.into_iter().map(Ok).collect()
    } else {
        which
            .iter()
            .map(|which| list::find(list::entries()?, which))
            .collect()
    };
    let mut code = ExitCode::SUCCESS;
    for entry in found {
        let done = entry.and_then(|entry| one(&entry.folder, force));
        if let Err(refusal) = done {
            complain(&refusal);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// How long the user waits without a word.
const SILENCE: Duration = Duration::from_secs(3);

fn one(folder: &Folder, force: bool) -> Result<(), Refusal> {
    let name = folder.name();
    let patience = if force {
        ANSWER_PATIENCE
    } else {
        agent::DETACH_PATIENCE + ANSWER_PATIENCE
    };
    // A plugin may flush for long, or hang: the user learns what is waited for.
    let (done, waiting) = mpsc::channel::<()>();
    if !force {
        let name = name.clone();
        thread::spawn(move || {
            if waiting.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                logging::say(&format!(
                    "pydisk: {name}: waiting for the plugin to flush and close; `pydisk detach \
                     --force {name}` does not wait\n"
                ));
            }
        });
    }
    let answer = agent::ask(folder, Ask::Detach { force }, patience);
    drop(done);
    match answer {
        Ok(Answer::Done(None)) => Ok(()),
        Ok(Answer::Done(Some(told))) => {
            logging::say(&format!("pydisk: {}\n", Refusal::from(told)));
            Ok(())
        }
        Ok(Answer::Refused(told)) => Err(told.into()),
        // It ended while it was asked: by a signal, or because somebody else detached.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => gone(folder, force),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && !force => {
            Err(Refusal::new(format!("{name}: its agent does not answer"))
                .hint(format!("`pydisk detach --force {name}` ends it")))
        }
        // There is none, or it does not answer.
        Err(error) => {
            log::debug!("{name}: agent: {error}");
            without_agent(folder, force)
        }
    }
}

fn without_agent(folder: &Folder, force: bool) -> Result<(), Refusal> {
    agent::detach_without_agent(folder, force)?;
    gone(folder, force)
}

/// Wait until the folder is gone, and help where nobody else is left to.
fn gone(folder: &Folder, force: bool) -> Result<(), Refusal> {
    let roots = Root::all()?;
    let patience = Instant::now() + GONE_PATIENCE;
    loop {
        roots.iter().try_for_each(agent::sweep)?;
        if !folder.path().exists() {
            return Ok(());
        }
        if Instant::now() >= patience {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let refusal = Refusal::new(format!("{}: it is not gone yet", folder.name()));
    Err(if force {
        refusal
    } else {
        refusal.hint("try again, or use --force")
    })
}
