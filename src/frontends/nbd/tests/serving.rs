//! The whole server, on every kind of socket, with clients that behave and clients that do not.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::Shelf;
use crate::Refusal;
use crate::disk::Peer;
use crate::frontends::nbd::config::Dialect;
use crate::frontends::nbd::config::Family;
use crate::frontends::nbd::testing::{certificates, pipes_of_client, within};
use crate::frontends::nbd::{Bounds, Place, Server, Setup, TlsMode, TlsSetup};
use crate::frontends::testing::{Mood, Recorder, skipped};
use crate::logging;

const SIZE: u64 = 16 << 20;
const LONG: Duration = Duration::from_secs(60);

/// A server of one disk of numbered blocks, and what it takes to try it.
struct Bench {
    folder: tempfile::TempDir,
    disk: Arc<Recorder>,
    bounds: Bounds,
    tls: TlsSetup,
    ended: (mpsc::Sender<String>, mpsc::Receiver<String>),
}

impl Bench {
    fn new() -> Self {
        Self::of_size(SIZE)
    }

    fn of_size(size: u64) -> Self {
        let disk = Recorder::new(size, |_| {});
        disk.fill(byte_at);
        Self {
            folder: tempfile::tempdir().unwrap(),
            disk,
            bounds: Bounds::default(),
            tls: TlsSetup::default(),
            ended: mpsc::channel(),
        }
    }

    fn start(&self, address: &str) -> Server {
        self.try_start(address, Vec::new()).unwrap()
    }

    fn try_start(&self, address: &str, passed: Vec<OwnedFd>) -> Result<Server, Refusal> {
        let shelf = Shelf {
            disk: Arc::clone(&self.disk) as _,
            welcome: true,
        };
        let setup = Setup {
            address: address.parse()?,
            folder: self.folder.path().to_owned(),
            bounds: self.bounds.clone(),
            tls: self.tls.clone(),
            dialect: Dialect::default(),
            family: Family::Any,
            label: None,
            passed,
        };
        Server::start(setup, Arc::new(shelf), self.ended.0.clone())
    }

    fn refusal(&self, address: &str, passed: Vec<OwnedFd>) -> String {
        let refused = self.try_start(address, passed).map(|server| server.uri());
        refused.unwrap_err().to_string()
    }
}

fn byte_at(at: usize) -> u8 {
    u8::try_from(at / 4096 % 251).unwrap()
}

/// A client that reads.
struct Reader<S>(S);

