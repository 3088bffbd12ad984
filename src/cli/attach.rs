//! `pydisk attach`: from the user's words to a disk that can be used.

use std::process::ExitCode;

use super::{AttachArgs, Failure, choice, complain, interpreter, plugin, server, words};
use crate::agent::{self, Folder, Job, Name, Outcome, Passing, Root};
use crate::frontends::Target;
use crate::frontends::nbd::Place;
use crate::{Refusal, logging};

pub(super) fn attach(args: AttachArgs) -> Result<ExitCode, Failure> {
    let words = words::parse(&args.words).map_err(Failure::Usage)?;
    if let Some(name) = &args.name {
        agent::check_name(name)?;
    }
    let script = plugin::find(&args.plugin)?;
    let mut target = words
        .target
        .as_deref()
        .map(str::parse::<Target>)
        .transpose()?;
    let server = args.server.options(&mut target, args.lanes)?;
    if let Some(refusal) = unanswerable(target.as_ref(), args.run.as_deref()) {
        return Err(refusal.into());
    }
    let mut passing = server::passing(target.as_ref())?;
    let inherited = passing.numbers();
    let named = Passing::named_in(&words.parameters);
    let passwords = named.numbers();
    passing.add(named);
    let python = interpreter::choose(args.python.as_deref(), &script)?;
    let root = Root::open()?;
    agent::sweep(&root)?;
    let choice = if target.is_none() {
        Some(choice::choose(&choice::host())?)
    } else {
        None
    };

    let name = args
        .name
        .map_or_else(|| Name::from_script(&script), Name::Given);
    // Held until this process ends: by then the agent or nobody looks after the folder.
    let (folder, held) = root.reserve(&name)?;
    let name = folder.name();
    if let Some(choice) = &choice {
        logging::say(&format!("pydisk: {name}: {}\n", choice.reason));
    }
    let target = target
        .or_else(|| choice?.target)
        .unwrap_or_else(|| Target::File(folder.disk_file()));
    let foreground = args.foreground || args.run.is_some() || is_stdio(&target);
    let job = Job {
        name,
        folder: folder.path().to_owned(),
        script,
        parameters: words.parameters,
        target,
        read_only: args.read_only,
        lanes: args.lanes,
        python,
        measured: false,
        server,
        inherited,
        passwords,
        foreground,
        verbose: args.verbose,
    };
    if job.foreground {
        return Ok(in_foreground(job, passing, folder, args.run));
    }
    let launched = agent::launch(&job, passing, |disk| {
        // The disk is there, and `pydisk list` tells its path as well.
        if let Err(refusal) = logging::print(&format!("{}\n", disk.at)) {
            complain(&refusal);
        }
    });
    // An agent that died early leaves its folder to us.
    if launched.is_err()
        && let Err(refusal) = root.release(&folder, &held)
    {
        complain(&refusal);
    }
    launched?;
    Ok(ExitCode::SUCCESS)
}

/// The target that is a conversation with whoever started this process, on standard input and output.
fn is_stdio(target: &Target) -> bool {
    matches!(target, Target::Server(address) if address.place == Place::Stdio)
}

/// A client on standard input and output leaves no place for a command that uses the disk.
fn unanswerable(target: Option<&Target>, command: Option<&str>) -> Option<Refusal> {
    let target = target.filter(|target| is_stdio(target))?;
    command?;
    Some(Refusal::new(format!(
        "--run: the target `{target}` has its one client on standard input and output"
    )))
}

fn in_foreground(job: Job, passing: Passing, folder: Folder, command: Option<String>) -> ExitCode {
    match agent::in_foreground(job, passing, folder, command) {
        Outcome::Stopped => ExitCode::SUCCESS,
        Outcome::Command(status) => ExitCode::from(status),
        Outcome::Refused(refusal) | Outcome::Failed(refusal) => {
            complain(&refusal);
            ExitCode::FAILURE
        }
    }
}
