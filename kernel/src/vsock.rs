//! Sockets between a virtual machine and its host: vsock(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, VsockAddr, bind, connect as connect_to, getpeername,
    getsockname, socket,
};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Context identifier of a machine.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

impl From<VsockAddr> for End {
    fn from(address: VsockAddr) -> Self {
        Self {
            cid: address.cid(),
            port: address.port(),
        }
    }
}

/// Listen on `port` for clients of this machine and of all that it can see; 0 for a free port.
///
/// # Errors
/// As socket(2), bind(2) and listen(2); `EAFNOSUPPORT` where the kernel has no vsock.
pub fn listen(port: u32, backlog: i32) -> io::Result<OwnedFd> {
    let socket = stream()?;
    let port = if port == 0 {
        libc::VMADDR_PORT_ANY
    } else {
        port
    };
    bind(
        socket.as_raw_fd(),
        &VsockAddr::new(libc::VMADDR_CID_ANY, port),
    )?;
    // Not nix's, which takes no more than the C library's idea of the kernel's limit.
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}

/// A connection to `end`.
///
/// # Errors
/// As socket(2) and connect(2).
pub fn connect(end: End) -> io::Result<OwnedFd> {
    let socket = stream()?;
    connect_to(socket.as_raw_fd(), &VsockAddr::new(end.cid, end.port))?;
    Ok(socket)
}

fn stream() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Vsock, SockType::Stream, flags, None)
}

/// Where a listening or connected socket is bound.
///
/// # Errors
/// As getsockname(2); `EINVAL` for a socket of another kind.
pub fn local(socket: impl AsFd) -> io::Result<End> {
    let address: VsockAddr = getsockname(socket.as_fd().as_raw_fd())?;
    Ok(address.into())
}

/// The other end of a connection.
///
/// # Errors
/// As getpeername(2); `EINVAL` for a socket of another kind.
pub fn peer(socket: impl AsFd) -> io::Result<End> {
    let address: VsockAddr = getpeername(socket.as_fd().as_raw_fd())?;
    Ok(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// Not by a print macro: what those write in a test that passes is captured.
    fn skipped(why: &str) {
        writeln!(io::stderr(), "skipped: {why}").unwrap();
    }

    #[test]
    fn a_free_port_is_told_and_found() {
        let socket = match listen(0, 1) {
            Ok(socket) => socket,
            Err(error) => {
                skipped(&format!("this kernel has no vsock: {error}"));
                return;
            }
        };
        let local = local(&socket).unwrap();
        assert_ne!((local.port, local.port), (0, u32::MAX));
        let port = local.port;
        let client = match connect(End { cid: 1, port }) {
            Ok(client) => client,
            Err(error) => {
                skipped(&format!("this kernel has no vsock to itself: {error}"));
                return;
            }
        };
        let accepted = rustix::net::accept(&socket).unwrap();
        assert_eq!(peer(&client).unwrap(), End { cid: 1, port });
        assert_eq!(peer(&accepted).unwrap().cid, 1);
        TcpStream::from(client).write_all(b"x").unwrap();
        let mut heard = [0];
        TcpStream::from(accepted).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"x");
    }

    #[test]
    fn other_sockets_are_not_taken_for_vsock() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(local(&socket).is_err());
    }
}