impl<S: Read + Write> Reader<S> {
    /// Exchange greetings.
    fn greet(mut stream: S) -> io::Result<Self> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03");
        stream.write_all(&[0, 0, 0, 3])?;
        Ok(Self(stream))
    }

    /// Connect to the disk.
    fn go(stream: S) -> io::Result<Self> {
        let mut reader = Self::greet(stream)?;
        assert_eq!(reader.option(7, b"\0\0\0\x04disk\0\0")?, 1);
        Ok(reader)
    }

    /// Send an option and give the kind of its last reply.
    fn option(&mut self, number: u32, data: &[u8]) -> io::Result<u32> {
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        let option = [b"IHAVEOPT", &number.to_be_bytes()[..], &len, data].concat();
        self.0.write_all(&option)?;
        self.0.flush()?;
        loop {
            let mut head = [0; 20];
            self.0.read_exact(&mut head)?;
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let len = u32::from_be_bytes(head[16..].try_into().unwrap());
            io::copy(&mut (&mut self.0).take(len.into()), &mut io::sink())?;
            if kind == 1 || kind >> 31 == 1 {
                return Ok(kind);
            }
        }
    }

    fn ask(&mut self, cookie: u64, at: u64, len: u32) -> io::Result<()> {
        let request = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &[0; 4],
            &cookie.to_be_bytes(),
            &at.to_be_bytes(),
            &len.to_be_bytes(),
        ];
        self.0.write_all(&request.concat())?;
        self.0.flush()
    }

    /// Receive the reply to a read of `len` bytes; the cookie is the offset.
    fn receive(&mut self, len: usize) -> io::Result<()> {
        let mut head = [0; 16];
        self.0.read_exact(&mut head)?;
        assert_eq!(&head[..8], b"\x67\x44\x66\x98\0\0\0\0");
        let at = u64::from_be_bytes(head[8..].try_into().unwrap());
        let mut data = vec![0; len];
        self.0.read_exact(&mut data)?;
        let at = usize::try_from(at).unwrap();
        assert!(
            data.iter()
                .enumerate()
                .all(|(i, byte)| *byte == byte_at(at + i))
        );
        Ok(())
    }

    fn read(&mut self, at: u64, len: u32) -> io::Result<()> {
        self.ask(at, at, len)?;
        self.receive(usize::try_from(len).unwrap())
    }

    /// The server must say nothing more but that this is the end.
    fn expect_end(mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{} more bytes", rest.len()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

fn port_of(server: &Server) -> u16 {
    match server.address().place {
        Place::Tcp { port, .. } => port,
        ref other => panic!("{other:?}"),
    }
}

fn tcp(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port_of(server))).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn unix(server: &Server) -> UnixStream {
    let stream = UnixStream::connect(server.unix_socket().unwrap()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: still not so");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn both_loopback_addresses_are_served_and_no_other() {
    let server = Bench::new().start("nbd://localhost:0/disk");
    let port = port_of(&server);
    assert_eq!(server.uri(), format!("nbd://localhost:{port}/disk"));
    assert_eq!(server.unix_socket(), None);
    let mut client = Reader::go(tcp(&server)).unwrap();
    client.read(12345, 99999).unwrap();
    match TcpStream::connect(("::1", port)) {
        Ok(stream) => Reader::go(stream).unwrap().read(0, 512).unwrap(),
        Err(error) => skipped(&format!("this machine has no ::1: {error}")),
    }
    let listening: Vec<String> = [fs::read_to_string("/proc/net/tcp").unwrap()]
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.contains(&format!(":{port:04X} ")) && line.contains(" 0A "))
        .map(str::to_owned)
        .collect();
    assert_eq!(listening.len(), 1, "{listening:?}");
    assert!(listening[0].contains(" 0100007F:"), "{listening:?}");
}

#[test]
fn who_is_connected_is_known_until_it_leaves() {
    let server = Bench::new().start("nbd://localhost:0");
    let stream = tcp(&server);
    let address = stream.local_addr().unwrap();
    let idle = tcp(&server);
    let mut client = Reader::go(stream).unwrap();
    client.read(0, 512).unwrap();
    wait_until("two clients", || server.clients().len() == 2);
    let clients = server.clients();
    assert_eq!(clients[0].client.peer, Peer::Tcp(address));
    assert_eq!(clients[0].export.as_deref(), Some("disk"));
    assert!(!clients[0].tls);
    assert_eq!(clients[1].export, None);
    assert!(clients[1].client.number > clients[0].client.number);
    drop(client);
    wait_until("one client", || server.clients().len() == 1);
    drop(idle);
    wait_until("no client", || server.clients().is_empty());
}

#[test]
fn a_unix_socket_is_for_its_owner_and_gone_at_the_end() {
    let bench = Bench::new();
    let server = bench.start("nbd+unix:///disk");
    let path = server.unix_socket().unwrap().to_owned();
    assert_eq!(path, bench.folder.path().join("nbd.sock"));
    let uri = format!("nbd+unix:///disk?socket={}", path.display());
    assert_eq!(server.uri(), uri);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = Reader::go(unix(&server)).unwrap();
    client.read(SIZE - 512, 512).unwrap();
    let Peer::Unix { pid, uid, .. } = server.clients()[0].client.peer else {
        panic!("{:?}", server.clients());
    };
    assert_eq!(u32::try_from(pid).unwrap(), std::process::id());
    assert_eq!(uid, rustix::process::geteuid().as_raw());
    server.stop();
    assert!(!path.exists());
    client.expect_end();
}

