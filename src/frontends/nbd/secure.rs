//! Encryption on a client's stream, for one reader and one writer at the same time.
//!
//! The session is locked only while bytes are encrypted or decrypted and handed to a kernel that has
//! room for them, never by somebody who waits: a reader that waits for the client keeps no writer
//! from it, and the other way round.

use std::io::{self, IoSlice, Read};
use std::ops::Range;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::ServerConnection;

use super::stream::Stream;
use super::tls::Identity;

/// What a client sends is read in pieces of this many bytes: four records of the largest size.
const PIECE: usize = 64 << 10;

/// The encryption of one connection.
#[derive(Debug)]
pub(super) struct Secure {
    /// The state of both directions. The last of the three locks that is taken.
    session: Mutex<ServerConnection>,
    /// Bytes from the client that are not decrypted yet; held by who reads, also while it waits.
    incoming: Mutex<Incoming>,
    /// Held by who writes, also while it waits, so that one message follows another.
    outgoing: Mutex<()>,
}

#[derive(Debug)]
struct Incoming {
    bytes: Vec<u8>,
    filled: Range<usize>,
}

impl Incoming {
    fn receive(&mut self, stream: &Stream, deadline: Option<Instant>) -> io::Result<usize> {
        let received = stream.receive(&mut self.bytes, deadline)?;
        self.filled = 0..received;
        Ok(received)
    }

    /// Hand some bytes to the session, which takes what it has room for.
    fn give(&mut self, session: &mut ServerConnection) -> io::Result<()> {
        let taken = session.read_tls(&mut &self.bytes[self.filled.clone()])?;
        self.filled.start += taken;
        session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(())
    }
}

impl Secure {
    /// Answer the client's handshake.
    pub(super) fn answer(
        identity: &Identity,
        stream: &Stream,
        deadline: Option<Instant>,
    ) -> io::Result<Self> {
        let mut session = identity.session().map_err(io::Error::other)?;
        let mut incoming = Incoming {
            bytes: vec![0; PIECE],
            filled: 0..0,
        };
        while session.is_handshaking() {
            if incoming.filled.is_empty() && incoming.receive(stream, deadline)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // Word of what was wrong with the client's part goes out, too.
            let given = incoming.give(&mut session);
            while !push(&mut session, stream)? {
                stream.wait_for_room(deadline)?;
            }
            given?;
        }
        Ok(Self {
            session: Mutex::new(session),
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(()),
        })
    }

    /// Read what is there, at least one byte; 0 at the end of the stream.
    pub(super) fn read(
        &self,
        stream: &Stream,
        buf: &mut [u8],
        deadline: Option<Instant>,
    ) -> io::Result<usize> {
        let mut incoming = self.incoming.lock();
        loop {
            if let Some(read) = self.decrypt(&mut incoming, stream, buf)? {
                return Ok(read);
            }
            if incoming.receive(stream, deadline)? == 0 {
                return Ok(0);
            }
        }
    }

    /// As much of `buf` as there are bytes for; none if nothing is there.
    fn decrypt(
        &self,
        incoming: &mut Incoming,
        stream: &Stream,
        buf: &mut [u8],
    ) -> io::Result<Option<usize>> {
        let mut session = self.session.lock();
        let mut read = 0;
        while read < buf.len() {
            match session.reader().read(&mut buf[read..]) {
                // The client has said that nothing follows.
                Ok(0) => return Ok(Some(read)),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if incoming.filled.is_empty() {
                        break;
                    }
                    if let Err(error) = incoming.give(&mut session) {
                        self.alert(&mut session, stream);
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok((read > 0).then_some(read))
    }

    /// Write all of `parts`, one behind the other.
    pub(super) fn write_all(
        &self,
        stream: &Stream,
        mut parts: &mut [IoSlice<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let _one_message = self.outgoing.lock();
        IoSlice::advance_slices(&mut parts, 0);
        loop {
            let all_sent = {
                let mut session = self.session.lock();
                if !parts.is_empty() {
                    let taken = io::Write::write_vectored(&mut session.writer(), parts)?;
                    IoSlice::advance_slices(&mut parts, taken);
                }
                push(&mut session, stream)?
            };
            if !all_sent {
                stream.wait_for_room(deadline)?;
            } else if parts.is_empty() {
                return Ok(());
            }
        }
    }

    /// Say that nothing follows, if that can be said at once.
    pub(super) fn say_goodbye(&self, stream: &Stream) {
        let mut session = self.session.lock();
        session.send_close_notify();
        self.alert(&mut session, stream);
    }

    /// Send what the session has to say, unless somebody else writes: a client that does not read
    /// gets no explanation.
    fn alert(&self, session: &mut ServerConnection, stream: &Stream) {
        let Some(_one_message) = self.outgoing.try_lock() else {
            return;
        };
        if let Err(error) = push(session, stream) {
            log::debug!("a client does not hear the end of its connection: {error}");
        }
    }
}

/// Send what is encrypted and tell whether that was all; there may be no room for more.
fn push(session: &mut ServerConnection, stream: &Stream) -> io::Result<bool> {
    while session.wants_write() {
        match session.write_tls(&mut &*stream) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
