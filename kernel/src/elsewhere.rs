//! System calls in a process of its own: what waits for this process's own disk.
//!
//! A process that opens or reads its own disk cannot die while the disk does not answer: one thread
//! waits in the kernel for the answer, beyond the reach of SIGKILL, and keeps the descriptors open
//! whose end would make the driver fail the request. So a child does it that first lets go of all it
//! has inherited.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// What a child tells: which of its steps failed, the errno or 0, and a number.
pub(crate) type Word = [u64; 3];

/// Run `work` in a child process that has no descriptors of this one, and give what it tells.
///
/// # Errors
/// `ETIMEDOUT` when it told nothing `within` that time or once `give_up` said yes, which is asked
/// from time to time: it is killed then and dies when the kernel lets it. `EIO` when it died without
/// a word.
///
/// # Safety
/// Other threads may hold any lock when the child is made, so `work` may only do what is safe in a
/// signal handler: system calls, and no allocation.
pub(crate) unsafe fn elsewhere(
    within: Duration,
    give_up: impl Fn() -> bool,
    work: impl FnOnce() -> Word,
) -> Result<Word, Errno> {
    // SAFETY: the caller's promise.
    let child = unsafe { Child::start(work, |_unheard| ()) }?;
    child.hear(within, give_up).inspect_err(|errno| {
        if *errno == Errno::TIMEDOUT {
            // SAFETY: a child of ours that was not waited for.
            unsafe { libc::kill(child.pid, libc::SIGKILL) };
        }
    })
}

/// As [`elsewhere`], for work that leaves something in the kernel. A child that is late is left to itself, for as
/// long as the kernel keeps it; when it has its word at last and nobody hears it any more, it calls `undo` with it.
///
/// # Errors
/// As [`elsewhere`].
///
/// # Safety
/// As [`elsewhere`], also for `undo`.
pub(crate) unsafe fn elsewhere_or_undone(
    within: Duration,
    work: impl FnOnce() -> Word,
    undo: impl FnOnce(Word),
) -> Result<Word, Errno> {
    // SAFETY: the caller's promise.
    unsafe { Child::start(work, undo) }?.hear(within, || false)
}

/// A child process, and the pipe on which it tells its word.
struct Child {
    pid: libc::pid_t,
    told: File,
}

impl Child {
    /// # Safety
    /// As [`elsewhere_or_undone`].
    unsafe fn start(work: impl FnOnce() -> Word, undo: impl FnOnce(Word)) -> Result<Self, Errno> {
        let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: the child makes system calls and calls `work` and `undo`, which is the caller's promise.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: system calls, on memory of this function.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                libc::dup2(tell.as_raw_fd(), 0);
                libc::close_range(1, libc::c_uint::MAX, 0);
                let word = work();
                let bytes = word.map(u64::to_ne_bytes);
                if libc::write(0, bytes.as_ptr().cast(), size_of::<Word>()) < 0 {
                    undo(word);
                }
                libc::_exit(0)
            }
        }
        if pid < 0 {
            return Err(last_errno());
        }
        let told = told.into();
        Ok(Self { pid, told })
    }

    /// What it says. It is not waited for where it says nothing in time.
    fn hear(&self, within: Duration, give_up: impl Fn() -> bool) -> Result<Word, Errno> {
        let word = hear(&self.told, within, give_up);
        if word != Err(Errno::TIMEDOUT) {
            // It has nothing left to do. Somebody else may have waited for it, which is all the same.
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
        word
    }
}

/// Open for [`elsewhere`].
///
/// # Errors
/// As open(2).
pub(crate) fn open_there(path: &CStr, flags: libc::c_int) -> Result<libc::c_int, u64> {
    // SAFETY: a path that ends with a zero byte.
    let file = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    if file < 0 {
        Err(errno_there())
    } else {
        Ok(file)
    }
}

/// Open for reading and close again, for [`elsewhere`].
///
/// # Errors
/// As open(2) and close(2).
pub(crate) fn open_and_close_there(path: &CStr) -> Result<(), u64> {
    let file = open_there(path, libc::O_RDONLY)?;
    // SAFETY: a descriptor that was opened above.
    match unsafe { libc::close(file) } {
        0 => Ok(()),
        _ => Err(errno_there()),
    }
}

/// Read the first `len` bytes, at most 64 KiB, for [`elsewhere`].
///
/// # Errors
/// As pread(2); `EIO` for fewer bytes.
pub(crate) fn read_there(file: libc::c_int, len: usize) -> Result<(), u64> {
    const EIO: u64 = libc::EIO.unsigned_abs() as u64;
    let mut first = [0_u8; 64 << 10];
    let len = len.min(first.len());
    // SAFETY: the buffer has `len` bytes.
    let read = unsafe { libc::pread64(file, first.as_mut_ptr().cast(), len, 0) };
    match usize::try_from(read) {
        Err(_negative) => Err(errno_there()),
        Ok(read) if read < len => Err(EIO),
        Ok(_) => Ok(()),
    }
}

