//! The sockets that a server listens on: made, found in systemd's hands, or none at all but one
//! client that is there already.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pydisk_kernel::unforked::Unforked;
use pydisk_kernel::{peer, vsock};
use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with, sockopt,
};

use super::address::{Address, Place};
use super::config::Family;
use super::found::socket_in;
use super::stream::Stream;
use crate::disk::Peer;
use crate::refusal::words;
use crate::{Refusal, ResultExt};

/// Clients that wait to be accepted; the kernel has its own limit as well (`net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Where a server is found.
#[derive(Debug)]
pub(super) struct Listening {
    /// What the plugin forks does not keep the port when this process is killed.
    _unforked: Unforked,
    /// Not blocking, because a client may be gone before it is accepted.
    pub(super) sockets: Vec<OwnedFd>,
    /// The one client that needs no accepting. Pipes are opened for it while there is a right to.
    pub(super) given: Option<Given>,
    /// The sockets were opened here; others are somebody's who goes on listening.
    opened: bool,
    /// What clients are told.
    pub(super) address: Address,
    /// The Unix socket that is removed at the end.
    made: Option<Made>,
}

/// A Unix socket in the file system.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listening {
    /// Listen at `address`, or at those of its addresses that are of this `family`; `folder` is for a
    /// Unix socket without a path, `passed` are the descriptors that the places of that kind need.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    pub(super) fn at(
        address: &Address,
        family: Family,
        folder: &Path,
        passed: Vec<OwnedFd>,
    ) -> Result<Self, Refusal> {
        let refused =
            |what: &dyn std::fmt::Display| Refusal::about(format_args!("target `{address}`"), what);
        match &address.place {
            Place::Tcp { host, port } => {
                let bound = tcp(*port, || match host {
                    Some(host) => named(host, family, *port),
                    None => both(LOOPBACK, family, *port),
                });
                Self::of(bound.map_err(|what| refused(&what))?, address)
            }
            Place::Everywhere { port } => {
                let bound = tcp(*port, || both(EVERYWHERE, family, *port));
                Self::of(bound.map_err(|what| refused(&what))?, address)
            }
            Place::Unix(path) => {
                let path = path.clone().unwrap_or_else(|| socket_in(folder));
                let (socket, made) = unix(&path).map_err(|what| refused(&what))?;
                let mut listening = Self::of(vec![socket], address)?;
                listening.made = Some(made);
                Ok(listening)
            }
            Place::Vsock(port) => {
                let socket =
                    vsock::listen(*port, BACKLOG).refuse(format_args!("target `{address}`"))?;
                Self::of(vec![socket], address)
            }
            Place::Activation => {
                if passed.is_empty() {
                    return Err(refused(&"systemd passed no socket to this process").hint(
                        "a socket unit passes them; `systemd-socket-activate` does for a try",
                    ));
                }
                for socket in &passed {
                    check_passed(socket)
                        .map_err(|what| refused(&what).hint("the socket unit needs Accept=no"))?;
                }
                Self::of(passed, address)
            }
            Place::Stdio => Ok(Self {
                _unforked: Unforked::default(),
                sockets: Vec::new(),
                given: Some(given(passed).map_err(|what| refused(&what))?),
                opened: false,
                address: address.clone(),
                made: None,
            }),
        }
    }

    fn of(sockets: Vec<OwnedFd>, address: &Address) -> Result<Self, Refusal> {
        let about = format!("target `{address}`");
        for socket in &sockets {
            rustix::io::ioctl_fionbio(socket, true).refuse(&about)?;
        }
        let place = place_of(&sockets[0], &address.place).refuse(&about)?;
        let mut unforked = Unforked::default();
        sockets
            .iter()
            .for_each(|socket| unforked.add(socket.as_fd()));
        Ok(Self {
            _unforked: unforked,
            sockets,
            given: None,
            opened: address.place != Place::Activation,
            address: Address {
                place,
                ..address.clone()
            },
            made: None,
        })
    }

    /// The Unix socket that clients find, if it is one.
    pub(super) fn unix_socket(&self) -> Option<&Path> {
        match &self.address.place {
            Place::Unix(path) => path.as_deref(),
            _ => None,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.opened {
            for socket in &self.sockets {
                // What the plugin forked may have it, too, and would keep the port from the next server.
                if let Err(error) = rustix::net::shutdown(socket, rustix::net::Shutdown::Both) {
                    log::debug!("a listening socket cannot be ended: {error}");
                }
            }
        }
        if let Some(made) = &self.made
            && made.is_still_there()
            && let Err(error) = fs::remove_file(&made.path)
        {
            // Who has become another user since may not; the agent did not, and removes it.
            let level = match error.kind() {
                io::ErrorKind::PermissionDenied => log::Level::Debug,
                _ => log::Level::Warn,
            };
            log::log!(
                level,
                "`{}` cannot be removed: {error}",
                made.path.display()
            );
        }
    }
}

