//! From a job that is complete to a disk that can be used: in the background, or as the agent of it.

use std::process::ExitCode;

use super::{complain, list};
use crate::agent::{self, Outcome};
use crate::attachment::{Reserved, Served};
use crate::{Refusal, logging};

/// Serve the disk; in the foreground until it is gone, and with `command` until that has ended. With `json`, a program
/// is told of it.
///
/// # Errors
/// One sentence: nothing was attached, or it did not end as it should.
pub(super) fn start(
    reserved: Reserved,
    command: Option<String>,
    json: bool,
) -> Result<ExitCode, Refusal> {
    let Reserved {
        job,
        passing,
        root,
        folder,
        held,
    } = reserved;
    let shown = folder.clone();
    let (prints, spelling) = (job.conduct.prints_its_place, job.conduct.spelling.clone());
    let tell = move |disk: &Served| {
        let printed = match (prints, json) {
            (true, true) => logging::print_json(&list::attached(&shown)),
            (true, false) => logging::print_exactly(&spelling.printed(&disk.at)),
            (false, _) => Ok(()),
        };
        // The disk is there, and `pydisk list` tells its path as well.
        if let Err(refusal) = printed {
            complain(&refusal);
        }
    };
    if job.conduct.foreground {
        let tell = Box::new(tell);
        return match agent::in_foreground(job, passing, folder, command, tell) {
            Outcome::Stopped => Ok(ExitCode::SUCCESS),
            Outcome::Command(status) => Ok(ExitCode::from(status)),
            Outcome::Refused(refusal) | Outcome::Failed(refusal) => Err(refusal),
        };
    }
    let launched = agent::launch(&job, passing, tell);
    // An agent that died early leaves its folder to us.
    if launched.is_err()
        && let Err(refusal) = root.release(&folder, &held)
    {
        complain(&refusal);
    }
    launched.map(|()| ExitCode::SUCCESS)
}
