//! What a plugin is busy with: its worker tells; `list`, `show` and whoever ends it by force ask.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::patience;
use super::publish::{self, Telling};
use super::state::seconds;

/// The name of the socket in the attachment's folder.
const SOCKET: &str = "activity";

/// What a plugin is busy with. The names of the fields are those that scripts see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Requests that wait for an answer; at least so many.
    pub requests: u64,
    /// The callback that has been running for longest.
    pub callback: Option<Running>,
}

/// A callback that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// As the script calls it.
    pub name: String,
    /// Seconds since 1970 when it was called.
    pub since: u64,
    /// Seconds that it has been running for.
    pub seconds: u64,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` for {} s", self.name, self.seconds)
    }
}

impl Activity {
    /// So many requests, and the callback that has been running for longest.
    #[must_use]
    pub fn new(requests: u64, longest: Option<(&str, Duration)>) -> Self {
        let running = |(name, time): (&str, Duration)| {
            let since = SystemTime::now().checked_sub(time);
            Running {
                name: name.to_owned(),
                since: seconds(since.unwrap_or(SystemTime::UNIX_EPOCH)),
                seconds: time.as_secs(),
            }
        };
        Self {
            requests,
            callback: longest.map(running),
        }
    }
}

/// The socket at which the worker tells what its plugin is busy with, before anybody is answered.
///
/// # Errors
/// If it cannot be made.
pub fn telling_activity(folder: &Folder) -> io::Result<Telling> {
    Telling::at(folder, SOCKET)
}

/// What the plugin of an attachment is busy with.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker, `TimedOut` if it does not answer.
pub fn activity(folder: &Folder) -> io::Result<Activity> {
    publish::told(folder, SOCKET, patience::PUBLISH.get())
}

/// Where a worker is that is to be killed, as it goes on in a sentence: ` in \`flush\`, after 7 s there`; nothing if it
/// is nowhere or does not tell.
#[must_use]
pub fn hung_at(folder: &Folder) -> String {
    match activity(folder) {
        Ok(Activity {
            callback: Some(callback),
            ..
        }) => {
            format!(
                " in `{}`, after {} s there",
                callback.name, callback.seconds
            )
        }
        Ok(_) => String::new(),
        Err(error) => {
            log::debug!("{}: where its worker is: {error}", folder.name());
            String::new()
        }
    }
}
