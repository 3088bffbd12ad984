//! Requests that a parallel disk serves at the same time.

use std::sync::Barrier;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::disk::memory::{Effect, Fault};
use crate::disk::{Limits, Op, OpenDisk, Request};

const NONE: Asked = Asked::empty();

#[test]
fn a_parallel_disk_answers_out_of_order() {
    let disk = Arc::new(memory(1 << 20, true));
    let slow = Effect::Delay(Duration::from_millis(300));
    disk.inject(Fault::new(slow).within(0..512));
    let mut caller = Caller::gone(&Arc::new(service(Arc::clone(&disk))), Shape::Simple);
    caller.ask(0, NONE, 0, 512, 1);
    caller.ask(0, NONE, 4096, 512, 2);
    let order = [caller.reply(|_| 512).0, caller.reply(|_| 512).0];
    assert_eq!(order, [2, 1]);
    // The one that is under way is answered before the conversation ends.
    disk.inject(Fault::new(slow).within(0..512));
    caller.ask(1, Asked::FUA, 0, 512, 3);
    caller.send(&[1; 512]);
    caller.ask(2, NONE, 0, 0, 4);
    assert_eq!(caller.reply(|_| 0).0, 3);
    assert!(matches!(caller.end(), End::Disconnected));
}

fn limits() -> Limits {
    let mut limits = Limits::read_only(1 << 20);
    limits.parallel = true;
    limits
}

fn fill(request: Request<'_>) {
    if let Op::Read(bytes) = request.op {
        bytes.fill(7);
    }
}

/// Answers nobody before as many have come as it waits for.
#[derive(Debug)]
struct Meeting(Limits, Barrier);

impl Disk for Meeting {
    fn limits(&self) -> &Limits {
        &self.0
    }
    fn serve(&self, request: Request<'_>) -> Result {
        fill(request);
        self.1.wait();
        Ok(())
    }
}

impl OpenDisk for Meeting {}

#[test]
fn requests_that_wait_for_each_other_are_all_answered() {
    for together in [2, 5, 16] {
        let disk = Meeting(limits(), Barrier::new(together));
        let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Structured);
        for _ in 0..3 {
            for cookie in 0..together as u64 {
                caller.ask(0, NONE, cookie * 512, 512, cookie);
            }
            let mut answered: Vec<u64> = (0..together).map(|_| caller.reply(|_| 0).0).collect();
            answered.sort_unstable();
            assert!(answered.into_iter().eq(0..together as u64));
        }
        assert!(matches!(caller.end(), End::Vanished));
    }
}

/// Answers a read at 512 only when it is told to.
#[derive(Debug)]
struct Gate(Limits, Mutex<bool>, Condvar);

impl Disk for Gate {
    fn limits(&self) -> &Limits {
        &self.0
    }
    fn serve(&self, request: Request<'_>) -> Result {
        let mut open = self.1.lock();
        while request.at == 512 && !*open {
            self.2.wait(&mut open);
        }
        drop(open);
        fill(request);
        Ok(())
    }
}

impl OpenDisk for Gate {}

#[test]
fn a_reply_does_not_wait_for_the_next_request_when_that_is_slow() {
    let disk = Arc::new(Gate(limits(), Mutex::new(false), Condvar::new()));
    let service = Arc::new(service(Arc::clone(&disk)));
    let mut caller = Caller::gone(&service, Shape::Simple);
    // In one piece, so that the second lies there when the first is answered.
    let said: Vec<u8> = (0..2)
        .flat_map(|cookie| {
            let head = Head {
                asked: NONE,
                command: 0,
                cookie,
                at: cookie * 512,
                len: 512,
            };
            head.encode(Shape::Simple)
        })
        .collect();
    for _ in 0..20 {
        *disk.1.lock() = false;
        caller.send(&said);
        assert_eq!(caller.reply(|_| 512).0, 0);
        *disk.1.lock() = true;
        disk.2.notify_all();
        assert_eq!(caller.reply(|_| 512).0, 1);
    }
}
