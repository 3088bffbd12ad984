//! The ring of one thread on `/dev/ublkcN`: fetch, commit, wait.
//!
//! Written on io_uring and not on `libublk`'s queue, because that one only exists together with its
//! control object (which answers a failed ADD_DEV with the error of a second, older command, or
//! else reads a state file below /run), takes the first buffers from its own type only, and drops
//! the commit of a request without a word once it has seen one tag end.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::abi::{self, Descriptor};
use super::control::no_ring;
use crate::device_error::{DeviceError, errno_of};

/// What a wait brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request is in the descriptor of this tag.
    Request(u16),
    /// This tag brings no more requests: the device is going away.
    Gone,
    /// The driver refused a fetch or a commit of this tag.
    Refused(u16, Errno),
    /// The read of [`Queue::read_eventfd`] is done.
    Woken,
}

/// A ring on the character node of a device. Used by the thread that made it.
pub(crate) struct Queue {
    ring: IoUring,
    /// For whoever wonders how many requests a system call brings.
    requests: u64,
    calls: u64,
    most: u64,
}

/// `user_data` of the eventfd's read; tags are below 4096.
const WOKEN: u64 = u64::MAX;

impl Queue {
    /// A ring with room for `tags` commands and one more.
    pub(crate) fn new(node: &File, tags: u16) -> Result<Self, DeviceError> {
        let entries = (u32::from(tags) + 1).next_power_of_two();
        // The completions of a ring with deferred task work run when this thread waits and at no
        // other time, so the thread is not interrupted while it serves.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .dontfork()
            .build(entries)
            .map_err(|error| no_ring(&error))?;
        ring.submitter()
            .register_files(&[node.as_raw_fd()])
            .map_err(DeviceError::io("io_uring_register"))?;
        Ok(Self {
            ring,
            requests: 0,
            calls: 0,
            most: 0,
        })
    }

    /// Ask for the first request of a tag; this thread becomes the one that serves the tag.
    pub(crate) fn fetch(&mut self, tag: u16, address: u64) {
        self.command(abi::UBLK_U_IO_FETCH_REQ, tag, address, -1);
    }

    /// Answer the request of a tag and ask for its next one. The data of a read is taken from
    /// `address`, and the next request uses the same memory.
    pub(crate) fn commit(&mut self, tag: u16, address: u64, result: i32) {
        self.command(abi::UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, address, result);
    }

    fn command(&mut self, code: u32, tag: u16, addr: u64, result: i32) {
        let wire = abi::ublksrv_io_cmd {
            q_id: 0,
            tag,
            result,
            addr,
        };
        // SAFETY: a structure of 16 bytes made of integers, without padding.
        let cmd: [u8; 16] = unsafe { std::mem::transmute(wire) };
        self.push(
            &opcode::UringCmd16::new(Fixed(0), code)
                .cmd(cmd)
                .build()
                .user_data(tag.into()),
        );
    }

    /// Read an eventfd into `count`, which must stay where it is until [`Event::Woken`] or until
    /// the queue is gone.
    pub(crate) fn read_eventfd(&mut self, eventfd: impl AsFd, count: *mut u64) {
        let fd = io_uring::types::Fd(eventfd.as_fd().as_raw_fd());
        let len = u32::try_from(size_of::<u64>()).expect("8 fits");
        self.push(
            &opcode::Read::new(fd, count.cast(), len)
                .build()
                .user_data(WOKEN),
        );
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the commands carry addresses of buffers that outlive the ring, see `Tags`, and the
        // read's target is the caller's promise.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("each tag has one command at a time, and the ring has room for all");
    }

    /// Hand what was committed to the driver without waiting.
    pub(crate) fn submit(&mut self) -> Result<(), Errno> {
        self.calls += 1;
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) => transient(errno_of(&error)),
        }
    }

    /// Hand over what was committed, wait until something happens, and collect it: one system call.
    /// A signal ends the wait with nothing collected.
    pub(crate) fn wait(&mut self, events: &mut Vec<Event>) -> Result<(), Errno> {
        self.calls += 1;
        let waited = self.ring.submit_and_wait(1);
        self.collect(events);
        match waited {
            Ok(_) => Ok(()),
            Err(error) => transient(errno_of(&error)),
        }
    }

    /// Collect what has happened already.
    pub(crate) fn collect(&mut self, events: &mut Vec<Event>) {
        let before = self.requests;
        for completion in self.ring.completion() {
            let tag = completion.user_data();
            events.push(match (u16::try_from(tag), completion.result()) {
                (Err(_), _) => Event::Woken,
                (Ok(tag), 0) => {
                    self.requests += 1;
                    Event::Request(tag)
                }
                (Ok(_), abi::ABORT) => Event::Gone,
                (Ok(tag), result) => Event::Refused(tag, Errno::from_raw_os_error(-result)),
            });
        }
        self.most = self.most.max(self.requests - before);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (requests, calls, most) = (self.requests, self.calls, self.most);
        log::debug!("ublk: {requests} requests in {calls} system calls, at most {most} by one");
    }
}

/// What `io_uring_enter` says when it is worth another try; the submissions stay in the ring.
fn transient(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::INTR | Errno::BUSY => Ok(()),
        // No memory for a request just now.
        Errno::AGAIN | Errno::NOMEM => {
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(())
        }
        errno => Err(errno),
    }
}

/// The descriptors of a device's one queue, which the driver writes before it completes a fetch.
#[derive(Debug)]
pub(crate) struct Descriptors {
    start: *const abi::ublksrv_io_desc,
    depth: u16,
    bytes: usize,
}

// SAFETY: read-only memory; who reads which descriptor when is ruled by the completions.
unsafe impl Send for Descriptors {}
// SAFETY: as above.
unsafe impl Sync for Descriptors {}

impl Descriptors {
    /// Map the descriptors of `depth` tags. Children of a fork do not get the mapping, or else the
    /// device could not go before they do.
    pub(crate) fn map(node: &File, depth: u16) -> Result<Self, DeviceError> {
        let bytes = (usize::from(depth) * size_of::<abi::ublksrv_io_desc>())
            .next_multiple_of(rustix::param::page_size());
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing else.
        let start = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, flags, node, 0) }
            .map_err(DeviceError::failed("mmap of the request descriptors"))?;
        let this = Self {
            start: start.cast_const().cast(),
            depth,
            bytes,
        };
        // SAFETY: the mapping was made just now; the advice does not change its content.
        unsafe { madvise(start, bytes, Advice::LinuxDontFork) }
            .map_err(DeviceError::failed("madvise of the request descriptors"))?;
        Ok(this)
    }

    /// The request of a tag whose fetch has completed and that is not committed yet.
    pub(crate) fn read(&self, tag: u16) -> Result<Descriptor, u32> {
        assert!(tag < self.depth, "tags are below the depth");
        // SAFETY: in bounds and aligned; the driver wrote it before the completion that the caller
        // saw, and does not write to it again before the commit.
        let desc = unsafe { self.start.add(tag.into()).read_volatile() };
        Descriptor::parse(&desc)
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; `self` is the only way to it.
        if let Err(errno) = unsafe { munmap(self.start.cast_mut().cast(), self.bytes) } {
            log::error!("ublk: unmapping the request descriptors: {errno}");
        }
    }
}
