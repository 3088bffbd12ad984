//! What a worker opens for a server while it still has the rights to: the sockets, the certificates
//! and the log. Nobody is let in yet.

use crate::agent::{self, Folder, Job, Passing, Telling};
use crate::frontends::nbd::{Address, Bound, Setup};
use crate::{Refusal, logging};

/// A server that listens and waits for the plugin.
pub(super) struct Door {
    pub(super) bound: Bound,
    pub(super) telling: Telling,
    pub(super) log: logging::Opened,
}

impl Door {
    /// Listen at `address`.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub(super) fn open(
        address: &Address,
        job: &Job,
        folder: &Folder,
        passing: Passing,
    ) -> Result<Self, Refusal> {
        let failed = |error: std::io::Error| Refusal::new(format!("{}: {error}", job.name));
        let server = job.server.clone();
        let bound = Bound::at(Setup {
            address: address.clone(),
            family: server.family,
            label: server.label,
            folder: folder.path().to_owned(),
            bounds: server.bounds,
            dialect: server.dialect,
            tls: server.tls,
            passed: passing.into_descriptors(),
        })?;
        Ok(Self {
            bound,
            telling: agent::telling(folder).map_err(failed)?,
            log: job.logging.open(&folder.log()).map_err(failed)?,
        })
    }
}
