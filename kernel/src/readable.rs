//! Waiting in a tokio runtime until the kernel has something to say on a descriptor: a process that has ended, a file
//! that was written to.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for until it can be read. Call it in a tokio runtime.
///
/// # Errors
/// `EPERM` for what epoll does not know, such as an ordinary file.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives and always names the same description; the result owns it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