#[test]
fn a_socket_that_somebody_listens_on_is_never_taken() {
    let bench = Bench::new();
    let path = bench.folder.path().join("a b");
    let uri = format!("nbd+unix:///?socket={}", path.display()).replace(' ', "%20");
    let first = bench.start(&uri);
    let refusal = bench.refusal(&uri, Vec::new());
    assert!(refusal.contains("another process listens"), "{refusal}");
    Reader::go(unix(&first)).unwrap().read(0, 512).unwrap();
    // Nor is one removed that took the place of the server's own.
    fs::remove_file(&path).unwrap();
    let others = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    assert!(bench.try_start(&uri, Vec::new()).is_err());
    drop(others);
    // Nobody listens any more.
    let second = bench.start(&uri);
    Reader::go(unix(&second)).unwrap().read(0, 512).unwrap();
    drop(second);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    let refusal = bench.refusal(&uri, Vec::new());
    assert!(refusal.contains("a file of this name"), "{refusal}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn of_many_that_find_an_old_socket_one_gets_it() {
    let bench = Bench::new();
    let path = bench.folder.path().join("old");
    drop(UnixListener::bind(&path).unwrap());
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let starters: Vec<_> = (0..8)
        .map(|_| {
            let (folder, uri) = (path.parent().unwrap().to_owned(), uri.clone());
            thread::spawn(move || {
                let bench = Bench::of_size(4096);
                assert!(folder.is_dir());
                bench.try_start(&uri, Vec::new()).ok()
            })
        })
        .collect();
    let started: Vec<_> = starters
        .into_iter()
        .filter_map(|starter| starter.join().unwrap())
        .collect();
    assert_eq!(started.len(), 1);
    Reader::go(unix(&started[0])).unwrap().read(0, 512).unwrap();
}

#[test]
fn what_cannot_be_listened_on_is_told() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (address, what) in [
        (format!("nbd://localhost:{port}"), "in use"),
        (format!("nbd://127.0.0.1:{port}"), "in use"),
        ("nbd://192.0.2.1:0".to_owned(), "192.0.2.1:0: "),
        (
            "nbd://no-such-host.invalid".to_owned(),
            "host `no-such-host.invalid`",
        ),
        (
            "nbd+unix:///?socket=/no/folder/x".to_owned(),
            "folder `/no/folder`: ",
        ),
        (
            format!("nbd+unix:///?socket=/tmp/{}", "x".repeat(120)),
            "at most 107 bytes",
        ),
        ("nbd+systemd:".to_owned(), "passed no socket"),
        ("nbd+stdio:".to_owned(), "were not passed"),
        (
            "nbds://localhost:0".to_owned(),
            "no folder with certificates",
        ),
    ] {
        let refusal = bench.refusal(&address, Vec::new());
        assert!(refusal.contains(what), "{address}: {refusal}");
        assert!(!refusal.contains("(os error"), "{refusal}");
    }
    let connected = UnixStream::pair().unwrap().0;
    let refusal = bench.refusal("nbd+systemd:", vec![connected.into()]);
    assert!(refusal.contains("no listening stream socket"), "{refusal}");
    let files = || fs::File::open("/dev/null").unwrap().into();
    let refusal = bench.refusal("nbd+systemd:", vec![files()]);
    assert!(refusal.contains("no socket"), "{refusal}");
    let folder = || fs::File::open("/").unwrap().into();
    let refusal = bench.refusal("nbd+stdio:", vec![folder(), files()]);
    assert!(
        refusal.contains("one socket, or two pipes or files"),
        "{refusal}"
    );
}

