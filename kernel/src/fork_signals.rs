//! Forked children do not inherit what this process does about signals: a signal that it acts on in a
//! way of its own ends them, as it ends other processes.
//!
//! A child that went on handling it would do nothing at all: nobody in it acts on what the handler notes,
//! and whoever sends the signal to end the child (a pool of worker processes) waits for ever.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// By number of the signal, the handler of this process that a child does not keep; 0 for none. A child
/// must find them without a lock.
static HANDLERS: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];

thread_local! {
    /// What was blocked before the fork that is under way on this thread.
    static BLOCKED: Cell<Option<libc::sigset_t>> = const { Cell::new(None) };
}

/// Run `handle`, which makes this process handle `signals`. A child that is forked later has the default
/// action for those that had it before. One that others handle is left as they want it.
///
/// # Errors
/// What `handle` says; else the system refuses to watch forks.
pub fn handle_here_only<T>(
    signals: &[i32],
    handle: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let free: Vec<i32> = signals
        .iter()
        .copied()
        .filter(|signal| handler(*signal) == libc::SIG_DFL)
        .collect();
    let handled = handle()?;
    watch_forks()?;
    for signal in free {
        if let Some(known) = known(signal) {
            known.store(handler(signal), Ordering::Release);
        }
    }
    Ok(handled)
}

fn known(signal: i32) -> Option<&'static AtomicUsize> {
    HANDLERS.get(usize::try_from(signal).ok()?)
}

fn watch_forks() -> io::Result<()> {
    static WATCHED: Once = Once::new();
    let mut error = 0;
    WATCHED.call_once(|| {
        // SAFETY: the handlers make system calls and touch what is atomic or the thread's own.
        error = unsafe { libc::pthread_atfork(Some(block), Some(unblock), Some(reset)) };
    });
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The handler of a signal; `SIG_DFL` for a number that is none.
fn handler(signal: i32) -> libc::sighandler_t {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) without a new action writes the current one; zeroes are one, too.
    unsafe {
        libc::sigaction(signal, null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

/// Before a fork: a signal that is sent to the child before it is [`reset`] shall not be lost.
unsafe extern "C" fn block() {
    let mut signals = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the sets are the caller's own, and zeroes are sets.
    let before = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for (signal, handler) in (0..).zip(&HANDLERS) {
            if handler.load(Ordering::Acquire) != 0 {
                libc::sigaddset(signals.as_mut_ptr(), signal);
            }
        }
        let (signals, before) = (signals.as_ptr(), before.as_mut_ptr());
        if libc::pthread_sigmask(libc::SIG_BLOCK, signals, before) != 0 {
            return;
        }
        *before
    };
    BLOCKED.set(Some(before));
}

/// In the parent, and at last in the child: as before the fork.
unsafe extern "C" fn unblock() {
    if let Some(before) = BLOCKED.take() {
        // SAFETY: a set that the same call gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, null_mut()) };
    }
}

/// In the child, before it runs anything else.
unsafe extern "C" fn reset() {
    for (signal, known) in (0..).zip(&HANDLERS) {
        let known = known.load(Ordering::Acquire);
        if known != 0 && known == handler(signal) {
            // SAFETY: the default action runs no code of this process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
    // SAFETY: as for the parent.
    unsafe { unblock() };
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn ignore(_signal: libc::c_int) {}

    fn set(signal: i32, handler: libc::sighandler_t) {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(signal, handler) };
    }

    /// The signal that ends a child which waits to be ended by this one; none if it ends by itself.
    fn ends_by(signal: i32) -> Option<i32> {
        // SAFETY: the child makes system calls only.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(20);
                libc::raise(signal);
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
        }
    }

    #[test]
    fn a_signal_that_is_handled_here_ends_a_child_unless_others_handle_it() {
        let ours = ignore as *const () as libc::sighandler_t;
        let signals = [libc::SIGUSR1, libc::SIGUSR2];
        set(libc::SIGUSR2, ours);
        handle_here_only(&signals, || {
            signals.iter().for_each(|signal| set(*signal, ours));
            Ok(())
        })
        .unwrap();
        assert_eq!(ends_by(libc::SIGUSR1), Some(libc::SIGUSR1));
        assert_eq!(ends_by(libc::SIGUSR2), None);
        // SAFETY: this process survives what it handles.
        unsafe { libc::raise(libc::SIGUSR1) };
        // What is chosen later is nobody else's either.
        set(libc::SIGUSR1, libc::SIG_IGN);
        assert_eq!(ends_by(libc::SIGUSR1), None);
    }

    #[test]
    fn a_signal_that_comes_too_early_is_not_lost() {
        let ours = ignore as *const () as libc::sighandler_t;
        let early = libc::SIGVTALRM;
        handle_here_only(&[early], || {
            set(early, ours);
            Ok(())
        })
        .unwrap();
        for _ in 0..200 {
            // SAFETY: the child makes system calls only.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::sleep(60);
                    libc::_exit(0);
                }
                libc::kill(child, early);
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                assert!(libc::WIFSIGNALED(status), "{status}");
            }
        }
    }
}
