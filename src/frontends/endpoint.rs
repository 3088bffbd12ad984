//! Where the users of a disk find it: what a front end says once the disk can be used.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::nbd::Address;

/// How users reach a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// A block device or a file.
    Device(PathBuf),
    /// An NBD server.
    Server {
        /// What clients take; empty where there is nothing to connect to, as on standard input.
        uri: String,
        /// The Unix socket that it listens on, if it does on one.
        unix_socket: Option<PathBuf>,
    },
}

impl Endpoint {
    /// The block device or the file that users open; none of a server.
    #[must_use]
    pub fn device(&self) -> Option<&Path> {
        match self {
            Self::Device(path) => Some(path),
            Self::Server { .. } => None,
        }
    }

    /// What the clients of a server take; none of a device.
    #[must_use]
    pub fn uri(&self) -> Option<&str> {
        match self {
            Self::Device(_) => None,
            Self::Server { uri, .. } => Some(uri),
        }
    }

    /// The Unix socket that a server listens on, if it does on one.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&Path> {
        match self {
            Self::Device(_) => None,
            Self::Server { unix_socket, .. } => unix_socket.as_deref(),
        }
    }

    /// Whether the user can mean it by `which`.
    #[must_use]
    pub fn is(&self, which: &str) -> bool {
        match self {
            Self::Device(path) => is_same_path(Path::new(which), path),
            Self::Server { uri, .. } => is_server(which, uri),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Server { uri, .. } => f.write_str(uri),
        }
    }
}

/// Whether both are one path, also by way of symbolic links to a folder. The file itself is not
/// looked at: whoever serves it may not answer.
pub(super) fn is_same_path(one: &Path, other: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).ok();
    let folder = |path: &Path| path.parent()?.canonicalize().ok();
    if absolute(one) == absolute(other) {
        return true;
    }
    // Only then a folder is looked at: it may lie on a filesystem that does not answer.
    one.file_name() == other.file_name()
        && folder(one).is_some_and(|one| Some(one) == folder(other))
}

/// Whether both are the address of one server, written the same way or not.
pub(super) fn is_server(which: &str, uri: &str) -> bool {
    let address = |text: &str| text.parse::<Address>().ok();
    which == uri || address(which).is_some_and(|which| Some(which) == address(uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_does_not_change() {
        let server = |unix_socket| Endpoint::Server {
            uri: "nbd:".into(),
            unix_socket,
        };
        for (endpoint, text) in [
            (
                Endpoint::Device("/dev/nbd0".into()),
                r#"{"device":"/dev/nbd0"}"#,
            ),
            (
                server(None),
                r#"{"server":{"uri":"nbd:","unix_socket":null}}"#,
            ),
            (
                server(Some("/s".into())),
                r#"{"server":{"uri":"nbd:","unix_socket":"/s"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
            assert_eq!(serde_json::from_str::<Endpoint>(text).unwrap(), endpoint);
        }
    }

    #[test]
    fn a_server_is_meant_by_every_spelling_of_its_address() {
        let uri = "nbd://localhost".to_owned();
        let server = Endpoint::Server {
            uri,
            unix_socket: None,
        };
        assert!(server.is("nbd://localhost:10809") && server.is("nbd:"));
        assert!(!server.is("nbd://localhost:10810") && !server.is("/dev/nbd0"));
        let device = Endpoint::Device("/dev/nbd0".into());
        assert!(device.is("/dev/./nbd0") && !device.is("/dev/nbd1"));
    }
}
