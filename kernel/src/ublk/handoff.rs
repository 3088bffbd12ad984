//! Several threads on a kernel where one thread must do all talking with the driver (before 6.16):
//! that thread fetches and commits, a pool of threads serves, and what they finished comes back by a
//! list and an eventfd.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::buffer::Slot;
use super::handler::{Answer, Handler, answer, in_lane};
use super::lane::{Seat, refused, renew};
use super::queue::{Descriptors, Event, Queue};
use super::tags::Tags;
use crate::device_error::DeviceError;
use crate::threads;
use crate::words::words;

/// Serve the tags of `seat` with as many threads named `name-N`, until the driver says that the tags
/// are gone. Tells `ready` once whether all is set up.
pub(crate) fn serve_by_pool(
    seat: &Seat,
    name: &str,
    ready: &Sender<Result<(), DeviceError>>,
) -> Result<(), String> {
    let set_up = Pool::start(seat, name).and_then(|pool| Ok((pool, seat.take()?)));
    let (outcome, set_up) = match set_up {
        Ok(set_up) => (Ok(()), Some(set_up)),
        Err(error) => (Err(error), None),
    };
    if ready.send(outcome).is_err() {
        log::debug!("ublk: nobody waits for this thread any more");
    }
    let Some((pool, (tags, queue))) = set_up else {
        return Ok(());
    };
    Dispatcher {
        queue,
        woken: Box::new(0),
        tags,
        pool,
    }
    .serve()
}

struct Dispatcher {
    // Before what the ring's commands point to, so that it is closed first.
    queue: Queue,
    /// Target of the eventfd's read. Left where it is when the dispatcher ends, see `Drop`.
    woken: Box<u64>,
    tags: Tags,
    pool: Pool,
}

impl Dispatcher {
    fn serve(mut self) -> Result<(), String> {
        let mut events = Vec::new();
        self.listen();
        while self.tags.any_live() {
            self.queue
                .wait(&mut events)
                .map_err(|errno| format!("io_uring_enter: {}", words(errno)))?;
            for event in events.drain(..) {
                match event {
                    Event::Request(tag) => self.pool.shared.give(Job {
                        tag,
                        slot: self.tags.take(tag),
                    }),
                    Event::Gone => self.tags.gone(),
                    Event::Woken => self.listen(),
                    Event::Refused(tag, errno) => return Err(refused(tag, errno)),
                }
            }
            for done in self.pool.shared.finished() {
                let result = done
                    .result
                    .map_err(|errno| format!("no memory for a buffer: {}", words(errno)))?;
                self.queue.commit(done.tag, done.slot.address(), result);
                self.tags.put(done.tag, done.slot);
            }
        }
        Ok(())
    }

    fn listen(&mut self) {
        let count: *mut u64 = &raw mut *self.woken;
        self.queue.read_eventfd(&self.pool.shared.wake, count);
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        // The read is still under way, and the kernel takes the ring down in its own time.
        Box::leak(std::mem::replace(&mut self.woken, Box::new(0)));
    }
}

struct Job {
    tag: u16,
    slot: Slot,
}

struct Done {
    tag: u16,
    slot: Slot,
    /// What to commit, or why the slot has no memory.
    result: Result<i32, Errno>,
}

/// The serving threads; they end when the pool is dropped.
struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    descriptors: Arc<Descriptors>,
    handler: Arc<dyn Handler>,
    /// Guards the jobs and whether more can come. There are never more jobs than tags. Not held
    /// while a job is served.
    jobs: Mutex<Jobs>,
    more: Condvar,
    /// Guards what is finished but not committed. Held for a push or a swap only.
    done: Mutex<Vec<Done>>,
    /// Written when `done` gets its first entry.
    wake: OwnedFd,
}

#[derive(Default)]
struct Jobs {
    list: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    fn start(seat: &Seat, name: &str) -> Result<Self, DeviceError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(DeviceError::failed("eventfd"))?;
        let shared = Arc::new(Shared {
            descriptors: Arc::clone(&seat.descriptors),
            handler: Arc::clone(&seat.handler),
            jobs: Mutex::default(),
            more: Condvar::new(),
            done: Mutex::default(),
            wake,
        });
        let mut pool = Self {
            shared,
            threads: Vec::new(),
        };
        for number in 0..seat.count {
            let shared = Arc::clone(&pool.shared);
            let thread = threads::deep(format!("{name}-{number}"))
                .spawn(move || shared.run())
                .map_err(DeviceError::io("thread"))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.jobs).closed = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("ublk: a serving thread panicked");
            }
        }
    }
}

impl Shared {
    fn give(&self, job: Job) {
        lock(&self.jobs).list.push_back(job);
        self.more.notify_one();
    }

    fn finished(&self) -> Vec<Done> {
        std::mem::take(&mut lock(&self.done))
    }

    fn run(&self) {
        let served = in_lane(&*self.handler, || {
            self.serve();
            Ok(())
        });
        if let Err(why) = served {
            log::error!("ublk: {why}");
        }
    }

    fn serve(&self) {
        while let Some(mut job) = self.next() {
            let mut answered = None;
            let described = self.descriptors.read(job.tag);
            let hook = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.handler.batch(&mut || {
                    answered
                        .get_or_insert_with(|| answer(&*self.handler, described, &mut job.slot));
                });
            }));
            if hook.is_err() {
                log::error!("ublk: a panic around a request");
            }
            let answer =
                answered.unwrap_or_else(|| answer(&*self.handler, described, &mut job.slot));
            self.finish(job, answer);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.list.pop_front() {
                return Some(job);
            }
            if jobs.closed {
                return None;
            }
            jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, job: Job, answer: Answer) {
        let Job { tag, mut slot } = job;
        let result = renew(&mut slot, answer.carry).map(|()| answer.result);
        let mut done = lock(&self.done);
        let first = done.is_empty();
        done.push(Done { tag, slot, result });
        drop(done);
        // The counter would have to reach 2^64 for this to fail or to wait.
        if first && let Err(errno) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {
            log::error!("ublk: eventfd: {errno}");
        }
    }
}

/// The locks here guard lists that are whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
