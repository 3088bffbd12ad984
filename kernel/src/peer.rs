//! Who is at the other end of a socket, and whether everything has arrived there.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

/// What the kernel noted of a process when it connected. A process that cannot be seen from here,
/// because it lives in another process or user namespace, has a 0 or the overflow numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The process that connected to this end of a Unix socket, by `SO_PEERCRED` of unix(7).
///
/// # Errors
/// As getsockopt(2).
pub fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    // Not rustix's, whose process numbers cannot be the 0 of one that is not seen from here.
    let found = getsockopt(&socket, PeerCredentials)?;
    Ok(Credentials {
        pid: found.pid(),
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// Bytes that were written to a socket and not taken by the other end's kernel yet, by `SIOCOUTQ` of
/// tcp(7); the end of the stream counts as one.
///
/// # Errors
/// As ioctl(2); not every kind of socket can tell.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which shares its number with TIOCOUTQ, writes one int to `bytes`.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_the_other_end_has_no_room_for_is_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_other, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(&client).unwrap(), 0);
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 65536]).is_ok() {}
        assert!(unacknowledged(&client).unwrap() > 0);
    }

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let found = credentials(&one).unwrap();
        assert_eq!(u32::try_from(found.pid).unwrap(), std::process::id());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = credentials(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
