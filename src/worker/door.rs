//! What a worker opens while it still has the rights to: whatever its front end needs, and, where it may give up its
//! rights, its log and the socket that tells of clients. Nobody is let in yet.

use crate::attachment::{self, Folder, Job, Passing, Telling};
use crate::frontends::{FrontEnd, Options, Prepared};
use crate::{Refusal, ResultExt, logging};

/// A front end that is ready and waits for the plugin.
pub(super) struct Door {
    pub(super) prepared: Box<dyn Prepared>,
    /// Of what serves clients.
    pub(super) clients: Option<Clients>,
}

/// What else is opened before clients are served.
pub(super) struct Clients {
    pub(super) telling: Telling,
    pub(super) log: logging::Opened,
}

impl Door {
    /// Prepare the front end with these `options`.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub(super) fn open(
        front_end: &dyn FrontEnd,
        options: &Options,
        job: &Job,
        passing: Passing,
    ) -> Result<Self, Refusal> {
        let folder = &Folder::at(job.folder.clone());
        let prepared = front_end.prepare(options, passing.into_descriptors())?;
        let clients = if front_end.row().clients {
            Some(Clients {
                telling: attachment::telling(folder).refuse(&job.name)?,
                log: job.logging.open(&folder.log()).refuse(&job.name)?,
            })
        } else {
            None
        };
        Ok(Self { prepared, clients })
    }
}
