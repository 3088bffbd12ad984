//! The model checker's primitives by the names of the product's `src/sync.rs`.
//!
//! A wait with a time limit ends when it is notified, or else whenever the checker runs the waiter
//! again: each schedule is a choice of who is late. Where [time stands still](stand_still) it waits for
//! the notification alone. The clock is a number that such waits and slow requests move on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Flag, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU16};

// The checker runs all threads of a model on one thread, this one's.
std::thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static STANDS: Cell<bool> = const { Cell::new(false) };
    static THREADLESS: Cell<bool> = const { Cell::new(false) };
}

/// A new run of a model begins.
pub(crate) fn begin() {
    NOW.set(Duration::ZERO);
    STANDS.set(false);
    THREADLESS.set(false);
}

/// From here on no wait is over because it took long.
pub(crate) fn stand_still() {
    STANDS.set(true);
}

/// From here on there are no more threads to be had, or there are again.
pub(crate) fn refuse_threads(refuse: bool) {
    THREADLESS.set(refuse);
}

/// Something has taken so long.
pub(crate) fn pass(time: Duration) {
    NOW.set(NOW.get() + time);
}

/// A moment at which another thread may go on.
fn switch() {
    shuttle::thread::sleep(Duration::ZERO);
}

#[derive(Clone, Copy)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        NOW.get() - self.0
    }
}

/// As of `parking_lot`.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let mut guard = MutexGuard {
            of: &self.0,
            held: None,
        };
        guard.lock();
        guard
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().expect("a model that panics is over")
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").finish_non_exhaustive()
    }
}

pub(crate) struct MutexGuard<'a, T> {
    of: &'a shuttle::sync::Mutex<T>,
    /// None only while it is waited with.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

const HELD: &str = "it is waited with by who holds it";

impl<T> MutexGuard<'_, T> {
    fn lock(&mut self) {
        self.held = Some(self.of.lock().expect("a model that panics is over"));
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

/// As of `parking_lot`: who waits longest is notified first. The checker's own knows no time limit.
#[derive(Default)]
pub(crate) struct Condvar(std::sync::Mutex<VecDeque<Arc<Waiter>>>);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let waiter = self.enter();
        guard.held = None;
        waiter.sleep();
        guard.lock();
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> Late {
        if STANDS.get() {
            self.wait(guard);
            return Late(false);
        }
        let waiter = self.enter();
        guard.held = None;
        shuttle::thread::yield_now();
        let late = !waiter.notified.load(Ordering::Relaxed);
        if late {
            self.waiters().retain(|other| !Arc::ptr_eq(other, &waiter));
            pass(limit);
        }
        guard.lock();
        Late(late)
    }

    pub(crate) fn notify_one(&self) -> bool {
        switch();
        let first = self.waiters().pop_front();
        first.is_some_and(|waiter| {
            waiter.wake();
            true
        })
    }

    pub(crate) fn notify_all(&self) {
        switch();
        let all = std::mem::take(&mut *self.waiters());
        all.iter().for_each(|waiter| waiter.wake());
    }

    fn enter(&self) -> Arc<Waiter> {
        let waiter = Arc::<Waiter>::default();
        self.waiters().push_back(Arc::clone(&waiter));
        waiter
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        self.0.lock().expect("nothing panics under it")
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}

/// One who waits.
#[derive(Default)]
struct Waiter {
    notified: Flag,
    asleep: std::sync::Mutex<Option<Waker>>,
}

impl Waiter {
    fn sleep(&self) {
        shuttle::future::block_on(poll_fn(|context| {
            if self.notified.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            *self.asleep.lock().expect("nothing panics under it") = Some(context.waker().clone());
            Poll::Pending
        }));
    }

    fn wake(&self) {
        self.notified.store(true, Ordering::Relaxed);
        let asleep = self.asleep.lock().expect("nothing panics under it").take();
        asleep.into_iter().for_each(Waker::wake);
    }
}

/// Whether a wait is over because it took long.
#[derive(Clone, Copy)]
pub(crate) struct Late(bool);

impl Late {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

/// As of the standard library.
pub(crate) mod clockless {
    use std::sync::LockResult;
    use std::time::Duration;

    use super::Late;
    pub(crate) use super::MutexGuard;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(super::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            Ok(self.0.lock())
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(super::Condvar);

    impl Condvar {
        pub(crate) fn wait_timeout<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            limit: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, Late)> {
            let late = self.0.wait_for(&mut guard, limit);
            Ok((guard, late))
        }

        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
    }
}

/// As of the standard library.
pub(crate) mod thread {
    use std::io;
    use std::time::Duration;

    use shuttle::sync::mpsc;
    pub(crate) use shuttle::thread::{Scope, ScopedJoinHandle, spawn};
    pub(crate) use std::thread::panicking;

    use super::{THREADLESS, pass};

    /// The checker's own wakes who opened it whenever no thread is left in it, whatever he waits for
    /// then (shuttle-std 0.1.5). So one thread stays until he waits for nothing else any more.
    pub(crate) fn scope<'env, T>(
        work: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
    ) -> T {
        shuttle::thread::scope(|scope| {
            let (stays, leaves) = mpsc::channel::<()>();
            scope.spawn(move || leaves.recv().is_err());
            let came = work(scope);
            drop(stays);
            came
        })
    }

    /// Looks again and again take time.
    pub(crate) fn yield_now() {
        pass(Duration::from_micros(40));
        shuttle::thread::yield_now();
    }

    #[derive(Default)]
    pub(crate) struct Builder;

    impl Builder {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn name(self, _: String) -> Self {
            self
        }

        pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
            self,
            scope: &'scope Scope<'scope, '_>,
            work: impl FnOnce() -> T + Send + 'scope,
        ) -> io::Result<ScopedJoinHandle<'scope, T>> {
            if THREADLESS.get() {
                return Err(io::Error::other("the model has no more threads"));
            }
            Ok(scope.spawn(work))
        }
    }
}
