//! The connection to one client: its stream, and the encryption that may lie on top of it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::secure::Secure;
use super::stream::Stream;
use super::tls::Identity;

/// A connection to a client, used by several threads: one reads at a time and one writes at a time,
/// which is for them to arrange. Nothing is ever read that was not asked for.
#[derive(Debug)]
pub(super) struct Link {
    stream: Arc<Stream>,
    secure: Option<Box<Secure>>,
    /// When reading and writing ends with `TimedOut`; held only while looked at.
    deadline: Mutex<Option<Instant>>,
}

impl Link {
    /// A link over a blocking stream socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self::over(Arc::new(Stream::socket(socket)))
    }

    /// A link over a stream that somebody else may end.
    pub(super) fn over(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            secure: None,
            deadline: Mutex::new(None),
        }
    }

    /// From `at` on, reading and writing fails with `TimedOut`; never with `None`.
    pub(super) fn set_deadline(&self, at: Option<Instant>) -> io::Result<()> {
        *self.deadline.lock() = at;
        if at.is_none() {
            self.stream.forget_deadline()?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock()
    }

    /// Answer the client's handshake and encrypt from here on. Nothing of what the client sent after
    /// its request to start was read before.
    ///
    /// # Errors
    /// The handshake failed, or took longer than the deadline; the link is of no use any more.
    pub(super) fn start_tls(&mut self, identity: &Identity) -> io::Result<()> {
        let secure = Secure::answer(identity, &self.stream, self.deadline())?;
        self.secure = Some(Box::new(secure));
        Ok(())
    }

    /// Read what is there, at least one byte; 0 at the end of the stream, and once the server stops.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.secure {
            Some(secure) => secure.read(&self.stream, buf, self.deadline()),
            None => self.stream.receive(buf, self.deadline()),
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
    pub(super) fn write_all(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        match &self.secure {
            Some(secure) => secure.write_all(&self.stream, parts, self.deadline()),
            None => self.stream.send(parts, self.deadline()),
        }
    }

    /// End both directions: whoever reads or writes comes back at once.
    pub(super) fn close(&self) {
        if let Some(secure) = &self.secure {
            secure.say_goodbye(&self.stream);
        }
        self.stream.close();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
