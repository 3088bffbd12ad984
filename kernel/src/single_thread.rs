//! A thread that runs what other threads give it, one thing after the other: for what may be used by
//! the thread that made it and by no other.
//!
//! The giver waits, so what is run may borrow from it. Nothing here polls or times out: a thing that
//! never returns keeps its giver, and everybody who gives something after it.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::threads;

thread_local! {
    /// The number of the [`SingleThread`] that this thread is; 0 for all other threads.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// What came of a thing that was run: nothing, or the payload of its panic.
type Outcome = Result<(), Box<dyn Any + Send>>;

/// A thing to run, and whom to tell that it was.
struct Job {
    work: &'static mut (dyn FnMut() + Send),
    done: Sender<Outcome>,
}

/// The thread. Dropping this waits until the thread has ended; who runs something holds a reference, so
/// that is never the thread itself.
#[derive(Debug)]
pub struct SingleThread {
    number: u64,
    /// None once it is being dropped: the thread ends when nobody can give it anything.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl SingleThread {
    /// Start a thread of this name, with room for deep recursion. It spends its life inside `around`,
    /// which has to run what it is given once.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        name: &str,
        around: impl FnOnce(&mut (dyn FnMut() + Send)) + Send + 'static,
    ) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (jobs, mut given) = channel();
        let thread = threads::deep(name).spawn(move || {
            CURRENT.set(number);
            around(&mut || run_all(&mut given));
        })?;
        Ok(Self {
            number,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Whether the caller is this thread.
    #[must_use]
    pub fn is_current(&self) -> bool {
        CURRENT.get() == self.number
    }

    /// Run `work` on this thread, after everything that was given before, and give back what it gives.
    /// On the thread itself it is run at once. A panic goes on in the caller; the thread lives on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if self.is_current() {
            return work();
        }
        let (mut work, mut given) = (Some(work), None);
        self.run_there(&mut || given = work.take().map(|work| work()));
        given.expect("it was run, for a panic would have gone on here")
    }

    fn run_there(&self, work: &mut (dyn FnMut() + Send)) {
        let (done, outcome) = channel();
        // SAFETY: only the lifetime changes. The reference is in the job and nowhere else. The thread
        // uses it before it sends the outcome, and not after; a job that is not run is dropped with its
        // sender. This function waits for the one or the other, without a limit and without unwinding,
        // so what is borrowed outlives every use.
        let work = unsafe {
            std::mem::transmute::<&mut (dyn FnMut() + Send), &'static mut (dyn FnMut() + Send)>(
                work,
            )
        };
        let jobs = self
            .jobs
            .as_ref()
            .expect("it is taken when this is dropped");
        // A job that comes back is dropped here, and its sender with it.
        drop(jobs.send(Job { work, done }));
        match outcome.recv() {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => resume_unwind(panic),
            Err(ended) => panic!("a thread that only ends when this is dropped is gone: {ended}"),
        }
    }
}

impl Drop for SingleThread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a thread panicked around what it was given");
        }
    }
}

fn run_all(given: &mut Receiver<Job>) {
    while let Ok(Job { work, done }) = given.recv() {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // The giver waits, always.
        done.send(outcome).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn started() -> SingleThread {
        SingleThread::start("single", |work| work()).unwrap()
    }

    #[test]
    fn everything_runs_on_one_thread_whoever_gives_it() {
        let single = started();
        let own = single.run(|| thread::current().id());
        assert_ne!(own, thread::current().id());
        let sum = AtomicU64::new(0);
        thread::scope(|scope| {
            for number in 0..8 {
                let (single, sum) = (&single, &sum);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let there = single.run(|| {
                            // No other thread changes it in between.
                            sum.store(sum.load(Ordering::Relaxed) + number, Ordering::Relaxed);
                            thread::current().id()
                        });
                        assert_eq!(there, own);
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 50 * 28);
    }

    #[test]
    fn what_it_runs_may_borrow_and_may_give_it_more() {
        let single = started();
        let mut text = String::from("a");
        let len = single.run(|| {
            assert!(single.is_current());
            single.run(|| text.push('b'));
            text.len()
        });
        assert!(!single.is_current());
        assert_eq!((len, text.as_str()), (2, "ab"));
    }

    #[test]
    fn a_panic_goes_on_in_the_giver_and_the_thread_lives_on() {
        let single = started();
        let panics = || single.run(|| panic!("the test wants this"));
        let payload = catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"the test wants this"));
        assert_eq!(single.run(|| 7), 7);
    }

    #[test]
    fn dropping_it_waits_for_the_end_of_the_thread() {
        let ended = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&ended);
        let around = move |work: &mut (dyn FnMut() + Send)| {
            work();
            tell.store(1, Ordering::Relaxed);
        };
        let single = SingleThread::start("single", around).unwrap();
        single.run(|| ());
        drop(single);
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