#[test]
fn sockets_of_systemd_are_served_and_left_where_they_are() {
    let bench = Bench::new();
    let path = bench.folder.path().join("of-systemd");
    let local = UnixListener::bind(&path).unwrap();
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = remote.local_addr().unwrap();
    let passed = vec![local.into(), remote.into()];
    let server = bench.try_start("nbd+systemd:///disk", passed).unwrap();
    let uri = format!("nbd+unix:///disk?socket={}", path.display());
    assert_eq!(server.uri(), uri);
    Reader::go(unix(&server)).unwrap().read(7, 9).unwrap();
    let remote = TcpStream::connect(address).unwrap();
    Reader::go(remote).unwrap().read(7, 9).unwrap();
    server.stop();
    assert!(path.exists());
}

#[test]
fn a_client_on_standard_input_and_output_is_the_only_one() {
    let bench = Bench::new();
    for over_pipes in [false, true] {
        let (passed, client): (Vec<OwnedFd>, Box<dyn Duplex>) = if over_pipes {
            let (passed, client) = pipes_of_client();
            (passed, Box::new(client))
        } else {
            let (client, server) = UnixStream::pair().unwrap();
            let again = server.try_clone().unwrap();
            (vec![server.into(), again.into()], Box::new(client))
        };
        let server = bench.try_start("nbd+stdio:", passed).unwrap();
        let mut client = Reader::go(client).unwrap();
        client.read(4095, 1 << 20).unwrap();
        let peer = &server.clients()[0].client.peer;
        match over_pipes {
            true => assert_eq!(*peer, Peer::Stdio),
            // The kernel knows who has made the socket.
            false => assert!(
                matches!(peer, Peer::Unix { pid, .. } if pid.cast_unsigned() == std::process::id()),
                "{peer:?}"
            ),
        }
        assert!(!server.left());
        drop(client);
        bench.ended.1.recv_timeout(LONG).unwrap();
        assert!(server.left());
        server.stop();
    }
    // Who is stopped has not ended by itself.
    let (passed, client) = pipes_of_client();
    let server = bench.try_start("nbd+stdio:", passed).unwrap();
    let client = Reader::go(client).unwrap();
    within(LONG, move || server.stop());
    assert!(bench.ended.1.try_recv().is_err());
    client.expect_end();
}

trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

#[test]
fn vsock_is_served_where_the_kernel_has_it() {
    use pydisk_kernel::vsock;
    let bench = Bench::new();
    let server = match bench.try_start("nbd+vsock://:0/disk", Vec::new()) {
        Ok(server) => server,
        Err(refusal) => {
            skipped(&refusal.to_string());
            return;
        }
    };
    let Place::Vsock(port) = server.address().place else {
        panic!("{:?}", server.address());
    };
    match vsock::connect(vsock::End { cid: 1, port }) {
        Ok(socket) => {
            // Reading and writing is the same for all sockets.
            let mut client = Reader::go(UnixStream::from(socket)).unwrap();
            client.read(1, 100_000).unwrap();
            let peer = server.clients()[0].client.peer.clone();
            assert!(matches!(peer, Peer::Vsock { cid: 1, .. }), "{peer:?}");
        }
        Err(error) => skipped(&format!("no vsock to this machine itself: {error}")),
    }
}

fn encrypted<S: Read + Write>(socket: S) -> StreamOwned<ClientConnection, S> {
    let mut roots = RootCertStore::empty();
    let authority = certificates().join("ca-cert.pem");
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, socket)
}

const STARTTLS: u32 = 5;

#[test]
fn where_tls_is_required_nothing_is_told_without_it() {
    let mut bench = Bench::new();
    bench.tls.certificates = Some(certificates());
    let server = bench.start("nbds+unix:///disk");
    assert!(server.uri().starts_with("nbds+unix:///disk?"));
    let mut clear = Reader::greet(unix(&server)).unwrap();
    const TLS_REQUIRED: u32 = 0x8000_0005;
    assert_eq!(clear.option(3, b"").unwrap(), TLS_REQUIRED);
    let go = b"\0\0\0\x04disk\0\0";
    assert_eq!(clear.option(7, go).unwrap(), TLS_REQUIRED);
    assert_eq!(clear.option(STARTTLS, b"").unwrap(), 1);
    let mut secret = Reader(encrypted(clear.0));
    assert_eq!(secret.option(3, b"").unwrap(), 1);
    assert_eq!(secret.option(7, go).unwrap(), 1);
    secret.read(54321, 5 << 20).unwrap();
    let clients = server.clients();
    assert!(clients[0].tls && clients[0].export.is_some());
    within(LONG, move || server.stop());
    secret.expect_end();
}

