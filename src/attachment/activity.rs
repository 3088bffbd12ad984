//! What a plugin is busy with: its worker tells; `list`, `show` and whoever ends it by force ask.

use std::fmt;
use std::io;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::state::seconds;
use super::telling::{self, Telling};
use crate::python::Busy;

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

impl From<Busy> for Activity {
    fn from(busy: Busy) -> Self {
        Self {
            requests: busy.under_way,
            callback: busy.longest.map(|(name, time)| Running {
                name: name.to_owned(),
                since: seconds(
                    SystemTime::now()
                        .checked_sub(time)
                        .unwrap_or(SystemTime::UNIX_EPOCH),
                ),
                seconds: time.as_secs(),
            }),
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
    telling::told(folder, SOCKET, telling::PATIENCE)
}

/// Where a worker is that is to be killed, as it goes on in a sentence: ` in \`flush\`, after 7 s there`; nothing if it
/// is nowhere or does not tell.
pub(super) fn place(folder: &Folder) -> String {
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
