//! Who is connected to a server: its worker tells; `list`, `show` and `detach` ask.

use std::io;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::patience;
use super::publish::{self, Telling};
use crate::escape;

/// The name of the socket in the attachment's folder.
const SOCKET: &str = "clients";

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
        f.write_str(&escape::one_line(&self.peer))?;
        match &self.export {
            None => f.write_str(" (negotiating)"),
            Some(export) if export.is_empty() => Ok(()),
            Some(export) => write!(f, " (export `{}`)", escape::one_line(export)),
        }
    }
}

/// The socket at which the worker tells of its clients, before anybody is answered.
///
/// # Errors
/// If it cannot be made.
pub fn telling(folder: &Folder) -> io::Result<Telling> {
    Telling::at(folder, SOCKET)
}

/// Who is connected to the server of an attachment.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` if there is no worker that serves, `TimedOut` if it does not
/// answer.
pub fn connected(folder: &Folder) -> io::Result<Vec<Connected>> {
    publish::told(folder, SOCKET, patience::PUBLISH.get())
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
        let socket = telling(&folder).unwrap();
        socket.tell(move || vec![told.clone(); 1000]).unwrap();
        for _ in 0..3 {
            assert_eq!(connected(&folder).unwrap(), vec![client.clone(); 1000]);
        }
        assert_eq!(client.to_string(), "process 7 of user 0 (export `x`)");
    }
}