#[test]
fn tls_that_is_allowed_is_the_clients_choice() {
    let mut bench = Bench::new();
    bench.tls = TlsSetup {
        mode: TlsMode::Allowed,
        certificates: Some(certificates()),
        verify_peer: false,
    };
    let server = bench.start("nbd://localhost:0");
    let mut clear = Reader::go(tcp(&server)).unwrap();
    let mut start = Reader::greet(tcp(&server)).unwrap();
    assert_eq!(start.option(8, b"").unwrap(), 1, "structured replies");
    assert_eq!(start.option(STARTTLS, b"").unwrap(), 1);
    let mut secret = Reader(encrypted(start.0));
    // What was chosen in clear text is forgotten: contexts need structured replies.
    assert_eq!(secret.option(10, b"\0\0\0\0\0\0\0\0").unwrap(), 0x8000_0003);
    assert_eq!(secret.option(STARTTLS, b"").unwrap(), 0x8000_0003);
    assert_eq!(secret.option(7, b"\0\0\0\x04disk\0\0").unwrap(), 1);
    clear.read(0, 1 << 20).unwrap();
    // Many requests under way, and a client that reads late.
    for at in 0..64 {
        secret.ask(at << 16, at << 16, 1 << 16).unwrap();
    }
    for _ in 0..64 {
        secret.receive(1 << 16).unwrap();
    }
    clear.read(SIZE / 2, 1 << 20).unwrap();
}

#[test]
fn a_thousand_who_say_nothing_keep_nobody_waiting() {
    within(LONG, || {
        let mut bench = Bench::new();
        bench.bounds.handshake = Duration::from_secs(3);
        let server = bench.start("nbd+unix:");
        let idle: Vec<UnixStream> = (0..1000).map(|_| unix(&server)).collect();
        for _ in 0..20 {
            Reader::go(unix(&server)).unwrap().read(0, 4096).unwrap();
        }
        for mut stream in idle {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            assert_eq!(heard.len(), 18);
        }
        wait_until("nobody is connected", || server.clients().is_empty());
        Reader::go(unix(&server)).unwrap().read(0, 4096).unwrap();
    });
}

#[test]
fn a_client_that_does_not_read_keeps_no_other_waiting() {
    within(LONG, || {
        let bench = Bench::new();
        let server = bench.start("nbd://localhost:0");
        let mut lazy = Reader::go(tcp(&server)).unwrap();
        for at in 0..8 {
            lazy.ask((at % 4) << 22, (at % 4) << 22, 4 << 20).unwrap();
        }
        for _ in 0..4 {
            let mut other = Reader::go(tcp(&server)).unwrap();
            other.read(SIZE - (4 << 20), 4 << 20).unwrap();
        }
        // It still gets what it asked for, in the order in which it is served.
        for _ in 0..8 {
            lazy.receive(4 << 20).unwrap();
        }
    });
}

#[test]
fn a_client_that_says_nothing_more_gets_its_last_replies() {
    within(LONG, || {
        let bench = Bench::new();
        let server = bench.start("nbd://localhost:0");
        let mut client = Reader::go(tcp(&server)).unwrap();
        for at in 0..16 {
            client.ask(at << 19, at << 19, 1 << 19).unwrap();
        }
        client.0.shutdown(Shutdown::Write).unwrap();
        for _ in 0..16 {
            client.receive(1 << 19).unwrap();
        }
        client.expect_end();
        wait_until("it is gone", || server.clients().is_empty());
    });
}

