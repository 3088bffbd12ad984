//! Sockets that end with their process, whatever it has forked: who holds a copy of one end keeps the
//! other end waiting.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A bit for each descriptor that is closed in every child of this process that is made by fork(3),
/// exec or not. A child must find them without a lock and without memory of its own. As many as a
/// process may have where nobody has raised `fs.nr_open`; the kernel gives memory only to what is used.
static CLOSED: [AtomicU64; (1 << 20) / BITS] = [const { AtomicU64::new(0) }; (1 << 20) / BITS];
const BITS: usize = u64::BITS as usize;

/// Words of [`CLOSED`] that have ever been used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Keeps descriptors from forked children until it is dropped, which must be before they are closed.
#[derive(Debug, Default)]
pub struct Unforked {
    descriptors: Vec<RawFd>,
}

impl Unforked {
    /// One descriptor.
    #[must_use]
    pub fn only(descriptor: BorrowedFd<'_>) -> Self {
        let mut unforked = Self::default();
        unforked.add(descriptor);
        unforked
    }

    /// Keep one more from them.
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
        let Some((word, bit)) = place(fd) else {
            log::debug!("descriptor {fd} is inherited by what is forked");
            return;
        };
        USED.fetch_max(word + 1, Ordering::AcqRel);
        CLOSED[word].fetch_or(bit, Ordering::AcqRel);
        self.descriptors.push(fd);
    }
}

impl Drop for Unforked {
    fn drop(&mut self) {
        for (word, bit) in self.descriptors.iter().copied().filter_map(place) {
            CLOSED[word].fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

/// Which word has the bit of a descriptor, if any does.
fn place(fd: RawFd) -> Option<(usize, u64)> {
    let fd = usize::try_from(fd).ok()?;
    (fd / BITS < CLOSED.len()).then_some((fd / BITS, 1 << (fd % BITS)))
}

/// In the child, before it runs anything else.
unsafe extern "C" fn close_all() {
    for (word, bits) in (0..).zip(&CLOSED[..USED.load(Ordering::Acquire)]) {
        // The numbers are the child's from here on, and its own children keep what it opens.
        let mut left = bits.swap(0, Ordering::AcqRel);
        while left != 0 {
            let fd = word * u64::BITS + left.trailing_zeros();
            left &= left - 1;
            // SAFETY: the child's own copy, which nothing in the child uses: only the threads of its
            // parent do.
            unsafe { libc::close(fd.cast_signed()) };
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

    /// Fork, run `child` there, and give its exit status.
    fn status_of(child: impl Fn() -> i32) -> i32 {
        let mut status = 0;
        // SAFETY: the child makes system calls only; the parent waits for its own child.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(child()),
                child => libc::waitpid(child, &raw mut status, 0),
            };
        }
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn many_are_closed_and_those_that_were_let_go_are_not() {
        let files: Vec<_> = (0..200)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let (kept, closed) = files.split_at(100);
        let mut unforked = Unforked::default();
        let let_go = Unforked::only(kept[0].as_fd());
        closed.iter().for_each(|file| unforked.add(file.as_fd()));
        drop(let_go);
        // SAFETY: asks only.
        let is_open = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
        let open = |files: &[std::fs::File]| {
            let open = files.iter().filter(|file| is_open(file.as_raw_fd()));
            i32::try_from(open.count()).unwrap()
        };
        assert_eq!(status_of(|| open(kept)), 100);
        assert_eq!(status_of(|| open(closed)), 0);
        assert_eq!(open(&files), 200);
    }

    #[test]
    fn what_a_child_opens_under_the_same_number_is_its_childrens() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let unforked = Unforked::only(ours.as_fd());
        // SAFETY: system calls only, on a number that is free in the child.
        let status = status_of(|| unsafe {
            if libc::dup2(2, fd) != fd {
                return 2;
            }
            status_of(|| i32::from(libc::fcntl(fd, libc::F_GETFD) == -1))
        });
        assert_eq!(status, 0, "it was closed in the child's child");
        drop(unforked);
    }
}
