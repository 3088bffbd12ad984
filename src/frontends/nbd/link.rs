//! The connection to one client: its stream, and the encryption that may lie on top of it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::secure::Secure;
use super::stream::Stream;
use super::tls::Identity;
use crate::disk::{Cancel, Certificate};

/// A connection to a client, used by several threads: one reads at a time and one writes at a time,
/// which is for them to arrange. Nothing is ever read that was not asked for.
#[derive(Debug)]
pub(super) struct Link {
    stream: Arc<Stream>,
    secure: Option<Box<Secure>>,
    /// When reading and writing ends with `TimedOut`; held only while looked at.
    deadline: Mutex<Option<Instant>>,
    cancel: Cancel,
}

impl Link {
    /// A link over a blocking stream socket.
    #[allow(dead_code, reason = "for links that no server watches")]
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self::over(Arc::new(Stream::socket(socket)))
    }

    /// A link over a stream that somebody else may end.
    pub(super) fn over(stream: Arc<Stream>) -> Self {
        let heard = Arc::clone(&stream);
        Self {
            cancel: Cancel::unless(move || heard.is_heard()),
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

    /// Whether the client has ended its side of the connection.
    pub(super) fn is_gone(&self) -> bool {
        self.stream.is_gone()
    }

    /// Tells, without waiting, whether an answer may still reach the client.
    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
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

    /// What the client showed of itself when encryption was started.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        self.secure.as_ref()?.certificate()
    }

    /// Read what is there, at least one byte; 0 at the end of the stream, and once the server stops.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.secure {
            Some(secure) => secure.read(&self.stream, buf, self.deadline()),
            None => self.stream.receive(buf, self.deadline()),
        }
    }

    /// Read what is there without waiting, and none if nothing is; 0 as for [`Self::read`].
    pub(super) fn read_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match &self.secure {
            Some(secure) => secure.read_now(&self.stream, buf),
            None => self.stream.receive_now(buf),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use crate::frontends::nbd::testing::{pipes, tcp_pair, within};

    #[test]
    fn a_write_to_a_client_that_does_not_read_ends_at_the_deadline() {
        let (server, _client) = tcp_pair();
        let link = Link::new(server);
        link.set_deadline(Some(Instant::now() + Duration::from_millis(200)))
            .unwrap();
        let much = vec![7; 64 << 20];
        let error = link.write_all(&mut [IoSlice::new(&much)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn bytes_that_come_singly_do_not_put_the_deadline_off() {
        let (server, mut client) = tcp_pair();
        let link = Link::new(server);
        link.set_deadline(Some(Instant::now() + Duration::from_millis(300)))
            .unwrap();
        let drip = thread::spawn(move || {
            while client.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let error = link.read_exact(&mut [0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(link);
        drip.join().unwrap();
    }

    #[test]
    fn without_a_deadline_a_read_waits() {
        let (server, mut client) = tcp_pair();
        let link = Link::new(server);
        link.set_deadline(Some(Instant::now() + Duration::from_secs(60)))
            .unwrap();
        link.set_deadline(None).unwrap();
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            client.write_all(b"late").unwrap();
            client
        });
        let mut heard = [0; 4];
        link.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"late");
        drop(late.join().unwrap());
        assert_eq!(link.read(&mut heard).unwrap(), 0);
        let error = link.read_exact(&mut heard).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn many_parts_are_written_in_order() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let link = Link::new(server.into());
        let numbers: Vec<[u8; 4]> = (0..5000_u32).map(u32::to_be_bytes).collect();
        let mut parts: Vec<IoSlice<'_>> = numbers.iter().map(|one| IoSlice::new(one)).collect();
        parts.insert(0, IoSlice::new(b""));
        link.write_all(&mut parts).unwrap();
        link.write_all(&mut []).unwrap();
        drop(link);
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, numbers.concat());
    }

    #[test]
    fn closing_brings_back_who_reads_and_who_writes() {
        for over_pipes in [false, true] {
            within(Duration::from_secs(20), move || {
                let (stream, _client): (_, Box<dyn Send>) = if over_pipes {
                    let (stream, ends) = pipes();
                    (Arc::new(stream), Box::new(ends))
                } else {
                    let (server, client) = tcp_pair();
                    (Arc::new(Stream::socket(server)), Box::new(client))
                };
                let link = Link::over(Arc::clone(&stream));
                thread::scope(|scope| {
                    let reader = scope.spawn(|| link.read(&mut [0; 9]));
                    let writer =
                        scope.spawn(|| link.write_all(&mut [IoSlice::new(&vec![0; 64 << 20])]));
                    thread::sleep(Duration::from_millis(100));
                    stream.close();
                    assert_eq!(reader.join().unwrap().unwrap(), 0);
                    assert!(writer.join().unwrap().is_err());
                });
            });
        }
    }

    #[test]
    fn after_reading_was_stopped_replies_still_go_out() {
        within(Duration::from_secs(20), || {
            let (server, mut client) = tcp_pair();
            let stream = Arc::new(Stream::socket(server));
            let link = Link::over(Arc::clone(&stream));
            client.write_all(b"more requests").unwrap();
            thread::scope(|scope| {
                let reader = scope.spawn(|| link.read_exact(&mut [0; 99]));
                thread::sleep(Duration::from_millis(50));
                stream.stop_reading();
                let error = reader.join().unwrap().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            });
            client.write_all(b"even more").unwrap();
            assert_eq!(link.read(&mut [0; 9]).unwrap(), 0);
            let reply = vec![5; 1 << 20];
            let writer = thread::spawn(move || {
                link.write_all(&mut [IoSlice::new(&reply)]).unwrap();
                drop(link);
                stream.linger(Duration::from_secs(5));
            });
            let mut heard = vec![0; 1 << 20];
            client.read_exact(&mut heard).unwrap();
            assert!(heard.iter().all(|byte| *byte == 5));
            writer.join().unwrap();
        });
    }

    #[test]
    fn two_pipes_are_a_link() {
        let (stream, (mut to_server, mut from_server)) = pipes();
        let link = Link::over(Arc::new(stream));
        let error = {
            link.set_deadline(Some(Instant::now() + Duration::from_millis(50)))
                .unwrap();
            link.read(&mut [0; 4]).unwrap_err()
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        link.set_deadline(None).unwrap();
        to_server.write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        link.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ping");
        let much = vec![3; 1 << 20];
        let reader = thread::spawn(move || {
            let mut heard = Vec::new();
            from_server.read_to_end(&mut heard).unwrap();
            heard
        });
        link.write_all(&mut [IoSlice::new(&much), IoSlice::new(b"!")])
            .unwrap();
        drop(to_server);
        assert_eq!(link.read(&mut heard).unwrap(), 0);
        drop(link);
        let heard = reader.join().unwrap();
        assert_eq!((heard.len(), heard.last()), ((1 << 20) + 1, Some(&b'!')));
    }
}
