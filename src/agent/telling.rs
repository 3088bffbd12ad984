//! How a worker tells others about itself: on sockets of its own in the attachment's folder, so that
//! the answer does not depend on the agent.
//!
//! One answer a connection, without a question: a JSON document, and then the end of the stream.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control;
use super::folder::Folder;
use super::messages::send;

/// How long the worker may take to answer, and whoever asked to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is taken.
const LONGEST: u64 = 64 << 20;

/// Tell everybody who asks at `socket`, until this process ends, what `answer` gives.
///
/// # Errors
/// If the socket cannot be made.
pub(super) fn tell<T: Serialize>(
    folder: &Folder,
    socket: &'static str,
    answer: impl Fn() -> T + Send + 'static,
) -> io::Result<()> {
    let (_open, address) = control::address(folder, socket)?;
    let listener = UnixListener::bind(address)?;
    fs::set_permissions(folder.path().join(socket), Permissions::from_mode(0o600))?;
    thread::Builder::new().name(socket.into()).spawn(move || {
        for stream in listener.incoming() {
            let told = stream.and_then(|stream| {
                stream.set_write_timeout(Some(PATIENCE))?;
                send(&stream, &answer())
            });
            if let Err(error) = told {
                log::debug!("{socket}: {error}");
                // Out of descriptors or memory, perhaps: do not spin.
                thread::sleep(Duration::from_millis(10));
            }
        }
    })?;
    Ok(())
}

/// What the worker tells at `socket`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker that does, `TimedOut` if it does not
/// answer.
pub(super) fn told<T: DeserializeOwned>(folder: &Folder, socket: &str) -> io::Result<T> {
    let (_open, address) = control::address(folder, socket)?;
    let stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = Vec::new();
    match stream.take(LONGEST).read_to_end(&mut text) {
        Ok(_) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::ErrorKind::TimedOut.into())
        }
        Err(error) => Err(error),
    }
}
