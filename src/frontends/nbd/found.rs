//! Where a server can be found that was asked for at an address. For the agent, which cannot see the
//! sockets of its worker and need not believe what comes from the plugin's process.

use std::path::{Path, PathBuf};

use super::address::{Address, Place};

/// The Unix socket of a server whose address names none.
pub(super) fn socket_in(folder: &Path) -> PathBuf {
    folder.join("nbd.sock")
}

/// Whether a server that was asked for at `asked`, with its state in `folder`, may call itself `uri`
/// and listen on this Unix socket. Only a port that was free to choose is open.
#[must_use]
pub fn may_be_at(asked: &Address, folder: &Path, uri: &str, unix_socket: Option<&Path>) -> bool {
    let Some(place) = place(&asked.place, folder, uri) else {
        return false;
    };
    let address = Address {
        place,
        ..asked.clone()
    };
    let socket = match &address.place {
        Place::Unix(path) => path.as_deref(),
        _ => None,
    };
    socket == unix_socket && address.to_string() == uri
}

/// What `asked` becomes once it listens; `None` if `uri` does not say what was left open.
fn place(asked: &Place, folder: &Path, uri: &str) -> Option<Place> {
    let found = || uri.parse::<Address>().ok().map(|found| found.place);
    let port = || match found()? {
        Place::Tcp { port, .. } => Some(port).filter(|port| *port != 0),
        _ => None,
    };
    Some(match asked {
        Place::Tcp { host, port: 0 } => Place::Tcp {
            host: host.clone(),
            port: port()?,
        },
        Place::Everywhere { port: 0 } => Place::Everywhere { port: port()? },
        Place::Vsock(0) => match found()? {
            Place::Vsock(port) if port != 0 => Place::Vsock(port),
            _ => return None,
        },
        Place::Unix(path) => Place::Unix(Some(path.clone().unwrap_or_else(|| socket_in(folder)))),
        // Whoever passed them has the sockets and chose where they are.
        Place::Activation => match found()? {
            place @ (Place::Tcp { .. } | Place::Unix(_) | Place::Vsock(_)) => place,
            _ => return None,
        },
        place => place.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(asked: &Address, uri: &str, socket: Option<&str>) -> bool {
        may_be_at(asked, Path::new("/run/x"), uri, socket.map(Path::new))
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_is_where_it_was_asked_for() {
        for (asked, uri, socket) in [
            ("nbd://localhost", "nbd://localhost", None),
            ("nbd://10.0.0.1:99/x", "nbd://10.0.0.1:99/x", None),
            ("nbd://[::1]:0", "nbd://[::1]:4711", None),
            (
                "nbds://localhost:0/a%20b",
                "nbds://localhost:4711/a%20b",
                None,
            ),
            ("nbd+vsock://:0/", "nbd+vsock://1:4711/", None),
            ("nbd+stdio:", "nbd+stdio:///", None),
            (
                "nbd+unix:///x?socket=/a%20b",
                "nbd+unix:///x?socket=/a%20b",
                Some("/a b"),
            ),
            (
                "nbd+unix:",
                "nbd+unix:///?socket=/run/x/nbd.sock",
                Some("/run/x/nbd.sock"),
            ),
            ("nbd+systemd:", "nbd://127.0.0.1:99", None),
            ("nbd+systemd:", "nbd+unix:///?socket=/a", Some("/a")),
        ] {
            assert!(may(&address(asked), uri, socket), "{asked} at {uri}");
        }
        let everywhere = |port| Address {
            place: Place::Everywhere { port },
            ..address("nbd:")
        };
        assert!(may(&everywhere(99), "nbd://localhost:99", None));
        assert!(may(&everywhere(0), "nbd://localhost:4711", None));
    }

    #[test]
    fn nothing_else_is_believed() {
        for (asked, uri, socket) in [
            ("nbd://localhost", "nbd://forged", None),
            ("nbd://localhost", "nbd://localhost:99", None),
            ("nbd://localhost", "nbd://localhost", Some("/a")),
            ("nbd://localhost", "nbds://localhost", None),
            ("nbd://localhost/x", "nbd://localhost/y", None),
            ("nbd://localhost:0", "nbd://forged:4711", None),
            ("nbd://localhost:0", "nbd://localhost:0", None),
            ("nbd://localhost:0", "nonsense", None),
            ("nbd+vsock://:0/", "nbd://localhost:4711", None),
            ("nbd+stdio:", "nbd://localhost", None),
            (
                "nbd+unix:///?socket=/a",
                "nbd+unix:///?socket=/a",
                Some("/b"),
            ),
            ("nbd+unix:///?socket=/a", "nbd+unix:///?socket=/a", None),
            (
                "nbd+unix:///?socket=/a",
                "nbd+unix:///?socket=/b",
                Some("/b"),
            ),
            ("nbd+unix:", "nbd+unix:///?socket=/a", Some("/a")),
            ("nbd+systemd:", "nbd+unix:///?socket=/a", Some("/b")),
            ("nbd+systemd:", "nonsense", None),
        ] {
            assert!(!may(&address(asked), uri, socket), "{asked} at {uri}");
        }
    }
}
