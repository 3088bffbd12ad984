//! What a worker opens for a server while it still has the rights to: the sockets, the certificates
//! and the log. Nobody is let in yet.

use crate::attachment::{self, Folder, Job, Passing, Telling};
use crate::frontends::nbd::{Address, Bound, Bounds, Setup};
use crate::{Refusal, logging};

/// A server that listens and waits for the plugin.
pub(super) struct Door {
    pub(super) bound: Bound,
    pub(super) telling: Telling,
    pub(super) log: logging::Opened,
}

impl Door {
    /// Listen at `address`; `requests` of a client are served at the same time.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub(super) fn open(
        address: &Address,
        job: &Job,
        requests: u16,
        passing: Passing,
    ) -> Result<Self, Refusal> {
        let folder = &Folder::at(job.folder.clone());
        let failed = |error: std::io::Error| Refusal::new(format!("{}: {error}", job.name));
        let server = job.server.clone();
        let bound = Bound::at(Setup {
            address: address.clone(),
            family: server.family,
            label: server.label,
            folder: folder.path().to_owned(),
            bounds: Bounds {
                requests,
                ..server.bounds
            },
            dialect: server.dialect,
            tls: server.tls,
            passed: passing.into_descriptors(),
        })?;
        Ok(Self {
            bound,
            telling: attachment::telling(folder).map_err(failed)?,
            log: job.logging.open(&folder.log()).map_err(failed)?,
        })
    }
}
