//! Many reads or writes of one file from one thread: Linux AIO, as io_submit(2) describes it.
//!
//! For putting a load on a device or a file that was opened with `O_DIRECT`. It is there where
//! io_uring is switched off, and it asks a FUSE file without a hop to another thread.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// `struct iocb` of <https://github.com/torvalds/linux/blob/master/include/uapi/linux/aio_abi.h>,
/// as little-endian machines have it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_field_names,
    reason = "the names of the kernel's header"
)]
struct Iocb {
    aio_data: u64,
    aio_key: u32,
    aio_rw_flags: i32,
    aio_lio_opcode: u16,
    aio_reqprio: i16,
    aio_fildes: u32,
    aio_buf: u64,
    aio_nbytes: u64,
    aio_offset: i64,
    aio_reserved2: u64,
    aio_flags: u32,
    aio_resfd: u32,
}

const _: () = assert!(size_of::<Iocb>() == 64);
const _: () = assert!(cfg!(target_endian = "little"), "see `Iocb`");

/// `struct io_event` of the same header.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

const _: () = assert!(size_of::<IoEvent>() == 32);

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// Answers that are taken from the kernel at once.
const AT_ONCE: usize = 64;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// A request that was answered.
#[derive(Debug)]
pub struct Done {
    /// Which of the requests.
    pub slot: usize,
    /// Bytes that were read or written, or the error.
    pub outcome: io::Result<u64>,
}

/// Up to `depth` requests at a time, each with memory of its own.
#[derive(Debug)]
pub struct Requests {
    context: u64,
    file: File,
    memory: NonNull<c_void>,
    len: usize,
    /// One for each slot; the kernel copies it when it is submitted.
    blocks: Vec<Iocb>,
    in_flight: Vec<bool>,
    /// Slots that were started and not submitted yet.
    started: Vec<usize>,
}

// SAFETY: the mapping and the context belong to the process, not to the thread that made them.
unsafe impl Send for Requests {}

impl Requests {
    /// Room for `depth` requests of `len` bytes each on `file`.
    ///
    /// # Errors
    /// As io_setup(2), `EAGAIN` if the system has no more of them; `ENOMEM`.
    pub fn new(file: File, depth: usize, len: usize) -> io::Result<Self> {
        let count = libc::c_uint::try_from(depth).map_err(io::Error::other)?;
        let total = depth.checked_mul(len).filter(|total| *total > 0);
        let total = total.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing else.
        let memory = unsafe {
            mmap_anonymous(
                null_mut(),
                total,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let mut requests = Self {
            context: 0,
            file,
            memory: NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?,
            len,
            blocks: vec![Iocb::default(); depth],
            in_flight: vec![false; depth],
            started: Vec::with_capacity(depth),
        };
        // SAFETY: io_setup(2) writes the context to the pointer, which lives through the call.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, count, &raw mut requests.context) };
        checked(made)?;
        Ok(requests)
    }

    /// The memory of a request that is not under way.
    ///
    /// # Panics
    /// If it is.
    pub fn memory(&mut self, slot: usize) -> &mut [u8] {
        assert!(!self.in_flight[slot], "the kernel has this memory");
        // SAFETY: the mapping has `len` bytes for each slot (`in_flight` has one place a slot, and the
        // index was checked there), it is readable and writable and lives as long as `self`; the
        // kernel has none of it while the slot is not in flight, and `&mut self` keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.at(slot).cast(), self.len) }
    }

    fn at(&self, slot: usize) -> *mut c_void {
        self.memory
            .as_ptr()
            .wrapping_byte_add(slot.wrapping_mul(self.len))
    }

    /// Start a request of `len` bytes at byte `at`. It goes off with the next [`Requests::wait`].
    ///
    /// # Panics
    /// If the request of this slot was not answered yet, or `at` is no offset of a file.
    pub fn start(&mut self, slot: usize, direction: Direction, at: u64) {
        assert!(!self.in_flight[slot], "the slot is taken");
        let opcode = match direction {
            Direction::Read => IOCB_CMD_PREAD,
            Direction::Write => IOCB_CMD_PWRITE,
        };
        self.blocks[slot] = Iocb {
            aio_data: slot as u64,
            aio_lio_opcode: opcode,
            aio_fildes: self.file.as_raw_fd().cast_unsigned(),
            aio_buf: self.at(slot) as u64,
            aio_nbytes: self.len as u64,
            aio_offset: i64::try_from(at).expect("no file is that long"),
            ..Iocb::default()
        };
        self.in_flight[slot] = true;
        self.started.push(slot);
    }

    /// Send off what was started, and wait for at least one answer, up to `patience`. The answers are
    /// added to `done`.
    ///
    /// # Errors
    /// As io_submit(2) and io_getevents(2).
    pub fn wait(&mut self, patience: Duration, done: &mut Vec<Done>) -> io::Result<()> {
        self.submit()?;
        if !self.in_flight.contains(&true) {
            return Ok(());
        }
        let mut events = [MaybeUninit::<IoEvent>::uninit(); AT_ONCE];
        let mut until = libc::timespec {
            tv_sec: patience.as_secs().try_into().map_err(io::Error::other)?,
            tv_nsec: patience.subsec_nanos().into(),
        };
        // SAFETY: the context is one of io_setup; `events` has room for AT_ONCE answers, and both it
        // and `until` live through the call.
        let count = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                1_usize,
                AT_ONCE,
                events.as_mut_ptr(),
                &raw mut until,
            )
        };
        let count = match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => count?,
        };
        for event in &events[..count] {
            // SAFETY: io_getevents said that it filled so many, each wholly, with integers.
            let event = unsafe { event.assume_init() };
            let slot = usize::try_from(event.data).map_err(io::Error::other)?;
            self.in_flight[slot] = false;
            let outcome = u64::try_from(event.res).map_err(|_negative| {
                let errno = i32::try_from(-event.res).unwrap_or(libc::EIO);
                io::Error::from_raw_os_error(errno)
            });
            done.push(Done { slot, outcome });
        }
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut pointers: Vec<*const Iocb> = Vec::with_capacity(self.started.len());
        pointers.extend(
            self.started
                .iter()
                .map(|slot| &raw const self.blocks[*slot]),
        );
        let mut sent = 0;
        while sent < pointers.len() {
            let left = &mut pointers[sent..];
            // SAFETY: the context is one of io_setup; `left` points to control blocks in `blocks`,
            // which nobody touches meanwhile, and each of them names memory that belongs to its slot
            // until the kernel answers: `in_flight` is set and `drop` waits for all answers.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    self.context,
                    left.len(),
                    left.as_mut_ptr(),
                )
            };
            match checked(count) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // The kernel has not got these.
                    for slot in self.started.drain(..).skip(sent) {
                        self.in_flight[slot] = false;
                    }
                    return Err(error);
                }
            }
        }
        self.started.clear();
        Ok(())
    }
}

