//! What the worker of a disk is at, as `list` and `show` tell it.

use std::io;

use pydisk_kernel::usage;

use super::time;
use crate::attachment::{self, Activity, Folder, Served};

/// What the worker of a disk that is served is at.
pub(super) enum Doing {
    /// What it says.
    Told(Activity),
    /// It does not answer.
    Silent,
}

/// How long a callback may run before `list` speaks of it.
const LONG_S: u64 = 3;

impl Doing {
    /// Ask the worker; nothing if it is gone.
    pub(super) fn ask(folder: &Folder, disk: &Served) -> Option<Self> {
        match attachment::activity(folder) {
            Ok(mut activity) => {
                // The kernel also counts those that the worker has not got yet.
                if let Some(path) = disk.at.device() {
                    let waiting = usage::requests_under_way(path).unwrap_or(0);
                    activity.requests = activity.requests.max(waiting);
                }
                Some(Self::Told(activity))
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Some(Self::Silent),
            Err(_gone) => None,
        }
    }

    /// For programs.
    pub(super) fn told(&self) -> Option<&Activity> {
        match self {
            Self::Told(activity) => Some(activity),
            Self::Silent => None,
        }
    }

    /// Whether it hangs, in a few words.
    pub(super) fn hint(&self) -> Option<String> {
        let Self::Told(activity) = self else {
            return Some("no answer".to_owned());
        };
        let callback = activity.callback.as_ref();
        let long = callback.filter(|callback| callback.seconds >= LONG_S);
        long.map(ToString::to_string)
    }

    /// How many requests wait, and for which callback.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let Self::Told(activity) = self else {
            return vec![("activity", "the worker does not answer".to_owned())];
        };
        let mut lines = vec![("requests", format!("{} under way", activity.requests))];
        if let Some(callback) = &activity.callback {
            let since = time(callback.since);
            lines.push(("callback", format!("{callback}, since {since}")));
        }
        lines
    }
}
