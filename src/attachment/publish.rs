//! How a worker tells others about itself: on sockets of its own in the attachment's folder, so that
//! the answer does not depend on the agent.
//!
//! One answer a connection, without a question: a JSON document, and then the end of the stream.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use pydisk_kernel::unforked::Unforked;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::folder::Folder;
use super::messages::{parsed, send};
use super::patience;

/// Longest answer that is taken.
const LONGEST: u64 = 64 << 20;

/// A socket of the worker, before anybody is answered.
#[derive(Debug)]
pub struct Telling {
    /// What the plugin forks does not keep people waiting for an answer.
    unforked: Unforked,
    listener: UnixListener,
    socket: &'static str,
}

impl Telling {
    /// Make the socket.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn at(folder: &Folder, socket: &'static str) -> io::Result<Self> {
        let (_open, address) = folder.address(socket)?;
        let listener = UnixListener::bind(address)?;
        fs::set_permissions(folder.path().join(socket), Permissions::from_mode(0o600))?;
        Ok(Self {
            unforked: Unforked::only(listener.as_fd()),
            listener,
            socket,
        })
    }

    /// Tell everybody who asks, until this process ends, what `answer` gives.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn tell<T: Serialize>(self, answer: impl Fn() -> T + Send + 'static) -> io::Result<()> {
        let name = self.socket.to_owned();
        thread::Builder::new().name(name).spawn(move || {
            let Self {
                unforked: _unforked,
                listener,
                socket,
            } = self;
            for stream in listener.incoming() {
                let told = stream.and_then(|stream| {
                    stream.set_write_timeout(Some(patience::PUBLISH.get()))?;
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
}

/// What the worker tells at `socket` within this time.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker that does, `TimedOut` if it does not
/// answer.
pub(super) fn told<T: DeserializeOwned>(
    folder: &Folder,
    socket: &str,
    patience: Duration,
) -> io::Result<T> {
    let (_open, address) = folder.address(socket)?;
    let stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = Vec::new();
    match stream.take(LONGEST).read_to_end(&mut text) {
        Ok(_) => parsed(&text),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::ErrorKind::TimedOut.into())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_answer_is_told_from_one_that_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        let ask = || told::<u32>(&folder, "mute", Duration::from_millis(1));
        let mute = Telling::at(&folder, "mute").unwrap();
        assert_eq!(ask().unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(mute);
        assert_eq!(ask().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