impl Made {
    fn is_still_there(&self) -> bool {
        let same = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        fs::symlink_metadata(&self.path).is_ok_and(same)
    }
}

/// Take a client off a listening socket, and tell who it is. The socket blocks.
pub(super) fn accept(listener: &OwnedFd) -> Result<(OwnedFd, Peer), Errno> {
    let socket = accept_with(listener, SocketFlags::CLOEXEC)?;
    match peer_of(&socket) {
        Ok(peer) => Ok((socket, peer)),
        Err(error) => {
            log::debug!("a client is gone already: {error}");
            Err(Errno::CONNABORTED)
        }
    }
}

fn peer_of(socket: &OwnedFd) -> io::Result<Peer> {
    match sockopt::socket_domain(socket)? {
        AddressFamily::UNIX => {
            let peer::Credentials { pid, uid, gid } = peer::credentials(socket)?;
            Ok(Peer::Unix { pid, uid, gid })
        }
        AddressFamily::VSOCK => {
            let vsock::End { cid, port } = vsock::peer(socket)?;
            Ok(Peer::Vsock { cid, port })
        }
        _ => {
            // Replies are whole when they are written, and a client that is gone without a word must
            // not keep its seat for long.
            sockopt::set_tcp_nodelay(socket, true)?;
            sockopt::set_socket_keepalive(socket, true)?;
            sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
            sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10))?;
            sockopt::set_tcp_keepcnt(socket, 6)?;
            let address = rustix::net::getpeername(socket)?.ok_or(Errno::NOTCONN)?;
            Ok(Peer::Tcp(canonical(SocketAddr::try_from(address)?)))
        }
    }
}

/// An IPv4 client of a socket for both is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Where a socket listens, in the words of an address. What the user named is kept as it was named.
fn place_of(socket: &OwnedFd, named: &Place) -> io::Result<Place> {
    match sockopt::socket_domain(socket)? {
        AddressFamily::VSOCK => Ok(Place::Vsock(vsock::local(socket)?.port)),
        AddressFamily::UNIX => {
            let address = SocketAddrUnix::try_from(rustix::net::getsockname(socket)?)?;
            let path = address.path_bytes().map(std::ffi::OsStr::from_bytes);
            Ok(Place::Unix(path.map(PathBuf::from)))
        }
        _ => {
            let bound = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
            let port = bound.port();
            Ok(match named {
                Place::Everywhere { .. } => Place::Everywhere { port },
                Place::Tcp { host, .. } => Place::Tcp {
                    host: host.clone(),
                    port,
                },
                _ => Place::Tcp {
                    host: Some(bound.ip().to_string()),
                    port,
                },
            })
        }
    }
}

/// The sockets that `bind` makes for several addresses, at the same port.
fn tcp(port: u16, bind: impl Fn() -> Result<Vec<OwnedFd>, Failed>) -> Result<Vec<OwnedFd>, String> {
    // A port that is free for one address may be taken for the next one.
    let mut tries = if port == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        match bind() {
            Err((Errno::ADDRINUSE, _)) if tries > 0 => {}
            Err((_, what)) => return Err(what),
            Ok(sockets) => return Ok(sockets),
        }
    }
}

type Failed = (Errno, String);

/// What only this machine reaches.
const LOOPBACK: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);

/// What everybody reaches.
const EVERYWHERE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);

