//! Large requests to a serial disk, whose data a second thread carries.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, ThreadId};

use parking_lot::Mutex;

use super::*;
use crate::disk::memory::{Effect, Fault};
use crate::disk::{Limits, OpenDisk, Request};
use crate::frontends::nbd::testing::within;

const NONE: Asked = Asked::empty();
const SIZE: u64 = 4 << 20;
const LONG: Duration = Duration::from_secs(120);

/// Remembers who calls.
#[derive(Debug)]
struct Witness(Memory, Mutex<HashSet<ThreadId>>);

impl Disk for Witness {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }
    fn serve(&self, request: Request<'_>) -> Result {
        self.1.lock().insert(thread::current().id());
        self.0.serve(request)
    }
}

impl OpenDisk for Witness {}

/// What a client says in one go, and what it must hear: cookies with the bytes of reads.
struct Talk {
    said: Vec<u8>,
    heard: Vec<Vec<u8>>,
}

/// Reads and writes of all sizes from a byte to a MiB; whoever reads in order sees what was written.
fn talk(random: &mut fastrand::Rng, shape: Shape, model: &mut [u8], requests: u64) -> Talk {
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let announced = match shape {
        Shape::Extended => Asked::PAYLOAD_LEN,
        Shape::Simple | Shape::Structured => NONE,
    };
    for cookie in 0..requests {
        let most = 1 << random.u32(0..=20);
        let len = random.usize(1..=most);
        let at = random.usize(..=model.len() - len);
        let write = random.bool();
        let head = Head {
            asked: if write { announced } else { NONE },
            command: u16::from(write),
            cookie,
            at: at as u64,
            len: len as u64,
        };
        said.extend(head.encode(shape));
        if write {
            let byte = random.u8(..);
            said.extend(std::iter::repeat_n(byte, len));
            model[at..at + len].fill(byte);
            heard.push(Vec::new());
            continue;
        }
        heard.push(model[at..at + len].to_vec());
    }
    Talk { said, heard }
}

#[test]
fn every_large_request_is_answered_in_order_by_the_thread_that_opened_the_disk() {
    within(LONG, || {
        let mut random = crate::chance::random();
        for shape in [Shape::Simple, Shape::Structured, Shape::Extended] {
            let disk = Arc::new(Witness(memory(SIZE, false), Mutex::default()));
            let mut caller = Caller::gone(&Arc::new(service(Arc::clone(&disk))), shape);
            let mut model = vec![0; usize::try_from(SIZE).unwrap()];
            let talk = talk(&mut random, shape, &mut model, 300);
            let mut saying = caller.stream.try_clone().unwrap();
            let said = talk.said;
            let said = thread::spawn(move || saying.write_all(&said).unwrap());
            for (cookie, expected) in talk.heard.iter().enumerate() {
                let (answered, reply) = caller.reply(|_| expected.len());
                assert_eq!(answered, cookie as u64);
                assert_eq!(reply.error, 0);
                let heard: Vec<u8> = reply.data.into_iter().flat_map(|(_, data)| data).collect();
                assert!(heard == *expected, "{cookie}: {} bytes", expected.len());
            }
            said.join().unwrap();
            assert!(matches!(caller.end(), End::Vanished));
            assert_eq!(disk.1.lock().len(), 1, "one thread calls the disk");
        }
    });
}

#[test]
fn a_reply_does_not_wait_for_the_rest_of_the_next_large_write() {
    within(LONG, || {
        let disk = memory(SIZE, false);
        // The second request is there before the first is served.
        disk.inject(Fault::new(Effect::Delay(Duration::from_millis(200))).within(0..1));
        let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Simple);
        let data = vec![7; 256 << 10];
        caller.ask(1, NONE, 0, 256 << 10, 1);
        caller.send(&data);
        caller.ask(1, NONE, 1 << 20, 256 << 10, 2);
        caller.send(&data[..128 << 10]);
        assert_eq!(caller.reply(|_| 0).0, 1);
        caller.send(&data[128 << 10..]);
        assert_eq!(caller.reply(|_| 0).0, 2);
        assert!(matches!(caller.end(), End::Vanished));
    });
}

/// Serves a request at `1 << 20` only when it is told to, or when nobody is left to tell.
#[derive(Debug)]
struct Gate(Memory, Mutex<Receiver<()>>);