/// Whether the file at `path` begins with `text` and then ends its line, for [`elsewhere`].
pub(crate) fn first_line_is_there(path: &CStr, text: &[u8]) -> bool {
    let mut line = [0_u8; 4096];
    let Ok(file) = open_there(path, libc::O_RDONLY) else {
        return false;
    };
    // SAFETY: the buffer's own length.
    let read = unsafe { libc::read(file, line.as_mut_ptr().cast(), line.len()) };
    // SAFETY: a descriptor that was opened above.
    unsafe { libc::close(file) };
    let read = usize::try_from(read).unwrap_or(0);
    line[..read].strip_prefix(text) == Some(b"\n")
}

/// The size of the file at `path`, for [`elsewhere`].
///
/// # Errors
/// As stat(2).
pub(crate) fn size_there(path: &CStr) -> Result<u64, u64> {
    // SAFETY: all zeroes is a stat structure.
    let mut found: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: a path that ends with a zero byte, and a structure to fill.
    if unsafe { libc::stat64(path.as_ptr(), &raw mut found) } != 0 {
        return Err(errno_there());
    }
    Ok(found.st_size.cast_unsigned())
}

/// The errno of the last system call, for [`elsewhere`].
pub(crate) fn errno_there() -> u64 {
    // SAFETY: the thread's own.
    u64::from(unsafe { *libc::__errno_location() }.unsigned_abs())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// How often a wait looks up.
const SLICE: Duration = Duration::from_millis(100);

/// What the child says.
fn hear(mut told: &File, within: Duration, give_up: impl Fn() -> bool) -> Result<Word, Errno> {
    let deadline = Instant::now() + within;
    let slice = Timespec::try_from(SLICE).unwrap_or_default();
    let mut ready = [PollFd::new(told, PollFlags::IN)];
    loop {
        match poll(&mut ready, Some(&slice)) {
            Ok(0) if give_up() || Instant::now() >= deadline => return Err(Errno::TIMEDOUT),
            Ok(0) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    let mut bytes = [0; size_of::<Word>()];
    let heard = told.read_exact(&mut bytes);
    heard.map_err(|_died| Errno::IO)?;
    let (words, _) = bytes.as_chunks();
    Ok([0, 1, 2].map(|index| u64::from_ne_bytes(words[index])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// The kernel keeps the child until the test has given it up.
    #[test]
    fn what_is_done_too_late_is_undone_and_nobody_waits_for_it() {
        let (held, hold) = pipe_with(PipeFlags::empty()).unwrap();
        let (done, undone) = (tempfile::tempdir().unwrap(), c"undone");
        let folder = std::ffi::CString::new(done.path().to_str().unwrap()).unwrap();
        let held = held.as_raw_fd();
        // Kept open beyond what closes all others, by a number that the child asks for again.
        let fifo =
            std::ffi::CString::new(format!("/proc/{}/fd/{held}", std::process::id())).unwrap();
        let work = || {
            let mut byte = 0_u8;
            let Ok(held) = open_there(&fifo, libc::O_RDONLY) else {
                return [0, 1, 0];
            };
            // SAFETY: one byte of this function.
            unsafe { libc::read(held, (&raw mut byte).cast(), 1) };
            [0, 0, 7]
        };
        let undo = |word: Word| {
            // SAFETY: paths that end with a zero byte.
            unsafe {
                if word == [0, 0, 7] && libc::chdir(folder.as_ptr()) == 0 {
                    libc::mkdir(undone.as_ptr(), 0o700);
                }
            }
        };
        // SAFETY: both make system calls only.
        let told = unsafe { elsewhere_or_undone(Duration::ZERO, work, undo) };
        assert_eq!(told, Err(Errno::TIMEDOUT));
        assert!(!done.path().join("undone").exists());
        rustix::io::write(&hold, b"x").unwrap();
        let deadline = Instant::now() + LONG;
        while !done.path().join("undone").exists() {
            assert!(Instant::now() < deadline, "it is not undone");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_done_in_time_stays() {
        let undo = |_| {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(libc::getppid(), libc::SIGKILL) };
        };
        // SAFETY: both make system calls only.
        let told = unsafe { elsewhere_or_undone(LONG, || [1, 2, 3], undo) };
        assert_eq!(told, Ok([1, 2, 3]));
    }
}