/// Both addresses, or the one that this machine has and the family allows.
fn both((v4, v6): (Ipv4Addr, Ipv6Addr), family: Family, port: u16) -> Result<Vec<OwnedFd>, Failed> {
    match family {
        Family::Any => {}
        Family::V4 => return Ok(vec![tcp_socket((v4, port).into(), family)?]),
        Family::V6 => return Ok(vec![tcp_socket((v6, port).into(), family)?]),
    }
    let first = tcp_socket((v4, port).into(), Family::V4);
    let port = match &first {
        Ok(socket) => port_of(socket)?,
        Err((error, _)) if is_missing(*error) => port,
        Err(failed) => return Err(failed.clone()),
    };
    match (first, tcp_socket((v6, port).into(), Family::V6)) {
        (Ok(first), Ok(second)) => Ok(vec![first, second]),
        (Ok(only), Err((error, _))) if is_missing(error) => Ok(vec![only]),
        (Err(_), Ok(only)) => Ok(vec![only]),
        (_, Err(failed)) => Err(failed),
    }
}

/// Whether it is the address family or the address that this machine does not have.
fn is_missing(error: Errno) -> bool {
    matches!(
        error,
        Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT
    )
}

/// Every address of the family that a name stands for.
fn named(host: &str, family: Family, port: u16) -> Result<Vec<OwnedFd>, Failed> {
    let found = (host, port).to_socket_addrs().map_err(|error| {
        (
            Errno::ADDRNOTAVAIL,
            format!("host `{host}`: {}", words(error)),
        )
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if family.has(address.ip()) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let mut sockets = Vec::new();
    let mut port = port;
    for mut address in addresses {
        address.set_port(port);
        let socket = tcp_socket(address, family)?;
        port = port_of(&socket)?;
        sockets.push(socket);
    }
    if sockets.is_empty() {
        let kind = match family {
            Family::Any => "",
            Family::V4 => "IPv4 ",
            Family::V6 => "IPv6 ",
        };
        let what = format!("host `{host}` has no {kind}address");
        return Err((Errno::ADDRNOTAVAIL, what));
    }
    Ok(sockets)
}

/// A socket at `address`. At the IPv6 address for everybody it takes IPv4 as well, unless nothing but
/// IPv6 is wanted of it.
fn tcp_socket(address: SocketAddr, family: Family) -> Result<OwnedFd, Failed> {
    let domain = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let open = || {
        let socket = socket_with(domain, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Connections that end now must not keep the next server from this port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if family == Family::V6 {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    open().map_err(|error: Errno| (error, format!("{address}: {}", words(error))))
}

fn port_of(socket: &OwnedFd) -> Result<u16, Failed> {
    rustix::net::getsockname(socket)
        .and_then(SocketAddr::try_from)
        .map(|address| address.port())
        .map_err(|error| (error, words(error)))
}

/// How long another server may take that makes or removes a socket in the same folder.
const PATIENCE: Duration = Duration::from_secs(2);

/// A socket at `path` for its owner alone. A socket that nobody listens on gives way.
fn unix(path: &Path) -> Result<(OwnedFd, Made), String> {
    let address = SocketAddrUnix::new(path).map_err(|error| match error {
        Errno::NAMETOOLONG => "the path of a Unix socket has at most 107 bytes".to_owned(),
        other => words(other),
    })?;
    // Between the question whether somebody listens and the removal, nobody else may begin to.
    let folder = path.parent().unwrap_or(Path::new("/"));
    let _alone =
        lock(folder).map_err(|error| format!("folder `{}`: {}", folder.display(), words(error)))?;
    let open = || {
        let kind = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None)?;
        // The file gets these rights when it is made.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    let socket = match open() {
        Err(Errno::ADDRINUSE) => {
            make_way(path, &address)?;
            open()
        }
        done => done,
    };
    let socket = socket.map_err(|error: Errno| words(error))?;
    let found = fs::symlink_metadata(path).map_err(words)?;
    let made = Made {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
    };
    Ok((socket, made))
}

/// The folder's lock; another server has it only for a moment.
fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            done => return done.map(|()| opened).map_err(io::Error::from),
        }
    }
}

/// Remove the socket at `path` if it is one that nobody listens on: a server that was killed had it.
///
/// # Errors
/// One sentence; it may succeed later.
pub(super) fn remove_leftover(path: &Path) -> Result<(), Refusal> {
    let about = format!("`{}`", path.display());
    let is_socket = |found: fs::Metadata| found.file_type().is_socket();
    if !fs::symlink_metadata(path).is_ok_and(is_socket) {
        return Ok(());
    }
    let address = SocketAddrUnix::new(path).refuse(&about)?;
    // Whoever is about to listen on a socket of this folder has the lock.
    let _alone = lock(path.parent().unwrap_or(Path::new("/"))).refuse(&about)?;
    match listener(&address) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Refusal::caused(about, error))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// `ECONNREFUSED` if nobody listens there.
fn listener(address: &SocketAddrUnix) -> Result<(), Errno> {
    let kind = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, kind, None)
        .and_then(|socket| connect(&socket, address))
}

