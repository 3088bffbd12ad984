//! The guard: a small process that disconnects a device when the worker that serves it has died.
//!
//! The agent does that, too; the guard is for the case that it died with the worker, because the
//! kernel would keep everybody waiting who waits for an answer. It holds nothing of the worker but a
//! descriptor that stands for the process, and ends with it.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::remove;
use crate::logging;

/// How often a removal is tried again.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// Wait for the end of the process that standard input stands for, see pidfd_open(2), and remove the
/// device that it left behind, which the kernel knows by this word, if there is one.
#[must_use]
pub fn guard(word: &str) -> ExitCode {
    let worker = std::io::stdin();
    let mut ready = [PollFd::from_borrowed_fd(worker.as_fd(), PollFlags::IN)];
    loop {
        match poll(&mut ready, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::from(2),
        }
    }
    for _ in 0..TRIES {
        match remove(word) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(refusal) => logging::say(&format!("pydisk: {refusal}\n")),
        }
        thread::sleep(PAUSE);
    }
    ExitCode::FAILURE
}
