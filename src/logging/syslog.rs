//! The system's log: datagrams to `/dev/log`, as syslog(3) sends them and journald and every syslog
//! daemon read them. Nothing here ever waits: a log that is not read loses lines.

use std::os::unix::net::UnixDatagram;

use log::Level;

/// Where the system listens.
const PATH: &str = "/dev/log";

/// `LOG_DAEMON` of syslog(3), above the three bits of the priority.
const DAEMON: u8 = 3 << 3;

/// Bytes of a line that every daemon takes.
const LONGEST: usize = 2048;

/// The system's log.
#[derive(Debug)]
pub(super) struct Socket(UnixDatagram);

impl Socket {
    /// None where the system has no log, as in most containers.
    pub(super) fn open() -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(PATH).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self(socket))
    }

    /// Tell it, a line for each of the text's.
    pub(super) fn send(&self, level: Level, text: &str) {
        let priority = DAEMON
            | match level {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
        let pid = std::process::id();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let line = &line[..line.floor_char_boundary(LONGEST)];
            // The same stands in the attachment's own log.
            self.0
                .send(format!("<{priority}>pydisk[{pid}]: {line}").as_bytes())
                .unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_datagram_with_its_priority() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        Socket(theirs).send(Level::Error, "x: error: one\n two\n");
        let mut buffer = [0; 4096];
        for text in ["x: error: one", " two"] {
            let len = ours.recv(&mut buffer).unwrap();
            let expected = format!("<27>pydisk[{}]: {text}", std::process::id());
            assert_eq!(String::from_utf8_lossy(&buffer[..len]), expected);
        }
    }
}
