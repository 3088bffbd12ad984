//! A client with many requests under way, which looks at no more of the replies than whether they are
//! successes.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use support::nbd::Server;
use support::nbd::raw::{Ask, Raw, SIMPLE_REPLY, STRUCTURED_REPLY, cmd, contexts, opt, rep};

/// Requests under way at once.
const AHEAD: u32 = 32;

/// A client with many requests under way.
pub(super) struct Client {
    out: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Client {
    pub(super) fn connect(server: &Server) -> Self {
        let mut raw = server.raw();
        raw.greet();
        assert_eq!(raw.answer(opt::STRUCTURED_REPLY, &[]), rep::ACK);
        let wanted = contexts(b"", &[b"base:allocation"]);
        assert_eq!(raw.answer(opt::SET_META_CONTEXT, &wanted), rep::ACK);
        raw.go("");
        let Raw { stream } = raw;
        Self {
            out: stream.try_clone().unwrap(),
            replies: BufReader::with_capacity(1 << 20, stream),
        }
    }

    /// Send so many requests of one kind, and see that all of them succeed, or fail.
    pub(super) fn ask(&mut self, count: u32, command: u16, at: u64, succeeds: bool) {
        let len = if command == cmd::FLUSH { 0 } else { 512 };
        let at = if command == cmd::FLUSH { 0 } else { at };
        let mut one = Ask::of(command, at, len).compact();
        if command == cmd::WRITE {
            one.extend([0; 512]);
        }
        let batch = one.repeat(usize::try_from(AHEAD).unwrap());
        let mut left = count;
        while left > 0 {
            let now = left.min(AHEAD);
            let bytes = one.len() * usize::try_from(now).unwrap();
            self.out.write_all(&batch[..bytes]).unwrap();
            for _ in 0..now {
                let succeeded = self.reply();
                assert_eq!(succeeded, succeeds, "command {command} at {at}");
            }
            left -= now;
        }
    }

    /// Tell the plugin whether flushes fail from here on.
    pub(super) fn fail_flushes(&mut self, page: &[u8; 512]) {
        let mut bytes = Ask::of(cmd::WRITE, 512, 512).compact();
        bytes.extend(page);
        self.out.write_all(&bytes).unwrap();
        assert!(self.reply());
    }

    /// Whether the next reply is a success.
    fn reply(&mut self) -> bool {
        const DONE: u16 = 1;
        const ERROR: u16 = 1 << 15;
        let mut failed = false;
        loop {
            let magic = self.u32();
            if magic == SIMPLE_REPLY {
                failed |= self.u32() != 0;
                self.skip(8);
                return !failed;
            }
            assert_eq!(magic, STRUCTURED_REPLY);
            let words = self.u32();
            let flags = u16::try_from(words >> 16).unwrap();
            let kind = u16::try_from(words & 0xffff).unwrap();
            self.skip(8);
            let len = self.u32();
            self.skip(len.into());
            failed |= kind & ERROR != 0;
            if flags & DONE != 0 {
                return !failed;
            }
        }
    }

    fn u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.replies.read_exact(&mut bytes).unwrap();
        u32::from_be_bytes(bytes)
    }

    fn skip(&mut self, len: u64) {
        let taken = std::io::copy(&mut self.replies.by_ref().take(len), &mut std::io::sink());
        assert_eq!(taken.unwrap(), len);
    }
}
