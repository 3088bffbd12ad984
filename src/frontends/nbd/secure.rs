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
use x509_cert::der::Decode;

use super::stream::Stream;
use super::tls::Identity;
use crate::disk::Certificate;

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

    /// The names in the certificate that the client showed; it was verified, if one was asked for.
    pub(super) fn certificate(&self) -> Option<Certificate> {
        let session = self.session.lock();
        let shown = session.peer_certificates()?.first()?;
        match x509_cert::Certificate::from_der(shown) {
            Ok(found) => Some(Certificate {
                subject: found.tbs_certificate.subject.to_string(),
                issuer: found.tbs_certificate.issuer.to_string(),
            }),
            Err(error) => {
                log::warn!("the names in a client's certificate cannot be read: {error}");
                None
            }
        }
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

    /// Read what is there without waiting for the client, and none if nothing is; 0 at the end of the
    /// stream. One thread reads at a time, so nobody else's wait is waited for.
    pub(super) fn read_now(&self, stream: &Stream, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut incoming = self.incoming.lock();
        loop {
            if let Some(read) = self.decrypt(&mut incoming, stream, buf)? {
                return Ok(Some(read));
            }
            match stream.receive_now(&mut incoming.bytes)? {
                None => return Ok(None),
                Some(0) => return Ok(Some(0)),
                Some(received) => incoming.filled = 0..received,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use rustls::crypto::ring;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    use crate::frontends::nbd::config::{TlsMode, TlsSetup};
    use crate::frontends::nbd::link::Link;
    use crate::frontends::nbd::testing::{certificates, tcp_pair, within};
    use crate::frontends::nbd::tls::Tls;

    const LONG: Duration = Duration::from_secs(60);

    fn identity(verify_peer: bool) -> Identity {
        identity_in(&certificates(), verify_peer)
    }

    fn identity_in(folder: &std::path::Path, verify_peer: bool) -> Identity {
        let setup = TlsSetup {
            mode: TlsMode::Required,
            certificates: Some(folder.to_owned()),
            verify_peer,
        };
        match Tls::load(&setup).unwrap() {
            Tls::Required(identity) => identity,
            other => panic!("{other:?}"),
        }
    }

    type Client = StreamOwned<ClientConnection, TcpStream>;

    /// A client that trusts the test's authority and shows the certificate of this name.
    fn client(socket: TcpStream, shown: Option<&str>) -> Client {
        let file = |name: &str| certificates().join(name);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(file("ca-cert.pem")).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate =
                    CertificateDer::from_pem_file(file(&format!("{name}-cert.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(file(&format!("{name}-key.pem"))).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        let name = "localhost".try_into().unwrap();
        StreamOwned::new(
            ClientConnection::new(Arc::new(config), name).unwrap(),
            socket,
        )
    }

    /// The server's end after the handshake.
    fn secured(socket: OwnedFd, identity: &Identity) -> io::Result<Link> {
        let mut link = Link::new(socket);
        link.start_tls(identity)?;
        Ok(link)
    }

    /// A server and a client that have greeted each other.
    fn pair() -> (Link, Client) {
        let (server, socket) = tcp_pair();
        let mut client = client(socket, None);
        let server = thread::spawn(move || secured(server, &identity(false)).unwrap());
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        (server.join().unwrap(), client)
    }

    fn numbered(len: usize) -> Vec<u8> {
        (0..len)
            .map(|at| u8::try_from(at / 7 % 251).unwrap())
            .collect()
    }

    #[test]
    fn a_reader_that_waits_keeps_no_writer_waiting() {
        within(LONG, || {
            let (link, mut client) = pair();
            let link = Arc::new(link);
            let reading = Arc::clone(&link);
            let reader = thread::spawn(move || {
                let mut heard = [0; 5];
                reading.read_exact(&mut heard).unwrap();
                heard
            });
            thread::sleep(Duration::from_millis(50));
            let much = numbered(8 << 20);
            let expected = much.clone();
            let writer = thread::spawn(move || {
                let (head, body) = much.split_at(16);
                link.write_all(&mut [IoSlice::new(head), IoSlice::new(body)])
                    .unwrap();
            });
            let mut heard = vec![0; 8 << 20];
            client.read_exact(&mut heard).unwrap();
            assert!(heard == expected);
            writer.join().unwrap();
            assert!(!reader.is_finished());
            client.write_all(b"hello").unwrap();
            client.flush().unwrap();
            assert_eq!(&reader.join().unwrap(), b"hello");
        });
    }

    #[test]
    fn a_writer_that_waits_keeps_no_reader_waiting() {
        within(LONG, || {
            let (link, mut client) = pair();
            let link = Arc::new(link);
            let writing = Arc::clone(&link);
            let much = numbered(64 << 20);
            let sent = much.clone();
            let writer = thread::spawn(move || writing.write_all(&mut [IoSlice::new(&sent)]));
            let reader = thread::spawn(move || {
                let mut heard = vec![0; 4 << 20];
                link.read_exact(&mut heard).unwrap();
                heard
            });
            // Nothing is read before all of this is written, which takes a server that reads.
            let mine = numbered(4 << 20);
            client.write_all(&mine).unwrap();
            client.flush().unwrap();
            assert!(reader.join().unwrap() == mine);
            assert!(!writer.is_finished());
            let mut heard = vec![0; 64 << 20];
            client.read_exact(&mut heard).unwrap();
            assert!(heard == much);
            writer.join().unwrap().unwrap();
        });
    }

    #[test]
    fn nothing_is_read_ahead_across_the_start() {
        within(LONG, || {
            let (server, socket) = tcp_pair();
            let mut client = client(socket, None);
            // In one segment: the request to encrypt and the first word of that.
            let mut first = b"start tls".to_vec();
            client.conn.write_tls(&mut first).unwrap();
            client.sock.write_all(&first).unwrap();
            let server = thread::spawn(move || {
                let mut link = Link::new(server);
                let mut asked = [0; 9];
                link.read_exact(&mut asked).unwrap();
                assert_eq!(&asked, b"start tls");
                link.start_tls(&identity(false)).unwrap();
                let mut heard = [0; 6];
                link.read_exact(&mut heard).unwrap();
                (link, heard)
            });
            // And the end of the handshake together with what follows it.
            while client.conn.is_handshaking() {
                if client.conn.wants_read() {
                    client.conn.read_tls(&mut client.sock).unwrap();
                    client.conn.process_new_packets().unwrap();
                } else {
                    break;
                }
            }
            client.conn.writer().write_all(b"follow").unwrap();
            let mut last = Vec::new();
            while client.conn.wants_write() {
                client.conn.write_tls(&mut last).unwrap();
            }
            client.sock.write_all(&last).unwrap();
            let (_link, heard) = server.join().unwrap();
            assert_eq!(&heard, b"follow");
        });
    }

    #[test]
    fn a_handshake_ends_at_the_deadline() {
        within(LONG, || {
            for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
                let (server, mut socket) = tcp_pair();
                socket.write_all(sent).unwrap();
                let mut link = Link::new(server);
                link.set_deadline(Some(Instant::now() + Duration::from_millis(200)))
                    .unwrap();
                let error = link.start_tls(&identity(false)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
        });
    }

    #[test]
    fn a_handshake_that_is_none_is_answered_with_an_alert() {
        within(LONG, || {
            let (server, mut socket) = tcp_pair();
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let error = secured(server, &identity(false)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let mut alert = [0; 2];
            socket.read_exact(&mut alert).unwrap();
            assert_eq!(alert, [21, 3]);
        });
    }

    #[test]
    fn bytes_that_were_changed_on_the_way_end_the_connection() {
        within(LONG, || {
            let (link, mut client) = pair();
            client.sock.write_all(b"\x17\x03\x03\x00\x20").unwrap();
            client.sock.write_all(&[1; 32]).unwrap();
            let error = link.read(&mut [0; 9]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        });
    }

    #[test]
    fn the_end_is_told_both_ways() {
        within(LONG, || {
            let (link, mut client) = pair();
            link.write_all(&mut [IoSlice::new(b"bye")]).unwrap();
            drop(link);
            let mut heard = Vec::new();
            // Without the word that nothing follows this would be an error.
            client.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"bye");

            let (link, mut client) = pair();
            client.write_all(b"last").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            let mut heard = [0; 9];
            assert_eq!(link.read(&mut heard).unwrap(), 4);
            assert_eq!(link.read(&mut heard).unwrap(), 0);
            // A client that only writes no more still reads.
            link.write_all(&mut [IoSlice::new(b"yes")]).unwrap();
            let mut heard = [0; 3];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"yes");

            let (link, client) = pair();
            client.sock.shutdown(Shutdown::Write).unwrap();
            assert_eq!(link.read(&mut [0; 9]).unwrap(), 0);
        });
    }

    #[test]
    fn keys_are_renewed_while_both_directions_are_in_use() {
        within(LONG, || {
            let (link, mut client) = pair();
            for _ in 0..3 {
                client.conn.refresh_traffic_keys().unwrap();
                client.write_all(b"fresh").unwrap();
                client.flush().unwrap();
                let mut heard = [0; 5];
                link.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"fresh");
                link.write_all(&mut [IoSlice::new(&heard)]).unwrap();
                client.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"fresh");
            }
        });
    }

    /// Whether a client that shows this certificate is let in by this server.
    fn let_in(identity: &Identity, shown: Option<&str>) -> bool {
        let (server, socket) = tcp_pair();
        let mut client = client(socket, shown);
        let identity = identity.clone();
        let server = thread::spawn(move || secured(server, &identity).is_ok());
        while client.conn.is_handshaking() {
            if client.conn.complete_io(&mut client.sock).is_err() {
                break;
            }
        }
        server.join().unwrap()
    }

    #[test]
    fn clients_show_certificates_where_that_is_wanted() {
        within(LONG, || {
            let anyone = identity(false);
            assert!(let_in(&anyone, None));
            assert!(let_in(&anyone, Some("stranger")));
            let known = identity(true);
            assert!(let_in(&known, Some("client")));
            assert!(let_in(&known, Some("revoked")));
            assert!(!let_in(&known, Some("stranger")));
            assert!(!let_in(&known, None));

            let folder = tempfile::tempdir().unwrap();
            for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
                std::fs::copy(certificates().join(name), folder.path().join(name)).unwrap();
            }
            let revocations = certificates().join("revocations.pem");
            std::fs::copy(revocations, folder.path().join("ca-crl.pem")).unwrap();
            let known = identity_in(folder.path(), true);
            assert!(let_in(&known, Some("client")));
            assert!(!let_in(&known, Some("revoked")));
        });
    }
}
