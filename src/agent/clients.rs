//! Who is connected to a server: its worker tells, on a socket of its own, so that the answer does
//! not depend on the agent; `list`, `show` and `detach` ask.
//!
//! One answer a connection, without a question: the list, and then the end of the stream.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use pydisk_kernel::unforked::Unforked;
use serde::{Deserialize, Serialize};

use super::control;
use super::folder::Folder;
use super::messages::send;

/// The name of the socket in the attachment's folder.
const SOCKET: &str = "clients";

/// How long the worker may take to answer, and whoever asked to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest answer that is taken.
const LONGEST: u64 = 64 << 20;

/// A client that is connected. The names of the fields are those that scripts see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Counts from 1 in each worker.
    pub number: u64,
    /// Where it comes from, for people.
    pub peer: String,
    /// What it has open; nothing while it is negotiating.
    pub export: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Seconds since 1970 when it connected.
    pub since: u64,
}

impl std::fmt::Display for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.peer)?;
        match &self.export {
            None => f.write_str(" (negotiating)"),
            Some(export) if export.is_empty() => Ok(()),
            Some(export) => write!(f, " (export `{export}`)"),
        }
    }
}

/// The worker's socket, before anybody is answered.
#[derive(Debug)]
pub struct Telling(UnixListener);

impl Telling {
    /// Make the socket.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn at(folder: &Folder) -> io::Result<Self> {
        let (_open, address) = control::address(folder, SOCKET)?;
        let listener = UnixListener::bind(address)?;
        fs::set_permissions(folder.path().join(SOCKET), Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }

    /// Tell everybody who asks, until this process ends, what `list` gives.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn tell(self, list: impl Fn() -> Vec<Connected> + Send + 'static) -> io::Result<()> {
        thread::Builder::new()
            .name("clients".into())
            .spawn(move || {
                // What the plugin forks does not keep people waiting for an answer.
                let _unforked = Unforked::only(self.0.as_fd());
                for stream in self.0.incoming() {
                    let told = stream.and_then(|stream| {
                        stream.set_write_timeout(Some(PATIENCE))?;
                        send(&stream, &list())
                    });
                    if let Err(error) = told {
                        log::debug!("clients: {error}");
                        // Out of descriptors or memory, perhaps: do not spin.
                        thread::sleep(Duration::from_millis(10));
                    }
                }
            })?;
        Ok(())
    }
}

/// Who is connected to the server of an attachment.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker that serves, `TimedOut` if it does not
/// answer.
pub fn connected(folder: &Folder) -> io::Result<Vec<Connected>> {
    let (_open, address) = control::address(folder, SOCKET)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path().to_owned());
        let nobody = connected(&folder).unwrap_err().kind();
        assert_eq!(nobody, io::ErrorKind::NotFound);
        let client = Connected {
            number: 3,
            peer: "process 7 of user 0".into(),
            export: Some("x".into()),
            tls: true,
            since: 5,
        };
        let told = client.clone();
        let telling = Telling::at(&folder).unwrap();
        telling.tell(move || vec![told.clone(); 1000]).unwrap();
        for _ in 0..3 {
            assert_eq!(connected(&folder).unwrap(), vec![client.clone(); 1000]);
        }
        assert_eq!(client.to_string(), "process 7 of user 0 (export `x`)");
    }
}
