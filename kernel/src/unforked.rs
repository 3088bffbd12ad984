//! Sockets that end with their process, whatever it has forked: who holds a copy of one end keeps the
//! other end waiting.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};

/// Closed in every child of this process that is made by fork(3), exec or not; -1 is no descriptor.
/// A child must find them without a lock and without memory of its own.
static CLOSED: [AtomicI32; 1024] = [const { AtomicI32::new(NONE) }; 1024];
const NONE: RawFd = -1;

/// Keeps descriptors from forked children until it is dropped, which must be before they are closed.
#[derive(Debug, Default)]
pub struct Unforked {
    places: Vec<usize>,
}

impl Unforked {
    /// Keep one more from them. Where there are too many already it goes on being inherited.
    pub fn add(&mut self, descriptor: BorrowedFd<'_>) {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler makes system calls and touches atomic numbers only.
            let error = unsafe { libc::pthread_atfork(None, None, Some(close_all)) };
            if error != 0 {
                log::debug!("pthread_atfork: {error}");
            }
        });
        let fd = descriptor.as_raw_fd();
        let free = |place: &AtomicI32| {
            place
                .compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        match CLOSED.iter().position(free) {
            Some(place) => self.places.push(place),
            None => log::debug!("descriptor {fd} is inherited by what is forked"),
        }
    }
}

impl Drop for Unforked {
    fn drop(&mut self) {
        for &place in &self.places {
            CLOSED[place].store(NONE, Ordering::Release);
        }
    }
}

/// In the child, before it runs anything else.
unsafe extern "C" fn close_all() {
    for place in &CLOSED {
        let fd = place.load(Ordering::Acquire);
        if fd != NONE {
            // SAFETY: the child's own copy, which nothing in the child uses: only the threads of its
            // parent do.
            unsafe { libc::close(fd) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_ends_although_a_forked_child_lives() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut unforked = Unforked::default();
        unforked.add(ours.as_fd());
        // SAFETY: the child makes system calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::pause();
                libc::_exit(0);
            }
        }
        drop(unforked);
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        // SAFETY: our own child, which is waited for once.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}
