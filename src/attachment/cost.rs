//! What a worker has spent, where that is counted: `pydisk bench` asks before and after a load.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::patience;
use super::publish::{self, Telling};

/// The name of the socket in the attachment's folder.
const SOCKET: &str = "cost";

/// What a worker has spent since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// How often one of the plugin's callbacks was called for a request.
    pub callbacks: u64,
    /// Time inside of them, summed over threads.
    pub inside: Duration,
    /// Processor time of the worker, all threads, in user mode and in the kernel.
    pub cpu: Duration,
}

impl Cost {
    /// What was spent since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            callbacks: self.callbacks.saturating_sub(before.callbacks),
            inside: self.inside.saturating_sub(before.inside),
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}

/// Tell everybody who asks, until this process ends, what `count` gives.
///
/// # Errors
/// If the socket cannot be made.
pub fn tell_cost(folder: &Folder, count: impl Fn() -> Cost + Send + 'static) -> io::Result<()> {
    Telling::at(folder, SOCKET)?.tell(count)
}

/// What the worker of an attachment has spent since its start.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker that counts, `TimedOut` if it does not
/// answer.
pub fn cost(folder: &Folder) -> io::Result<Cost> {
    publish::told(folder, SOCKET, patience::PUBLISH.get())
}
