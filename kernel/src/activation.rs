//! Descriptors that the parent process passed to this one: systemd's sockets, and others by number.

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// The first descriptor that systemd passes.
const FIRST: RawFd = 3;

/// The listening sockets that systemd passed to this process, in its order; none if it passed none.
///
/// `LISTEN_PID` names the process that they are for, `LISTEN_FDS` is how many they are, as in
/// sd_listen_fds(3). They can be taken once.
///
/// # Errors
/// The variables say that there are sockets, but there are none.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    let pid = env::var("LISTEN_PID").unwrap_or_default();
    if pid != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count = env::var("LISTEN_FDS").unwrap_or_default();
    let count: RawFd = count
        .parse()
        .map_err(|error| io::Error::other(format!("LISTEN_FDS is `{count}`: {error}")))?;
    (FIRST..FIRST.saturating_add(count)).map(adopt).collect()
}

/// The descriptor of this number, which this process inherited and nobody here owns yet.
///
/// # Errors
/// `EBADF` if there is none; `EBUSY` if it is not inherited or was adopted before.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the borrow ends with this function, and whether there is such a descriptor at all is
    // what the kernel is asked first.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // What a Rust program opens is closed on exec, so a descriptor without that mark was inherited.
    // The mark it gets here keeps it from being adopted again.
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BUSY.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open and, being inherited and not adopted before, owned by nobody.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn an_inherited_descriptor_is_adopted_once() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        assert_eq!(adopt(number).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
        let _number = file.into_raw_fd();
        let adopted = adopt(number).unwrap();
        assert_eq!(adopted.as_raw_fd(), number);
        assert!(adopt(number).is_err());
    }

    #[test]
    fn a_number_without_a_descriptor_is_refused() {
        for number in [-1, 1 << 20] {
            let error = adopt(number).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
    }

    #[test]
    fn sockets_for_another_process_are_left_alone() {
        // The test runner is no service.
        assert!(sockets().unwrap().is_empty());
    }
}
