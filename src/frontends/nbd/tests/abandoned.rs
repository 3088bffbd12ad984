//! Requests that would take years end with their client, and with the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::*;
use crate::disk::memory::Plain;
use crate::disk::{Cache, Fua, Limits, Op, Request};
use crate::frontends::nbd::config::Family;
use crate::frontends::nbd::testing::within;
use crate::frontends::nbd::{Server, Setup, TlsSetup};
use crate::layers::Emulate;

const NONE: Asked = Asked::empty();
const SIZE: u64 = 1 << 62;
const LONG: Duration = Duration::from_secs(30);

/// A disk that does one step after the other, in no time.
#[derive(Debug)]
struct Endless {
    limits: Limits,
    steps: Arc<AtomicU64>,
}

impl Endless {
    /// With what it lacks, and the number of steps so far.
    fn new(parallel: bool) -> (Plain<Emulate<Self>>, Arc<AtomicU64>) {
        let mut limits = Limits::read_only(SIZE);
        limits.parallel = parallel;
        limits.read_only = false;
        limits.flush = true;
        limits.fua = Fua::Emulate;
        limits.trim = true;
        limits.cache = Cache::Emulate;
        let steps = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&steps);
        let disk = Self { limits, steps };
        (Plain(Emulate::new(disk)), told)
    }
}

impl Disk for Endless {
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn serve(&self, request: Request<'_>) -> Result {
        if let Op::Read(bytes) = request.op {
            bytes[0] = 1;
        }
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn begun(steps: &AtomicU64) {
    while steps.load(Ordering::Relaxed) < 3 {
        std::thread::yield_now();
    }
}

#[test]
fn a_request_of_years_ends_with_its_client() {
    const TRIM: u16 = 4;
    const CACHE: u16 = 5;
    const ZERO: u16 = 6;
    for parallel in [false, true] {
        for command in [TRIM, CACHE, ZERO] {
            let (disk, steps) = Endless::new(parallel);
            let service = Arc::new(service(disk));
            let seats = service.seats.free();
            let mut caller = Caller::gone(&service, Shape::Extended);
            caller.ask(command, NONE, 0, SIZE, 1);
            begun(&steps);
            assert_eq!(service.seats.free(), seats - 1);
            let thread = caller.thread.take().unwrap();
            drop(caller);
            within(LONG, move || thread.join().unwrap());
            assert_eq!(service.seats.free(), seats);
        }
    }
}

#[test]
fn who_sends_nothing_more_and_still_listens_is_answered() {
    let (disk, _) = Endless::new(true);
    let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Extended);
    caller.ask(6, NONE, 0, 1 << 40, 1);
    caller.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (cookie, reply) = caller.reply(|_| 0);
    assert_eq!((cookie, reply.error), (1, 0));
}

#[test]
fn a_request_of_years_ends_with_the_server() {
    for parallel in [false, true] {
        let (disk, steps) = Endless::new(parallel);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let setup = Setup {
            address: format!("nbd+unix:///?socket={}", path.display())
                .parse()
                .unwrap(),
            folder: folder.path().to_owned(),
            bounds: Bounds::default(),
            tls: TlsSetup::default(),
            dialect: Dialect::default(),
            family: Family::Any,
            label: None,
            passed: Vec::new(),
        };
        let shelf = Shelf {
            disk: Arc::new(disk),
            welcome: true,
        };
        let server = Server::start(setup, Arc::new(shelf), mpsc::channel().0).unwrap();
        let mut caller = Caller::over(UnixStream::connect(&path).unwrap());
        caller.go(Shape::Extended);
        caller.ask(6, NONE, 0, SIZE, 1);
        begun(&steps);
        within(LONG, || server.stop());
        // It was not done, so nothing else is said.
        let mut heard = Vec::new();
        caller.stream.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"");
    }
}
