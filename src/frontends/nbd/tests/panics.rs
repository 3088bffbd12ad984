//! Whatever panics, nobody waits for an answer: it is an error, or the end of the connection.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;
use crate::disk::{Extents, Limits, OpenDisk, Request};

const NONE: Asked = Asked::empty();
const EIO: u32 = 5;

/// What panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    /// So many calls from now, whoever asks for the limits.
    Limits(u32),
    Batch,
    /// The second lane.
    Lane,
    Nothing,
}

/// A disk with a fault of ours in it, outside of what serves a request.
#[derive(Debug)]
struct Brittle {
    below: Memory,
    breaks: Mutex<Breaks>,
    lanes: Mutex<u32>,
}

impl Brittle {
    fn new(parallel: bool) -> Arc<Self> {
        Arc::new(Self {
            below: memory(1 << 20, parallel),
            breaks: Mutex::new(Breaks::Nothing),
            lanes: Mutex::new(0),
        })
    }

    fn breaks(&self, what: Breaks) {
        *self.breaks.lock() = what;
    }
}

impl Disk for Brittle {
    fn limits(&self) -> &Limits {
        if let Breaks::Limits(left) = &mut *self.breaks.lock() {
            *left = left.wrapping_sub(1);
            assert!(*left != 0, "the test wants this");
        }
        self.below.limits()
    }
    fn serve(&self, request: Request<'_>) -> Result {
        self.below.serve(request)
    }
    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        self.below.extents(range, found)
    }
}

impl OpenDisk for Brittle {
    fn batch(&self, work: &mut dyn FnMut()) {
        let breaks = *self.breaks.lock();
        assert!(breaks != Breaks::Batch, "the test wants this");
        work();
    }
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        let lane = {
            let mut lanes = self.lanes.lock();
            *lanes += 1;
            *lanes
        };
        let breaks = *self.breaks.lock();
        assert!(lane < 2 || breaks != Breaks::Lane, "the test wants this");
        work();
    }
}

/// Read until the server has said all that it will, which is soon.
fn everything(stream: &mut UnixStream) -> Vec<u8> {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut heard = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return heard,
            Ok(read) => heard.extend(&part[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return heard,
            Err(error) => panic!("somebody is left waiting: {error}"),
        }
    }
}

/// A read is asked for, and something panics on its way.
fn asked(parallel: bool, breaks: Breaks, kernel: bool) -> (Vec<u8>, Arc<Brittle>) {
    let disk = Brittle::new(parallel);
    let mut caller = match kernel {
        true => Caller::unnegotiated(Arc::clone(&disk) as _),
        false => Caller::gone(&Arc::new(service(Arc::clone(&disk))), Shape::Simple),
    };
    if breaks != Breaks::Lane {
        // The conversation has come so far that nobody asks but for the requests that follow.
        assert_eq!(caller.call(0, NONE, 0, b"", 512).error, 0);
    }
    disk.breaks(breaks);
    let request = |command, len, cookie| {
        let (asked, at) = (NONE, 0);
        let head = Head {
            asked,
            command,
            cookie,
            at,
            len,
        };
        head.encode(Shape::Simple)
    };
    // At once, because the connection may end after the first of them.
    let reads = (1..=3).flat_map(|cookie| request(0, 512, cookie));
    let requests: Vec<u8> = reads.chain(request(2, 0, 4)).collect();
    caller.send(&requests);
    (everything(&mut caller.stream), disk)
}

#[test]
fn every_request_is_answered_or_the_connection_ends() {
    for (parallel, kernel) in [(false, false), (false, true), (true, false), (true, true)] {
        let breaks = (1..=9).map(Breaks::Limits);
        let breaks = breaks.chain([if parallel {
            Breaks::Lane
        } else {
            Breaks::Batch
        }]);
        for breaks in breaks {
            let (heard, disk) = asked(parallel, breaks, kernel);
            let whole = 3 * (16 + 512) + 16;
            // In a lane of its own another request may be answered before.
            assert!(heard.len() <= whole, "{breaks:?}");
            if !parallel {
                assert!(heard.len() < whole, "{breaks:?}: an error is one");
            }
            disk.breaks(Breaks::Nothing);
        }
    }
}

#[test]
fn a_panic_around_a_request_is_its_error_and_the_next_one_is_served() {
    for parallel in [false, true] {
        let disk = Brittle::new(parallel);
        let mut caller = Caller::gone(&Arc::new(service(Arc::clone(&disk))), Shape::Structured);
        assert_eq!(caller.call(0, NONE, 0, b"", 512).error, 0);
        // Admission asks twice; then the disk is asked to serve.
        disk.breaks(Breaks::Limits(3));
        assert_eq!(caller.call(0, NONE, 0, b"", 512).error, EIO);
        disk.breaks(Breaks::Nothing);
        assert_eq!(caller.call(0, NONE, 0, b"", 512).bytes(0, 512), [0; 512]);
        assert!(matches!(caller.end(), End::Vanished));
    }
}

#[test]
fn what_the_kernel_is_served_on_ends_and_says_why() {
    for parallel in [false, true] {
        let disk = Brittle::new(parallel);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = Unnegotiated::new(Arc::clone(&disk) as _, theirs.into(), 1 << 20, 4);
        let (said, why) = mpsc::channel();
        std::thread::spawn(move || said.send(server.serve()).unwrap());
        disk.breaks(Breaks::Limits(1));
        let head = Head {
            asked: NONE,
            command: 0,
            cookie: 1,
            at: 0,
            len: 512,
        };
        ours.write_all(&head.encode(Shape::Simple)).unwrap();
        assert_eq!(everything(&mut ours), b"");
        let why = why.recv().unwrap();
        assert!(why.contains("internal error"), "{why}");
    }
}
