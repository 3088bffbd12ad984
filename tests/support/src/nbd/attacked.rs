//! A server under attack, and what a client says in a conversation that uses most of the protocol.

use std::thread;
use std::time::Duration;

use super::raw::{self, Ask, Raw, cmd, export, opt, option};
use super::{Held, Server};
use crate::home::until;

/// Bytes of the disk.
pub const SIZE: u64 = 1 << 20;

/// Every byte is the number of its 4 KiB page; what is written is counted and forgotten.
pub const PAGES: &str = "
import nbdkit
API_VERSION = 2
pages = b''.join(bytes([page]) * 4096 for page in range(256))
def open(readonly): return 0
def get_size(h): return 1 << 20
def can_fua(h): return nbdkit.FUA_EMULATE
def pread(h, buf, offset, flags): buf[:] = pages[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): pass
def flush(h, flags): pass
def trim(h, count, offset, flags): pass
def zero(h, count, offset, flags): pass
def extents(h, count, offset, flags): return [(offset, count, 0)]
";

/// A server under attack, and what it held before.
pub struct Attacked {
    pub server: Server,
    pub worker: i32,
    pub before: Held,
}

impl Attacked {
    pub fn new(args: &[&str]) -> Self {
        Self::serving(PAGES, args)
    }

    /// With a plugin that takes several requests at the same time.
    pub fn parallel() -> Self {
        let model = "def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL\n";
        Self::serving(&(PAGES.to_owned() + model), &[])
    }

    fn serving(script: &str, args: &[&str]) -> Self {
        let server = Server::of_script(script, args);
        let worker = server.worker();
        // What is made at the first use is no growth.
        for _ in 0..20 {
            serves(&server);
        }
        // The last of them may just be leaving.
        let mut before = Held::by(worker);
        until("the server is at rest", || {
            thread::sleep(Duration::from_millis(100));
            let now = Held::by(worker);
            let rests = (now.threads, now.descriptors) == (before.threads, before.descriptors);
            before = now;
            rests
        });
        Self {
            server,
            worker,
            before,
        }
    }

    pub fn raw(&self) -> Raw {
        self.server.raw()
    }

    /// A client that negotiates.
    pub fn greeted(&self) -> Raw {
        let mut client = self.raw();
        client.greet();
        client
    }

    /// A client with the disk open.
    pub fn opened(&self) -> Raw {
        Raw::opened(self.server.socket(), "")
    }

    /// The next client is served as if nothing had happened.
    #[track_caller]
    pub fn serves_the_next(&self) {
        serves(&self.server);
    }

    /// Nothing is left of the attack; `growth` bytes more may have been taken meanwhile.
    #[track_caller]
    pub fn is_as_before(&self, growth: u64) {
        self.serves_the_next();
        until("its threads and descriptors are as before", || {
            let now = Held::by(self.worker);
            now.threads <= self.before.threads && now.descriptors <= self.before.descriptors
        });
        let now = Held::by(self.worker);
        let grown = now.resident.saturating_sub(self.before.resident);
        assert!(
            grown <= growth,
            "grown by {grown}: {:?}, {now:?}",
            self.before
        );
        assert_eq!(self.server.worker(), self.worker, "another worker serves");
        assert!(
            !self.server.log().contains("panicked"),
            "{}",
            self.server.log()
        );
        self.server.detach();
    }
}

#[track_caller]
pub fn serves(server: &Server) {
    let mut client = Raw::opened(server.socket(), "");
    assert_eq!(client.pread(8190, 4), [1, 1, 2, 2]);
    client.send(&Ask::of(cmd::DISC, 0, 0).compact());
    client.ended();
}

/// All that a client says in one conversation that uses most of the protocol, with extended headers.
pub fn conversation() -> Vec<u8> {
    let mut said = 3_u32.to_be_bytes().to_vec();
    said.extend(option(4711, b"unknown"));
    said.extend(option(opt::LIST, &[]));
    said.extend(option(opt::EXTENDED_HEADERS, &[]));
    let query = raw::contexts(b"", &[b"base:allocation"]);
    said.extend(option(opt::SET_META_CONTEXT, &query));
    said.extend(option(opt::INFO, &export(b"", &[1, 2, 3])));
    said.extend(option(opt::GO, &export(b"", &[3])));
    let mut ask = |command, len, data: &[u8]| {
        let ask = Ask::of(command, 4096, len);
        said.extend(match command {
            cmd::WRITE => ask.flags(1 << 5).extended(),
            _ => ask.extended(),
        });
        said.extend(data);
    };
    ask(cmd::READ, 64, &[]);
    ask(cmd::WRITE, 40, &[0x5a; 40]);
    ask(cmd::FLUSH, 0, &[]);
    ask(cmd::TRIM, 4096, &[]);
    ask(cmd::WRITE_ZEROES, 4096, &[]);
    ask(cmd::BLOCK_STATUS, 8192, &[]);
    ask(cmd::READ, 8, &[]);
    ask(cmd::DISC, 0, &[]);
    said
}