/// What a system call gave back.
fn checked(returned: libc::c_long) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_negative| io::Error::last_os_error())
}

impl Drop for Requests {
    /// Waits until the kernel has answered what is under way.
    fn drop(&mut self) {
        if self.context != 0 {
            // SAFETY: the context is one of io_setup and is used no more. The call returns when no
            // request of it has its memory any more.
            let ended = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
            if let Err(error) = checked(ended) {
                log::error!("requests to a file: {error}");
                // The kernel may have their memory still.
                return;
            }
        }
        let total = self.len * self.in_flight.len();
        // SAFETY: the mapping of `new`; the kernel has no request on it, and every slice that
        // `memory` gave borrowed `self`.
        if let Err(error) = unsafe { munmap(self.memory.as_ptr(), total) } {
            log::error!("{total} bytes of memory were not given back: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 4096;

    fn answered(requests: &mut Requests, count: usize) -> Vec<Done> {
        let mut done = Vec::new();
        while done.len() < count {
            requests.wait(Duration::from_secs(10), &mut done).unwrap();
        }
        done
    }

    #[test]
    fn what_was_written_is_read_back_by_many_at_once() {
        let file = tempfile::tempfile().unwrap();
        let mut requests = Requests::new(file, 8, LEN).unwrap();
        for slot in 0..8 {
            requests.memory(slot).fill(u8::try_from(slot).unwrap() + 1);
            requests.start(slot, Direction::Write, (slot * LEN) as u64);
        }
        for done in answered(&mut requests, 8) {
            assert_eq!(done.outcome.unwrap(), LEN as u64);
        }
        // In another order, so that nobody reads its own memory.
        for slot in 0..8 {
            requests.start(slot, Direction::Read, ((7 - slot) * LEN) as u64);
        }
        answered(&mut requests, 8);
        for slot in 0..8 {
            let expected = u8::try_from(8 - slot).unwrap();
            assert_eq!(*requests.memory(slot), [expected; LEN]);
        }
    }

    #[test]
    fn errors_and_short_reads_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, [1; 100]).unwrap();
        let mut requests = Requests::new(File::open(&path).unwrap(), 2, LEN).unwrap();
        requests.start(0, Direction::Read, 0);
        assert_eq!(answered(&mut requests, 1).remove(0).outcome.unwrap(), 100);
        // Not open for writing: refused before it is a request.
        requests.start(1, Direction::Write, 0);
        let refused = requests.wait(Duration::ZERO, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
        requests.memory(1).fill(0);
    }

    #[test]
    fn nothing_under_way_is_nothing_to_wait_for() {
        let mut requests = Requests::new(tempfile::tempfile().unwrap(), 1, LEN).unwrap();
        let mut done = Vec::new();
        requests.wait(Duration::from_secs(60), &mut done).unwrap();
        assert!(done.is_empty());
    }

    #[test]
    #[should_panic(expected = "the slot is taken")]
    fn a_slot_has_one_request_at_a_time() {
        let mut requests = Requests::new(tempfile::tempfile().unwrap(), 1, LEN).unwrap();
        requests.start(0, Direction::Read, 0);
        requests.start(0, Direction::Read, 0);
    }
}
