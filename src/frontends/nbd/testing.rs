//! What the tests of the server share: both ends of connections, and certificates.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::stream::Stream;

/// A server's end and its client.
pub(super) fn tcp_pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0.into(), client)
}

/// A server's stream, and the client's ends: to write and to read.
pub(super) fn pipes() -> (Stream, (File, File)) {
    let (input, to_server) = rustix::pipe::pipe().unwrap();
    let (from_server, output) = rustix::pipe::pipe().unwrap();
    let stream = Stream::pipes(&input, &output).unwrap();
    (stream, (to_server.into(), from_server.into()))
}

/// What a server gets for input and output, and the client behind them.
pub(super) fn pipes_of_client() -> (Vec<OwnedFd>, Pipes) {
    let (input, to_server) = rustix::pipe::pipe().unwrap();
    let (from_server, output) = rustix::pipe::pipe().unwrap();
    let client = Pipes {
        to_server: to_server.into(),
        from_server: from_server.into(),
    };
    (vec![input, output], client)
}

/// A client on two pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    to_server: File,
    from_server: File,
}

impl Read for Pipes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.from_server.read(buf)
    }
}

impl Write for Pipes {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.to_server.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Do something that might hang where there is a fault: then this panics.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    what: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = mpsc::channel();
    let doing = thread::spawn(move || done.send(what()).unwrap());
    match result.recv_timeout(limit) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still not done after {limit:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match doing.join() {
            Ok(()) => unreachable!("it was sent"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

/// The certificates of the tests.
pub(super) fn certificates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates")
}
