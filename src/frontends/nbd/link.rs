//! The connection to one client: a socket, and what may lie on top of it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{RecvFlags, SendFlags, sockopt};

use super::tls::Identity;

/// A connection to a client, used by several threads: one reads at a time and one writes at a time,
/// which is for them to arrange. Nothing is ever read that was not asked for.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    /// When reading and writing ends with `TimedOut`; held only while looked at.
    deadline: Mutex<Option<Instant>>,
}

impl Link {
    /// A link over a blocking stream socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            deadline: Mutex::new(None),
        }
    }

    /// From `at` on, reading and writing fails with `TimedOut`; never with `None`.
    pub(super) fn set_deadline(&self, at: Option<Instant>) -> io::Result<()> {
        *self.deadline.lock() = at;
        if at.is_none() {
            self.set_timeouts(None)?;
        }
        Ok(())
    }

    fn set_timeouts(&self, timeout: Option<Duration>) -> io::Result<()> {
        for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
            sockopt::set_socket_timeout(&self.socket, direction, timeout)?;
        }
        Ok(())
    }

    /// What is left of the deadline goes to the kernel before each call that may wait.
    fn arm(&self) -> io::Result<()> {
        let Some(at) = *self.deadline.lock() else {
            return Ok(());
        };
        let left = at.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.set_timeouts(Some(left))
    }

    /// Answer the client's handshake and encrypt from here on. Nothing of what the client sent after
    /// its request to start was read before.
    pub(super) fn start_tls(&mut self, _identity: &Identity) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Read what is there, at least one byte; 0 at the end of the stream.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.arm()?;
            match rustix::net::recv(&self.socket, &mut *buf, RecvFlags::empty()) {
                Ok((read, _)) => return Ok(read),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
    }

    /// Fill `buf`; `UnexpectedEof` if the stream ends before.
    pub(super) fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => buf = &mut buf[read..],
            }
        }
        Ok(())
    }

    /// Write all of `parts`, one behind the other.
    pub(super) fn write_all(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            self.arm()?;
            let sent = rustix::net::sendmsg(
                &self.socket,
                parts,
                &mut rustix::net::SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            );
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => IoSlice::advance_slices(&mut parts, sent),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
        Ok(())
    }

    /// End both directions: whoever reads or writes comes back at once.
    pub(super) fn close(&self) {
        if let Err(error) = rustix::net::shutdown(self.socket.as_fd(), rustix::net::Shutdown::Both)
        {
            log::debug!("a connection is gone already: {error}");
        }
    }
}

/// A timeout of the socket is told as `EAGAIN`.
fn timed_out(error: rustix::io::Errno) -> io::Error {
    if error == rustix::io::Errno::AGAIN {
        return io::ErrorKind::TimedOut.into();
    }
    error.into()
}