/// Remove what lies at `path` if it is a socket that nobody listens on.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(words)?;
    if !found.file_type().is_socket() {
        return Err("there is a file of this name already".into());
    }
    match listener(address) {
        Err(Errno::CONNREFUSED) => {
            log::info!("`{}` is left from a server that is gone", path.display());
            fs::remove_file(path).map_err(words)
        }
        // A full backlog is somebody's, too.
        Ok(()) | Err(Errno::AGAIN) => Err("another process listens on this socket".into()),
        Err(error) => Err(format!(
            "the socket that is there already: {}",
            words(error)
        )),
    }
}

/// Whether clients can be accepted from a socket that was passed.
fn check_passed(socket: &OwnedFd) -> Result<(), String> {
    let listens = sockopt::socket_type(socket)
        .and_then(|kind| Ok(kind == SocketType::STREAM && sockopt::socket_acceptconn(socket)?));
    let family = sockopt::socket_domain(socket);
    match (listens, family) {
        (
            Ok(true),
            Ok(
                AddressFamily::INET
                | AddressFamily::INET6
                | AddressFamily::UNIX
                | AddressFamily::VSOCK,
            ),
        ) => Ok(()),
        (Ok(_), Ok(_)) => Err("a socket that was passed is no listening stream socket".into()),
        (Err(error), _) | (_, Err(error)) => {
            Err(format!("what was passed is no socket: {}", words(error)))
        }
    }
}

/// The bytes to and from the client that is there already, and who it is.
pub(super) type Given = (Stream, Peer);

/// The client behind standard input and output.
fn given(mut passed: Vec<OwnedFd>) -> Result<Given, String> {
    let (Some(output), Some(input)) = (passed.pop(), passed.pop()) else {
        return Err("standard input and output were not passed".into());
    };
    let kind = |end: &OwnedFd| {
        let found = rustix::fs::fstat(end).map_err(words)?;
        let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
        Ok::<_, String>((kind, (found.st_dev, found.st_ino)))
    };
    use rustix::fs::FileType;
    let ((one, here), (other, there)) = (kind(&input)?, kind(&output)?);
    if (one, other) == (FileType::Socket, FileType::Socket) && here == there {
        let peer = peer_of(&input).unwrap_or_else(|error| {
            log::debug!("the client at standard input is not known: {error}");
            Peer::Stdio
        });
        return Ok((Stream::socket(input), peer));
    }
    // A conversation that was recorded comes from a file, or goes to one; a terminal is a mistake.
    let carries = |kind, end: &OwnedFd| match kind {
        FileType::Fifo | FileType::RegularFile => true,
        FileType::CharacterDevice => !rustix::termios::isatty(end),
        _ => false,
    };
    if !carries(one, &input) || !carries(other, &output) {
        return Err(
            "standard input and output have to be one socket, or two pipes or files".into(),
        );
    }
    match Stream::pipes(&input, &output) {
        Ok(stream) => Ok((stream, Peer::Stdio)),
        Err(error) => Err(format!("standard input and output: {}", words(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn one_client_is_one_socket_and_not_two() {
        let (one, other) = UnixStream::pair().unwrap();
        let again = one.try_clone().unwrap();
        assert!(given(vec![one.into(), again.into()]).is_ok());
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(given(vec![one.into(), other.into()]).is_err());
    }
}
