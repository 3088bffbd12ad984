//! From a job that is complete to a disk that can be used: in the background, or as the agent of it.

use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use super::{complain, list};
use crate::agent::{self, Outcome};
use crate::attachment::{Folder, Held, Job, Passing, Root, Served};
use crate::{Refusal, escape, logging};

/// The folder that was reserved for a job, and what is passed on to it.
pub(super) struct Start {
    pub(super) root: Root,
    pub(super) folder: Folder,
    /// Until this process ends: by then the agent or nobody looks after the folder.
    pub(super) held: Held,
    pub(super) passing: Passing,
    /// Whether a program is told of the disk.
    pub(super) json: bool,
}

impl Start {
    /// Serve the disk; in the foreground until it is gone, and with `command` until that has ended.
    ///
    /// # Errors
    /// One sentence: nothing was attached, or it did not end as it should.
    pub(super) fn go(self, job: Job, command: Option<String>) -> Result<ExitCode, Refusal> {
        if let Err(refusal) = refuse_bytes(&job) {
            self.root.release(&self.folder, &self.held)?;
            return Err(refusal);
        }
        let (folder, json) = (self.folder.clone(), self.json);
        let (prints, spelling) = (job.conduct.prints_its_place, job.conduct.spelling.clone());
        let tell = move |disk: &Served| {
            let printed = match (prints, json) {
                (true, true) => logging::print_json(&list::attached(&folder)),
                (true, false) => logging::print_exactly(&spelling.printed(&disk.at)),
                (false, _) => Ok(()),
            };
            // The disk is there, and `pydisk list` tells its path as well.
            if let Err(refusal) = printed {
                complain(&refusal);
            }
        };
        if job.foreground {
            let tell = Box::new(tell);
            return match agent::in_foreground(job, self.passing, self.folder, command, tell) {
                Outcome::Stopped => Ok(ExitCode::SUCCESS),
                Outcome::Command(status) => Ok(ExitCode::from(status)),
                Outcome::Refused(refusal) | Outcome::Failed(refusal) => Err(refusal),
            };
        }
        let launched = agent::launch(&job, self.passing, tell);
        // An agent that died early leaves its folder to us.
        if launched.is_err()
            && let Err(refusal) = self.root.release(&self.folder, &self.held)
        {
            complain(&refusal);
        }
        launched.map(|()| ExitCode::SUCCESS)
    }
}

/// Refuse a path that is no text, which a relative one is in a folder of such a name: what processes say to each
/// other, and what `list` shows, is text.
fn refuse_bytes(job: &Job) -> Result<(), Refusal> {
    let paths = [
        ("plugin", Some(&*job.script)),
        ("target", job.target.path()),
        ("state folder", Some(&*job.folder)),
        ("Python", job.python.as_deref()),
        ("folder", job.server.tls.certificates.as_deref()),
    ];
    for (what, path) in paths {
        if let Some(path) = path.filter(|path| path.to_str().is_none()) {
            let shown = escape::bytes(path.as_os_str().as_bytes());
            return Err(Refusal::new(format!(
                "{what} `{shown}`: the path is not UTF-8"
            )));
        }
    }
    Ok(())
}
