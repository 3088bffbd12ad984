//! Sockets between a virtual machine and its host: vsock(7).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Context identifier of a machine.
    pub cid: u32,
    /// Port.
    pub port: u32,
}

/// Listen on `port` for clients of this machine and of all that it can see; 0 for a free port.
///
/// # Errors
/// As socket(2), bind(2) and listen(2); `EAFNOSUPPORT` where the kernel has no vsock.
pub fn listen(port: u32, backlog: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no memory.
    let socket = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let port = if port == 0 {
        libc::VMADDR_PORT_ANY
    } else {
        port
    };
    let address = address(libc::VMADDR_CID_ANY, port)?;
    // SAFETY: `address` is a whole sockaddr_vm of the length given and lives through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LEN) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: listen(2) takes no memory.
    if unsafe { libc::listen(socket.as_raw_fd(), backlog) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// A connection to `end`.
///
/// # Errors
/// As socket(2) and connect(2).
pub fn connect(end: End) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) takes no memory.
    let socket = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let address = address(end.cid, end.port)?;
    // SAFETY: `address` is a whole sockaddr_vm of the length given and lives through the call.
    let connected = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LEN) };
    if connected != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Where a listening or connected socket is bound.
///
/// # Errors
/// As getsockname(2).
pub fn local(socket: impl AsFd) -> io::Result<End> {
    named(&socket, libc::getsockname)
}

/// The other end of a connection.
///
/// # Errors
/// As getpeername(2).
pub fn peer(socket: impl AsFd) -> io::Result<End> {
    named(&socket, libc::getpeername)
}

type Namer =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn named(socket: &impl AsFd, namer: Namer) -> io::Result<End> {
    let mut found = address(0, 0)?;
    let mut len = LEN;
    // SAFETY: both functions write at most `len` bytes to `found`, which has as many.
    let done = unsafe {
        namer(
            socket.as_fd().as_raw_fd(),
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if i32::from(found.svm_family) != libc::AF_VSOCK {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(End {
        cid: found.svm_cid,
        port: found.svm_port,
    })
}

/// As the kernel wants the length of an address.
#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
const LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
const _: () = assert!(size_of::<libc::sockaddr_vm>() == 16);

fn address(cid: u32, port: u32) -> io::Result<libc::sockaddr_vm> {
    // SAFETY: integers only, for which zero is valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK.try_into().map_err(io::Error::other)?;
    address.svm_cid = cid;
    address.svm_port = port;
    Ok(address)
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
