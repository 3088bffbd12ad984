//! What tests of the agent start from: a job, and disks that a worker says it serves.

use std::path::Path;

use crate::attachment::{Conduct, Job, Served};
use crate::frontends::nbd::ServerOptions;
use crate::frontends::{Endpoint, Identity, Target};
use crate::logging::{Detail, Logging, Sink};

/// A job named `x`, in the background.
pub(super) fn job(folder: &Path, target: &str) -> Job {
    Job {
        name: "x".into(),
        called: None,
        folder: folder.to_owned(),
        identity: Identity::new(),
        script: "/x.py".into(),
        parameters: Vec::new(),
        target: target.parse::<Target>().unwrap(),
        read_only: false,
        lanes: None,
        logical_block: None,
        layers: Vec::new(),
        measured: false,
        server: ServerOptions::default(),
        errnos: None,
        inherited: Vec::new(),
        passwords: Vec::new(),
        python: None,
        foreground: false,
        logging: Logging {
            level: Detail::Events,
            sink: Sink::Nothing,
            quiet: true,
        },
        conduct: Conduct::of_attach(false, false),
    }
}

/// A disk that can be used.
pub(super) fn served(at: Endpoint) -> Served {
    Served {
        at,
        front_end: "fuse".into(),
        size: Some(1 << 20),
        read_only: Some(false),
        parallel: false,
        lanes: 1,
    }
}
