//! An NBD client that sends any bytes, right or wrong, and reads what comes back.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST: u32 = 0x2560_9513;
pub const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// Options of the negotiation.
pub mod opt {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod rep {
    pub const ACK: u32 = 1;
    pub const INFO: u32 = 3;
    pub const ERR_TLS_REQD: u32 = 0x8000_0005;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// Commands of the transmission.
pub mod cmd {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// The bytes of an option.
pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = option_header(number, len);
    bytes.extend(data);
    bytes
}

/// The bytes of an option up to its data.
pub fn option_header(number: u32, len: u32) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// The data of `INFO` and `GO`.
pub fn export(name: &[u8], infos: &[u16]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name);
    data.extend(u16::try_from(infos.len()).unwrap().to_be_bytes());
    for info in infos {
        data.extend(info.to_be_bytes());
    }
    data
}

/// The data of the options about metadata contexts.
pub fn contexts(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(u32::try_from(query.len()).unwrap().to_be_bytes());
        data.extend(*query);
    }
    data
}

/// What a request says, but for its magic and its data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub at: u64,
    pub len: u64,
}

impl Ask {
    pub fn of(command: u16, at: u64, len: u64) -> Self {
        Self {
            command,
            cookie: 0x1122_3344_5566_7788,
            at,
            len,
            ..Self::default()
        }
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// The header of a request with a length of 32 bits.
    pub fn compact(self) -> Vec<u8> {
        let mut bytes = self.begin(REQUEST);
        bytes.extend(u32::try_from(self.len).unwrap().to_be_bytes());
        bytes
    }

    /// The header of a request with a length of 64 bits.
    pub fn extended(self) -> Vec<u8> {
        let mut bytes = self.begin(EXTENDED_REQUEST);
        bytes.extend(self.len.to_be_bytes());
        bytes
    }

    fn begin(self, magic: u32) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.at.to_be_bytes());
        bytes
    }
}

/// The reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionReply {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl OptionReply {
    pub fn is_error(&self) -> bool {
        self.kind & 0x8000_0000 != 0
    }
}

/// What a client learns of an export when it opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub size: u64,
    pub flags: u16,
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    pub stream: UnixStream,
}

impl Raw {
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Send bytes. A server that has closed already is found out by reading.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error) if is_gone(&error) => {}
            other => other.unwrap(),
        }
    }

    #[track_caller]
    pub fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    pub fn read_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[track_caller]
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.read())
    }

    #[track_caller]
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.read())
    }

    /// All that the server still sends, until it closes; fails when it does not.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if is_gone(&error) => {}
            other => drop(other.expect("the server neither answers nor closes")),
        }
        bytes
    }

    /// The server closes and has said nothing more.
    #[track_caller]
    pub fn ended(&mut self) {
        assert!(self.rest().is_empty(), "the server said something");
    }

    /// Nothing more will be sent, but what comes back is still read.
    pub fn half_close(&mut self) {
        match self.stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            other => other.unwrap(),
        }
    }

    /// Read the server's greeting; returns its flags.
    #[track_caller]
    pub fn greeting(&mut self) -> u16 {
        assert_eq!(&self.read::<8>(), b"NBDMAGIC");
        assert_eq!(&self.read::<8>(), b"IHAVEOPT");
        u16::from_be_bytes(self.read())
    }

    /// Read the greeting, answer it: fixed newstyle, no zeroes.
    #[track_caller]
    pub fn greet(&mut self) {
        assert_eq!(self.greeting() & 3, 3);
        self.send(&3_u32.to_be_bytes());
    }

    /// One reply to an option.
    #[track_caller]
    pub fn option_reply(&mut self) -> OptionReply {
        assert_eq!(self.u64(), OPTION_REPLY);
        let (option, kind) = (self.u32(), self.u32());
        let len = usize::try_from(self.u32()).unwrap();
        let data = self.read_vec(len);
        OptionReply { option, kind, data }
    }

    /// Send an option and read its replies, the last of which is an ACK or an error.
    #[track_caller]
    pub fn option(&mut self, number: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send(&option(number, data));
        let mut replies = Vec::new();
        loop {
            let reply = self.option_reply();
            assert_eq!(reply.option, number);
            let last = reply.kind == rep::ACK || reply.is_error();
            replies.push(reply);
            if last {
                return replies;
            }
        }
    }

    /// Send an option with one reply; returns its kind.
    #[track_caller]
    pub fn answer(&mut self, number: u32, data: &[u8]) -> u32 {
        self.option(number, data).last().unwrap().kind
    }

    /// Open an export; the options before were negotiated already.
    #[track_caller]
    pub fn go(&mut self, name: &str) -> Opened {
        let replies = self.option(opt::GO, &export(name.as_bytes(), &[]));
        assert_eq!(replies.last().unwrap().kind, rep::ACK, "{replies:?}");
        let is_export = |reply: &&OptionReply| reply.kind == rep::INFO && reply.data[..2] == [0, 0];
        let info = replies.iter().find(is_export).unwrap();
        Opened {
            size: u64::from_be_bytes(info.data[2..10].try_into().unwrap()),
            flags: u16::from_be_bytes(info.data[10..12].try_into().unwrap()),
        }
    }

    /// A client with simple replies that has an export open.
    #[track_caller]
    pub fn opened(socket: &Path, name: &str) -> Self {
        let mut client = Self::connect(socket);
        client.greet();
        client.go(name);
        client
    }

    /// One request with a simple reply; returns its error.
    #[track_caller]
    pub fn ask(&mut self, ask: Ask, data: &[u8]) -> u32 {
        self.send(&ask.compact());
        self.send(data);
        self.simple_reply(ask.cookie)
    }

    #[track_caller]
    pub fn simple_reply(&mut self, cookie: u64) -> u32 {
        assert_eq!(self.u32(), SIMPLE_REPLY);
        let error = self.u32();
        assert_eq!(self.u64(), cookie);
        error
    }

    /// Read by simple replies.
    #[track_caller]
    pub fn pread(&mut self, at: u64, len: u32) -> Vec<u8> {
        let ask = Ask::of(cmd::READ, at, len.into());
        assert_eq!(self.ask(ask, &[]), 0);
        self.read_vec(usize::try_from(len).unwrap())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
