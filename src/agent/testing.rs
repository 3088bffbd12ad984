//! What tests of the agent start from: a job, and disks that a worker says it serves.

use std::path::Path;

use crate::attachment::{Conduct, Descriptors, DiskOptions, Job, PluginOptions, Served};
use crate::frontends::nbd::ServerOptions;
use crate::frontends::{Endpoint, Target};
use crate::logging::{Detail, Logging, Sink};

/// A job named `x`, in the background.
pub(super) fn job(folder: &Path, target: &str) -> Job {
    Job {
        name: "x".into(),
        folder: folder.to_owned(),
        target: target.parse::<Target>().unwrap(),
        plugin: PluginOptions {
            script: "/x.py".into(),
            ..PluginOptions::default()
        },
        disk: DiskOptions::default(),
        server: ServerOptions::default(),
        descriptors: Descriptors::default(),
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