impl Disk for Gate {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }
    fn serve(&self, request: Request<'_>) -> Result {
        if request.at == 1 << 20 {
            self.1.lock().recv().unwrap_or_default();
        }
        self.0.serve(request)
    }
}

impl OpenDisk for Gate {}

#[test]
fn a_large_read_is_answered_while_the_next_one_is_slow() {
    within(LONG, || {
        let (go_on, told) = mpsc::channel();
        let disk = Gate(memory(SIZE, false), Mutex::new(told));
        let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Simple);
        for (cookie, at) in [(1, 0), (2, 1 << 20), (3, 2 << 20)] {
            caller.ask(0, NONE, at, 256 << 10, cookie);
        }
        assert_eq!(caller.reply(|_| 256 << 10).0, 1);
        go_on.send(()).unwrap();
        assert_eq!(caller.reply(|_| 256 << 10).0, 2);
        assert_eq!(caller.reply(|_| 256 << 10).0, 3);
        assert!(matches!(caller.end(), End::Vanished));
    });
}

#[test]
fn a_failed_large_read_gives_no_byte_and_the_next_one_all() {
    within(LONG, || {
        let disk = Arc::new(memory(SIZE, false));
        disk.inject(Fault::fail(Errno::IO).within(1 << 20..2 << 20).forever());
        let mut caller = Caller::gone(&Arc::new(service(Arc::clone(&disk))), Shape::Structured);
        for cookie in 0..64 {
            caller.ask(0, Asked::DF, (cookie % 4) << 20, 1 << 20, cookie);
        }
        for cookie in 0..64 {
            let (answered, reply) = caller.reply(|_| 0);
            assert_eq!(answered, cookie);
            let failed = cookie % 4 == 1;
            assert_eq!(reply.error, if failed { 5 } else { 0 });
            assert_eq!(reply.data.is_empty() && reply.holes.is_empty(), failed);
        }
        assert!(matches!(caller.end(), End::Vanished));
    });
}

#[test]
fn a_client_may_go_away_at_any_time() {
    within(LONG, || {
        let mut random = crate::chance::random();
        for round in 0..60 {
            let mut model = vec![0; usize::try_from(SIZE).unwrap()];
            let service = Arc::new(service(memory(SIZE, false)));
            let mut caller = Caller::gone(&service, Shape::Simple);
            let talk = talk(&mut random, Shape::Simple, &mut model, 20);
            let cut = random.usize(..talk.said.len());
            let mut saying = caller.stream.try_clone().unwrap();
            let said = thread::spawn(move || match saying.write_all(&talk.said[..cut]) {
                Err(error) => assert!(matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                )),
                Ok(()) if round % 2 == 0 => {
                    saying.shutdown(std::net::Shutdown::Write).unwrap();
                }
                Ok(()) => {}
            });
            if round % 2 == 0 {
                // It reads to the end.
                caller.stream.read_to_end(&mut Vec::new()).unwrap();
            } else {
                let mut some = vec![0; random.usize(..1 << 20)];
                let timeout = Some(Duration::from_millis(20));
                caller.stream.set_read_timeout(timeout).unwrap();
                let mut read = 0;
                while read < some.len() {
                    match caller.stream.read(&mut some[read..]) {
                        Ok(0) | Err(_) => break,
                        Ok(more) => read += more,
                    }
                }
                caller.stream.shutdown(std::net::Shutdown::Both).unwrap();
            }
            said.join().unwrap();
            let thread = caller.thread.take().unwrap();
            thread.join().unwrap();
            assert_eq!(service.seats.free(), service.bounds.clients);
        }
    });
}

#[test]
fn a_second_thread_comes_again_after_it_has_left() {
    within(LONG, || {
        let mut caller = Caller::gone(&Arc::new(service(memory(SIZE, false))), Shape::Simple);
        for pause in [0, 1500, 10] {
            thread::sleep(Duration::from_millis(pause));
            for cookie in 0..8 {
                caller.ask(0, NONE, cookie * 1000, 256 << 10, cookie);
            }
            for cookie in 0..8 {
                assert_eq!(caller.reply(|_| 256 << 10).0, cookie);
            }
        }
        assert!(matches!(caller.end(), End::Vanished));
    });
}
