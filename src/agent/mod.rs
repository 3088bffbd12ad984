//! The agent: the small process that starts, watches and stops the worker of one disk, answers on a
//! control socket, and removes what a dead worker leaves behind. It never runs Python.
//!
//! `pydisk attach` starts it with [`launch`] and it goes on in the background, or `pydisk attach`
//! becomes it with [`in_foreground`]. `docs/architecture.md` shows the processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;

mod command;
mod control;
mod inuse;
mod leftovers;
mod loan;
mod lost;
mod machine;
mod oom;
mod runtime;
mod sources;
mod storing;
#[cfg(test)]
mod testing;
mod wire;
mod worker_process;

pub use control::{ask, listens};
pub use loan::{Loan, Recall};
pub use lost::detach as detach_without_agent;
pub use machine::Outcome;
pub use storing::lying_on_each;
pub use worker_process::ending;

use crate::attachment::{
    Folder, FromAgent, Job, Passing, Process, Receiver, Role, Root, Served, Step, ToAgent,
    received, send,
};
use crate::progress::Progress;
use crate::{Refusal, interrupt, logging};
use runtime::Launcher;

/// Remove what attachments left behind that nobody looks after any more. What cannot be removed is
/// logged and tried again next time.
///
/// # Errors
/// One sentence, if the state folder cannot be read.
pub fn sweep(root: &Root) -> Result<(), Refusal> {
    let _tidying = leftovers::tidying();
    for (folder, held) in root.abandoned()? {
        leftovers::sweep(&folder, &held);
    }
    Ok(())
}

/// Remove what a crashed attachment left, if this is one and nobody looks after it; what its users have lost, if
/// they may have lost anything. With `force` what cannot be removed, because it is mounted in another mount
/// namespace, is left there.
///
/// # Errors
/// One sentence; it is still there.
pub fn clear(folder: &Folder, force: bool) -> Result<Option<Refusal>, Refusal> {
    let _tidying = leftovers::tidying();
    match Root::of(folder).claim(folder)? {
        Some(held) => leftovers::clear(folder, &held, force),
        None => Ok(None),
    }
}

/// Start an agent for `job` in the background and wait until the disk can be used. `tell` passes
/// the news on to the user; if this process ends before that is done, the disk is given up. The
/// worker gets the descriptors that the job names.
///
/// # Errors
/// One sentence; nothing is attached then.
pub fn launch(job: &Job, passing: Passing, tell: impl FnOnce(&Served)) -> Result<(), Refusal> {
    let mut launched = Launched::start(passing)?;
    let progress = Arc::new(starting(job));
    let interrupted = {
        let (progress, name) = (Arc::clone(&progress), job.name.clone());
        interrupt::told(move || {
            let step = progress.step();
            format!("pydisk: {name}: interrupted, waiting for {step}: the disk is given up\n")
        })
    };
    let served = launched.served(job, &progress);
    drop(interrupted);
    drop(progress);
    let served = served?;
    tell(&served);
    // Without an agent there is no disk either; `pydisk list` shows what became of it.
    send(&launched.stream, &ToAgent::Taken).map_err(not_started)
}

/// An agent in the background that has not been told yet that somebody knows of its disk: if this is
/// dropped, or the process ends, the disk is given up.
#[derive(Debug)]
struct Launched {
    process: Child,
    stream: UnixStream,
}

/// Tells the user what the start of `job` waits for, where that takes long.
fn starting(job: &Job) -> Progress {
    Progress::told(
        &job.name,
        job.logging.quiet,
        Step::Load,
        "; Ctrl-C gives up",
    )
}

fn not_started(error: io::Error) -> Refusal {
    Refusal::caused("the agent cannot be started", error)
}

impl Launched {
    fn start(passing: Passing) -> Result<Self, Refusal> {
        // The agent lives on: it must not hold what the caller of this process left open.
        if let Err(error) = pydisk_kernel::process::keep_descriptors_from_children() {
            log::debug!("descriptors of the caller may be inherited: {error}");
        }
        let (mine, theirs) = UnixStream::pair().map_err(not_started)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let stderr = stderr.map_err(not_started)?;
        let mut command = Process::Agent.command().map_err(not_started)?;
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(stderr));
        Ok(Self {
            process: passing.hand_over(|| command.spawn()).map_err(not_started)?,
            stream: mine,
        })
    }

    /// Hand over the job and wait until the disk can be used.
    fn served(&mut self, job: &Job, progress: &Progress) -> Result<Served, Refusal> {
        let mut receiver = Receiver::of(&self.stream).map_err(not_started)?;
        let mut answer = send(&self.stream, job).and_then(|()| receiver.receive());
        while let Ok(Some(FromAgent::Doing(step))) = answer {
            progress.goes_on(step);
            answer = receiver.receive();
        }
        match answer {
            Ok(Some(FromAgent::Doing(_))) => unreachable!("see above"),
            Ok(Some(FromAgent::Ready(served))) => Ok(served),
            Ok(Some(FromAgent::Refused(told))) => {
                // It has nothing left to do, and then nothing of this attachment runs any more.
                self.process.wait().map_err(not_started)?;
                Err(told.into())
            }
            Ok(None) => {
                let status = self.process.wait().map_err(not_started)?;
                Err(Refusal::new(format!("the agent {}", ending(status))))
            }
            Err(error) => Err(not_started(error)),
        }
    }
}

/// Be the agent of `job` until the disk is gone. When it can be used, `tell` passes the news on to the user.
/// With `command`, run that then, and let go of the disk when it ends.
#[must_use]
pub fn in_foreground(
    job: Job,
    passing: Passing,
    folder: Folder,
    command: Option<String>,
    tell: Box<dyn Fn(&Served)>,
) -> Outcome {
    job.logging.start(&job.name);
    match folder.hold(Role::Agent) {
        Ok(held) => {
            let launcher = Launcher::Myself { command, tell };
            let start = &mut worker_process::start;
            runtime::run(job, passing, (folder, held), launcher, start)
        }
        Err(error) => Outcome::Refused(Refusal::caused(
            format_args!("folder `{}`", folder.path().display()),
            error,
        )),
    }
}

/// The hidden subcommand: be an agent in the background, for the launcher at standard input.
#[must_use]
pub fn process() -> ExitCode {
    let Some((stream, from, job)) = received::<Job>() else {
        logging::say("pydisk: agent-process is started by `pydisk attach`\n");
        return ExitCode::from(2);
    };
    job.logging.start(&job.name);
    if let Err(error) = rustix::process::setsid() {
        log::debug!("no session of its own: {error}");
    }
    let folder = Folder::at(job.folder.clone());
    let held = match folder.hold(Role::Agent) {
        Ok(held) => held,
        Err(error) => {
            log::error!("folder `{}`: {error}", folder.path().display());
            return ExitCode::FAILURE;
        }
    };
    let passing = match Passing::inherited(&job.descriptors.numbers()) {
        Ok(passing) => passing,
        Err(error) => {
            log::error!("the descriptors for the worker: {error}");
            return ExitCode::FAILURE;
        }
    };
    // The launcher says nothing more before it is answered, so nothing of it was read already.
    drop(from);
    let (launcher, start) = (Launcher::Process(stream), &mut worker_process::start);
    match runtime::run(job, passing, (folder, held), launcher, start) {
        Outcome::Stopped | Outcome::Command(_) => ExitCode::SUCCESS,
        Outcome::Refused(_) | Outcome::Failed(_) => ExitCode::FAILURE,
    }
}
