//! What a worker has spent, where that is counted: `pydisk bench` asks before and after a load.

use std::io;

use super::folder::Folder;
use super::telling::{self, Telling};
use crate::bench::Cost;

/// The name of the socket in the attachment's folder.
const SOCKET: &str = "cost";

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
    telling::told(folder, SOCKET, telling::PATIENCE)
}
