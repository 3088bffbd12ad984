//! The bytes to and from one client: a socket, or the two pipes or files of standard input and output.
//!
//! A [`super::link::Link`] reads and writes here; the server holds the same stream, to end it.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pydisk_kernel::peer;
use pydisk_kernel::unforked::Unforked;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, shutdown, sockopt,
};

/// The bytes to and from one client.
#[derive(Debug)]
pub(super) struct Stream {
    /// What the plugin forks does not keep the client waiting when this process is killed.
    _unforked: Unforked,
    ends: Ends,
    /// Nothing more is read.
    quiet: AtomicBool,
    /// Nor written.
    closed: AtomicBool,
}

#[derive(Debug)]
enum Ends {
    /// Reads and writes wait in the kernel; shutdown(2) ends that.
    Socket(OwnedFd),
    /// Nothing but poll(2) waits, also for word from those who want to end that.
    Pipes {
        input: OwnedFd,
        output: OwnedFd,
        quiet: OwnedFd,
        closed: OwnedFd,
    },
}

impl Stream {
    /// A blocking stream socket.
    pub(super) fn socket(socket: OwnedFd) -> Self {
        make_room(&socket);
        Self {
            _unforked: Unforked::only(socket.as_fd()),
            ends: Ends::Socket(socket),
            quiet: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Two pipes, or files in their place. Pipes are opened anew, because whether a pipe blocks is known to
    /// all who have it. A file never blocks, and goes on where those who have it are.
    pub(super) fn pipes(input: &OwnedFd, output: &OwnedFd) -> io::Result<Self> {
        let anew = |pipe: &OwnedFd, how| {
            let found = rustix::fs::fstat(pipe)?;
            if FileType::from_raw_mode(found.st_mode) != FileType::Fifo {
                return rustix::io::fcntl_dupfd_cloexec(pipe, 3);
            }
            let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
            rustix::fs::open(
                path,
                how | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let (input, output) = (anew(input, OFlags::RDONLY)?, anew(output, OFlags::WRONLY)?);
        let mut unforked = Unforked::only(input.as_fd());
        unforked.add(output.as_fd());
        let ends = Ends::Pipes {
            input,
            output,
            quiet: eventfd(0, EventfdFlags::CLOEXEC)?,
            closed: eventfd(0, EventfdFlags::CLOEXEC)?,
        };
        Ok(Self {
            _unforked: unforked,
            ends,
            quiet: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    /// Reads and writes wait without end again.
    pub(super) fn forget_deadline(&self) -> io::Result<()> {
        if let Ends::Socket(socket) = &self.ends {
            for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                sockopt::set_socket_timeout(socket, direction, None)?;
            }
        }
        Ok(())
    }

    /// Read what is there, at least one byte; 0 at the end of the stream.
    pub(super) fn receive(&self, buf: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        loop {
            if self.quiet.load(Ordering::Acquire) {
                return Ok(0);
            }
            let received = match &self.ends {
                Ends::Socket(socket) => {
                    arm(socket, sockopt::Timeout::Recv, deadline)?;
                    rustix::net::recv(socket, &mut *buf, RecvFlags::empty()).map(|(read, _)| read)
                }
                Ends::Pipes { input, quiet, .. } => {
                    let mut either = [
                        PollFd::new(input, PollFlags::IN),
                        PollFd::new(quiet, PollFlags::IN),
                    ];
                    wait(&mut either, deadline)?;
                    rustix::io::read(input, &mut *buf)
                }
            };
            match (received, &self.ends) {
                // What came after reading was stopped came too late.
                (Ok(_), _) if self.quiet.load(Ordering::Acquire) => return Ok(0),
                (Ok(read), _) => return Ok(read),
                (Err(Errno::INTR), _) | (Err(Errno::AGAIN), Ends::Pipes { .. }) => {}
                (Err(error), _) => return Err(timed_out(error)),
            }
        }
    }

    /// Read what is there without waiting, and none if nothing is; 0 at the end of the stream.
    pub(super) fn receive_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if self.quiet.load(Ordering::Acquire) {
            return Ok(Some(0));
        }
        let received = match &self.ends {
            Ends::Socket(socket) => {
                rustix::net::recv(socket, buf, RecvFlags::DONTWAIT).map(|(read, _)| read)
            }
            Ends::Pipes { input, .. } => rustix::io::read(input, buf),
        };
        match received {
            // What came after reading was stopped came too late.
            Ok(_) if self.quiet.load(Ordering::Acquire) => Ok(Some(0)),
            Ok(read) => Ok(Some(read)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Write all of `parts`, one behind the other.
    pub(super) fn send(
        &self,
        mut parts: &mut [IoSlice<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let sent = match &self.ends {
                Ends::Socket(socket) => {
                    arm(socket, sockopt::Timeout::Send, deadline)?;
                    send_message(socket, parts, SendFlags::empty())
                }
                Ends::Pipes { output, .. } => rustix::io::writev(output, parts),
            };
            match (sent, &self.ends) {
                (Ok(0), _) => return Err(io::ErrorKind::WriteZero.into()),
                (Ok(sent), _) => IoSlice::advance_slices(&mut parts, sent),
                (Err(Errno::INTR), _) => {}
                (Err(Errno::AGAIN), Ends::Pipes { .. }) => self.wait_for_room(deadline)?,
                (Err(error), _) => return Err(timed_out(error)),
            }
        }
        Ok(())
    }

    /// Whether the client has ended its side, or both. Nothing is read.
    pub(super) fn is_gone(&self) -> bool {
        let client = match &self.ends {
            Ends::Socket(socket) => socket,
            Ends::Pipes { input, .. } => input,
        };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::new(client, PollFlags::RDHUP)];
        self.quiet.load(Ordering::Acquire)
            || matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
                && polled[0].revents().intersects(gone)
    }

    /// Whether what is written may still reach somebody. Over TCP a client that sends nothing more
    /// cannot be told from one that is gone, and is taken for gone.
    pub(super) fn is_heard(&self) -> bool {
        if self.closed.load(Ordering::Acquire) {
            return false;
        }
        let (client, gone) = match &self.ends {
            Ends::Pipes { output, .. } => (output, PollFlags::ERR),
            Ends::Socket(socket) => match sockopt::socket_domain(socket) {
                Ok(AddressFamily::UNIX) => (socket, PollFlags::HUP | PollFlags::ERR),
                _ => (socket, PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
            },
        };
        let mut polled = [PollFd::new(client, gone & PollFlags::RDHUP)];
        !matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..))
            || !polled[0].revents().intersects(gone)
    }

    /// Until something can be written.
    pub(super) fn wait_for_room(&self, deadline: Option<Instant>) -> io::Result<()> {
        match &self.ends {
            Ends::Socket(socket) => wait(&mut [PollFd::new(socket, PollFlags::OUT)], deadline),
            Ends::Pipes { output, closed, .. } => {
                let mut either = [
                    PollFd::new(output, PollFlags::OUT),
                    PollFd::new(closed, PollFlags::IN),
                ];
                wait(&mut either, deadline)?;
                if either[1].revents().is_empty() {
                    return Ok(());
                }
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Read nothing more: whoever reads finds the end of the stream. Writing goes on.
    pub(super) fn stop_reading(&self) {
        self.quiet.store(true, Ordering::Release);
        match &self.ends {
            Ends::Socket(socket) => shut(socket, Shutdown::Read),
            Ends::Pipes { quiet, .. } => tell(quiet),
        }
    }

    /// End both directions: whoever reads or writes comes back at once.
    pub(super) fn close(&self) {
        self.quiet.store(true, Ordering::Release);
        self.closed.store(true, Ordering::Release);
        match &self.ends {
            Ends::Socket(socket) => shut(socket, Shutdown::Both),
            Ends::Pipes { quiet, closed, .. } => {
                tell(quiet);
                tell(closed);
            }
        }
    }

    /// End writing, and wait a moment until all that was written has arrived: a TCP connection that is
    /// closed while there is something to read in it drops what is still on its way to the client.
    pub(super) fn linger(&self, limit: Duration) {
        let Ends::Socket(socket) = &self.ends else {
            return;
        };
        shut(socket, Shutdown::Write);
        let deadline = Instant::now() + limit;
        let mut dropped = [0; 16 << 10];
        loop {
            for _ in 0..16 {
                match rustix::net::recv(socket, &mut dropped, RecvFlags::DONTWAIT) {
                    Ok((1.., _)) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            match peer::unacknowledged(socket) {
                Ok(1..) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
    }
}

/// Writing what there is room for, and never waiting.
impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = match &self.ends {
            Ends::Socket(socket) => send_message(socket, parts, SendFlags::DONTWAIT),
            Ends::Pipes { output, .. } => rustix::io::writev(output, parts),
        };
        sent.map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send_message(socket: &OwnedFd, parts: &[IoSlice<'_>], flags: SendFlags) -> Result<usize, Errno> {
    // More parts than the kernel takes in one call are for the next one.
    let parts = &parts[..parts.len().min(PARTS)];
    let mut nothing = SendAncillaryBuffer::default();
    rustix::net::sendmsg(socket, parts, &mut nothing, flags | SendFlags::NOSIGNAL)
}

/// What a Unix socket may hold for a client who has not read it yet. The kernel gives as much as
/// its administrator allows (`net.core.wmem_max`), and takes the memory when it is used. TCP finds its
/// own measure, unless it is told one.
const UNREAD: usize = 1 << 20;

/// Let large replies go out in one piece: who has to wait for room is woken for every piece.
fn make_room(socket: &OwnedFd) {
    let made = sockopt::socket_domain(socket).and_then(|domain| match domain {
        AddressFamily::UNIX => sockopt::set_socket_send_buffer_size(socket, UNREAD),
        _ => Ok(()),
    });
    if let Err(error) = made {
        log::debug!("the room for replies on a socket stays as it is: {error}");
    }
}

/// `UIO_MAXIOV` of the kernel.
const PARTS: usize = 1024;

/// What is left of the deadline goes to the kernel before each call that may wait.
fn arm(socket: &OwnedFd, direction: sockopt::Timeout, deadline: Option<Instant>) -> io::Result<()> {
    if let Some(left) = left(deadline)? {
        sockopt::set_socket_timeout(socket, direction, Some(left))?;
    }
    Ok(())
}

/// How long until the deadline, if there is one.
fn left(deadline: Option<Instant>) -> io::Result<Option<Duration>> {
    let Some(at) = deadline else {
        return Ok(None);
    };
    let left = at.saturating_duration_since(Instant::now());
    if left < Duration::from_millis(1) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(Some(left))
}

/// Until one of `polled` is ready.
fn wait(polled: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let timeout = left(deadline)?
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        match poll(polled, timeout.as_ref()) {
            Ok(1..) => return Ok(()),
            Ok(0) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn shut(socket: &OwnedFd, how: Shutdown) {
    if let Err(error) = shutdown(socket, how) {
        log::debug!("a connection is gone already: {error}");
    }
}

fn tell(word: &OwnedFd) {
    if let Err(error) = rustix::io::write(word, &1_u64.to_ne_bytes()) {
        log::error!("a client cannot be told to end: {error}");
    }
}

/// A timeout of the socket is told as `EAGAIN`.
fn timed_out(error: Errno) -> io::Error {
    if error == Errno::AGAIN {
        return io::ErrorKind::TimedOut.into();
    }
    error.into()
}
