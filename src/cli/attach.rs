//! `pydisk attach`: from the user's words to a disk that can be used.

use std::process::ExitCode;

use super::{AttachArgs, Failure, choice, complain, interpreter, plugin, words};
use crate::agent::{self, Folder, Job, Name, Outcome, Root};
use crate::frontends::Target;
use crate::logging;

pub(super) fn attach(args: AttachArgs) -> Result<ExitCode, Failure> {
    let words = words::parse(&args.words).map_err(Failure::Usage)?;
    if let Some(name) = &args.name {
        agent::check_name(name)?;
    }
    let script = plugin::find(&args.plugin)?;
    let target = words
        .target
        .as_deref()
        .map(str::parse::<Target>)
        .transpose()?;
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
    let job = Job {
        name,
        folder: folder.path().to_owned(),
        script,
        parameters: words.parameters,
        target,
        read_only: args.read_only,
        lanes: args.lanes,
        python,
        foreground: args.foreground || args.run.is_some(),
        verbose: args.verbose,
    };
    if job.foreground {
        return Ok(foreground(job, folder, args.run));
    }
    let launched = agent::launch(&job, |disk| {
        // The disk is there, and `pydisk list` tells its path as well.
        if let Err(refusal) = logging::print(&format!("{}\n", disk.device.display())) {
            log::error!("{refusal}");
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

fn foreground(job: Job, folder: Folder, command: Option<String>) -> ExitCode {
    match agent::in_foreground(job, folder, command) {
        Outcome::Stopped => ExitCode::SUCCESS,
        Outcome::Command(status) => ExitCode::from(status),
        Outcome::Refused(refusal) | Outcome::Failed(refusal) => {
            complain(&refusal);
            ExitCode::FAILURE
        }
    }
}
