//! A thread that fetches requests, serves them itself and commits them.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffer::Slot;
use super::handler::{Answer, Handler, answer};
use super::queue::{Descriptors, Event, Queue};
use super::tags::Tags;
use crate::device_error::DeviceError;

use crate::words::words;

/// What a thread needs to serve tags of a device.
#[derive(Clone)]
pub(crate) struct Seat {
    /// The character node.
    pub(crate) node: Arc<File>,
    pub(crate) descriptors: Arc<Descriptors>,
    pub(crate) handler: Arc<dyn Handler>,
    /// Bytes of each tag's memory.
    pub(crate) buffer: usize,
    /// The tags that this thread serves.
    pub(crate) first: u16,
    pub(crate) count: u16,
}

impl Seat {
    /// A ring with all tags fetched and accepted, and their memory.
    pub(crate) fn take(&self) -> Result<(Tags, Queue), DeviceError> {
        let slots: Result<Vec<_>, _> = (0..self.count).map(|_| Slot::new(self.buffer)).collect();
        let slots = slots.map_err(DeviceError::failed("mmap of the buffers"))?;
        let mut queue = Queue::new(&self.node, self.count)?;
        let tags = Tags::new(self.first, slots);
        for (tag, address) in tags.addresses() {
            queue.fetch(tag, address);
        }
        queue.submit().map_err(DeviceError::failed("FETCH_REQ"))?;
        let mut early = Vec::new();
        queue.collect(&mut early);
        match early.first() {
            None => Ok((tags, queue)),
            Some(Event::Refused(_, errno)) => Err(DeviceError::Failed {
                what: "FETCH_REQ",
                errno: *errno,
            }),
            Some(event) => Err(DeviceError::Lane(format!(
                "the device ended before it was started ({event:?})"
            ))),
        }
    }
}

/// A batch that takes longer than this hands over its finished requests in between.
const HAND_OVER: Duration = Duration::from_millis(1);

/// Serve the tags of `seat` until the driver says that they are gone. Tells `ready` once whether
/// the tags are with the driver.
pub(crate) fn serve_inline(
    seat: &Seat,
    ready: &Sender<Result<(), DeviceError>>,
) -> Result<(), String> {
    let taken = seat.take();
    let (outcome, taken) = match taken {
        Ok(taken) => (Ok(()), Some(taken)),
        Err(error) => (Err(error), None),
    };
    if ready.send(outcome).is_err() {
        log::debug!("ublk: nobody waits for this thread any more");
    }
    let Some((tags, queue)) = taken else {
        return Ok(());
    };
    Lane {
        seat,
        tags,
        queue,
        handed_over: Instant::now(),
        starved: Vec::new(),
        broken: None,
    }
    .serve()
}

struct Lane<'a> {
    seat: &'a Seat,
    // Before `tags`, so that the ring is closed first.
    queue: Queue,
    tags: Tags,
    handed_over: Instant,
    /// Requests that were served and whose tags have no memory to go back to the driver with.
    starved: Vec<(u16, Slot, Answer)>,
    /// Why the lane cannot go on.
    broken: Option<String>,
}

impl Lane<'_> {
    fn serve(mut self) -> Result<(), String> {
        let mut events = Vec::new();
        let mut waiting = VecDeque::new();
        while self.tags.any_live() {
            self.queue
                .wait(&mut events)
                .map_err(|errno| format!("io_uring_enter: {}", words(errno)))?;
            for event in events.drain(..) {
                match event {
                    Event::Request(tag) => waiting.push_back(tag),
                    Event::Gone => self.tags.gone(),
                    Event::Woken => {}
                    Event::Refused(tag, errno) => return Err(refused(tag, errno)),
                }
            }
            if !waiting.is_empty() {
                self.batch(&mut waiting);
                self.feed();
            }
            if let Some(why) = self.broken.take() {
                return Err(why);
            }
        }
        Ok(())
    }

    fn batch(&mut self, waiting: &mut VecDeque<u16>) {
        self.handed_over = Instant::now();
        let handler = Arc::clone(&self.seat.handler);
        let hook = catch_unwind(AssertUnwindSafe(|| {
            handler.batch(&mut || {
                while let Some(tag) = waiting.pop_front() {
                    self.request(tag);
                }
            });
        }));
        if hook.is_err() {
            log::error!("ublk: a panic around a batch of requests");
        }
        // What the hook left over, by a panic of its own.
        while let Some(tag) = waiting.pop_front() {
            self.request(tag);
        }
    }

    fn request(&mut self, tag: u16) {
        let mut slot = self.tags.take(tag);
        let answer = answer(
            &*self.seat.handler,
            self.seat.descriptors.read(tag),
            &mut slot,
        );
        match slot.renew(answer.carry) {
            Ok(()) => self.commit(tag, slot, answer.result),
            // The hook around the batch may hold what others need, as Python's lock, perhaps to give memory back:
            // this waits for memory after it.
            Err(_errno) => self.starved.push((tag, slot, answer)),
        }
    }

    /// Wait for memory for the tags that have none. What is done goes to the driver before that.
    fn feed(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        if let Err(errno) = self.queue.submit() {
            self.broken = Some(format!("io_uring_enter: {}", words(errno)));
            return;
        }
        for (tag, mut slot, answer) in std::mem::take(&mut self.starved) {
            if let Err(errno) = renew(&mut slot, answer.carry) {
                self.broken = Some(format!("no memory for a buffer: {}", words(errno)));
                return;
            }
            self.commit(tag, slot, answer.result);
        }
    }

    fn commit(&mut self, tag: u16, slot: Slot, result: i32) {
        self.queue.commit(tag, slot.address(), result);
        self.tags.put(tag, slot);
        if self.handed_over.elapsed() >= HAND_OVER {
            self.handed_over = Instant::now();
            if let Err(errno) = self.queue.submit() {
                self.broken = Some(format!("io_uring_enter: {}", words(errno)));
            }
        }
    }
}

/// Fresh memory for a slot whose memory was kept, with `carry` bytes of the old. Waits some seconds
/// for memory, as the slot can neither be used again nor be committed without.
pub(crate) fn renew(slot: &mut Slot, carry: usize) -> Result<(), Errno> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match slot.renew(carry) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome,
        }
    }
}

pub(crate) fn refused(tag: u16, errno: Errno) -> String {
    format!(
        "the driver refused a command for tag {tag}: {}",
        words(errno)
    )
}