#[test]
fn requests_under_way_are_answered_when_the_server_stops() {
    within(LONG, || {
        for tls in [false, true] {
            let mut bench = Bench::new();
            bench.tls.certificates = Some(certificates());
            bench.tls.mode = if tls { TlsMode::Required } else { TlsMode::Off };
            let server = bench.start("nbd://localhost:0");
            let mut start = Reader::greet(tcp(&server)).unwrap();
            // Is told second, so that the other one has been told when this one ends.
            let idle = Reader::greet(tcp(&server)).unwrap();
            let mut client = if tls {
                assert_eq!(start.option(STARTTLS, b"").unwrap(), 1);
                Reader(Box::new(encrypted(start.0)) as Box<dyn Duplex>)
            } else {
                Reader(Box::new(start.0) as Box<dyn Duplex>)
            };
            assert_eq!(client.option(7, b"\0\0\0\x04disk\0\0").unwrap(), 1);
            bench.disk.mood(Mood::Hangs);
            client.ask(4096, 4096, 1 << 20).unwrap();
            wait_until("the disk is asked", || bench.disk.is_waited_for());
            let stopping = thread::spawn(move || server.stop());
            // Who only negotiates has nothing under way.
            idle.expect_end();
            client.ask(0, 0, 512).unwrap();
            assert!(!stopping.is_finished());
            bench.disk.mood(Mood::Works);
            client.receive(1 << 20).unwrap();
            stopping.join().unwrap();
            client.expect_end();
        }
    });
}

#[test]
fn a_client_that_does_not_read_does_not_keep_the_server_from_stopping() {
    within(LONG, || {
        for address in ["nbd://localhost:0", "nbd+unix:"] {
            let bench = Bench::new();
            let server = bench.start(address);
            let stream: Box<dyn Duplex> = match server.unix_socket() {
                Some(_) => Box::new(unix(&server)),
                None => Box::new(tcp(&server)),
            };
            let mut lazy = Reader::go(stream).unwrap();
            for at in 0..8 {
                lazy.ask((at % 4) << 22, (at % 4) << 22, 4 << 20).unwrap();
            }
            thread::sleep(Duration::from_millis(100));
            server.stop();
            assert_eq!(Arc::strong_count(&bench.disk), 1);
        }
    });
}

/// Runs the test of this name in a process that may have this many descriptors.
fn alone(name: &str, descriptors: u32) -> String {
    let done = Command::new("sh")
        .args(["-c", &format!("ulimit -n {descriptors}; exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg(format!("frontends::nbd::tests::serving::{name}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    said
}

#[test]
fn without_descriptors_the_server_says_so_and_goes_on() {
    let said = alone("in_a_process_with_few_descriptors", 100);
    assert!(said.contains("cannot accept a client"), "{said}");
}

#[test]
#[ignore = "for a process of its own"]
fn in_a_process_with_few_descriptors() {
    logging::start("test", logging::Detail::Warnings);
    within(LONG, || {
        let mut bench = Bench::new();
        bench.bounds.clients = 200;
        let server = bench.start("nbd+unix:");
        let mut first = Reader::go(unix(&server)).unwrap();
        // Client and server share the limit, so that it is reached with half of it.
        let mut idle = Vec::new();
        while let Ok(stream) = UnixStream::connect(server.unix_socket().unwrap()) {
            idle.push(stream);
        }
        assert!(idle.len() > 20, "{}", idle.len());
        first.read(0, 4096).unwrap();
        thread::sleep(Duration::from_millis(300));
        first.read(0, 4096).unwrap();
        idle.truncate(1);
        wait_until("others are served again", || {
            UnixStream::connect(server.unix_socket().unwrap())
                .and_then(|stream| {
                    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                    Reader::go(stream)?.read(0, 512)
                })
                .is_ok()
        });
        server.stop();
    });
}

#[test]
fn the_limit_on_descriptors_is_raised_to_what_clients_need() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < 4096) {
        skipped("this process may not raise its limit so far");
        return;
    }
    let _server = Bench::new().start("nbd+unix:");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert!(
        limit.current.is_none_or(|now| now >= 256 + 2048),
        "{limit:?}"
    );
}
