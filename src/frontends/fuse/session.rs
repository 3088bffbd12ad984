//! The kernel's FUSE words, turned into what [`DiskFile`] does, and every one answered.
//!
//! [`Handshake`] agrees with the kernel on what is spoken, as a filesystem of the crate `fuser`, which
//! also mounts. From then on [`Served`] reads the calls itself: `fuser` takes one call at a time, and
//! gives no place to stay attached to Python between two of them.
//!
//! A serial disk is served by one thread, which takes all calls that wait, serves them in one
//! [`OpenDisk::batch`](crate::disk::OpenDisk::batch), and then answers them: whoever waits for several is
//! woken once, with several answers. A parallel disk is served by several threads, each with one call at a time.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Filesystem, InitFlags, KernelConfig};
use pydisk_kernel::fuse::{
    Attributes, Call, Changes, Head, Received, Reply, Statistics, TimeChange,
};
use pydisk_kernel::pages::Slot;
use pydisk_kernel::threads;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;

use super::Released;
use super::file::{DiskFile, Face, Lent, Pass};
use super::stop::Stop;
use super::under_way::{Begin, Spot, UnderWay};
use crate::disk::{Cancel, Errno};
use crate::frontends::vigil::Vigil;

/// How long the kernel may believe what it was told of the file.
const FRESH: Duration = Duration::from_secs(1);

/// Requests in flight that nobody waits for in person: read-ahead and asynchronous direct I/O.
const BACKGROUND: u16 = 256;

/// The longest read or write. The kernel makes none longer unless its administrator says so.
const LONGEST: u32 = 1 << 20;

/// Calls that are taken at once for a serial disk, and the bytes to read or write after which no more
/// are: memory for more than that would have left the processor's caches when it is used again.
const AHEAD: usize = 32;
const AHEAD_BYTES: usize = 128 << 10;

/// A batch that takes longer than this hands over its answers in between.
const HAND_OVER: Duration = Duration::from_micros(200);

/// The loop driver takes its discard granularity from this block size of statfs(2).
const SPACE_UNIT: u32 = 4096;

/// `O_DSYNC` of asm-generic/fcntl.h, which x86, Arm, RISC-V, s390 and Power share; `O_SYNC` contains
/// it. rustix calls `O_SYNC` by this name, which an `O_DSYNC` write does not have set.
const O_DSYNC: i32 = 0o10000;

const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

/// `O_ACCMODE`, whose value 0 is `O_RDONLY`.
const ACCESS_MODE: i32 = 3;

/// What is agreed with the kernel before the first call.
#[derive(Debug)]
pub(super) struct Handshake;

impl Filesystem for Handshake {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ] {
            if let Err(missing) = config.add_capabilities(wanted) {
                log::debug!("this kernel's FUSE has no {missing:?}");
            }
        }
        if let Err(nearest) = config.set_max_background(BACKGROUND) {
            log::debug!("FUSE background requests: {nearest} in place of {BACKGROUND}");
        }
        config
            .set_max_write(LONGEST)
            .map_err(|longest| io::Error::other(format!("writes of {longest} bytes at most")))?;
        Ok(())
    }
}

/// The filesystem that has one inode.
pub(super) struct Served {
    file: Arc<DiskFile>,
    released: Option<Released>,
    /// The only user who is let in, where it is not the file's mode that says so.
    only: Option<u32>,
    under_way: UnderWay,
}

/// Why a thread serves no more.
enum Left {
    /// The filesystem is gone.
    Gone,
    /// It was told to stop.
    Stopped,
}

/// A call that was taken, with the memory for its data.
#[derive(Default)]
struct Seat {
    head: Head,
    memory: Slot,
    answer: Option<Answer>,
    spot: Arc<Spot>,
}

/// What a call gets, and how many bytes of its memory.
struct Answer {
    reply: Reply,
    data: usize,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, data: 0 }
    }
}

impl Seat {
    fn at(spot: Arc<Spot>) -> Self {
        Self {
            spot,
            ..Self::default()
        }
    }

    fn receive(&mut self, served: &Served, device: BorrowedFd<'_>) -> io::Result<Received> {
        self.answer = None;
        let (body, _) = self.memory.lend(LONGEST as usize)?;
        let received = self.head.receive(device, body)?;
        if received == Received::Call && waits_for_the_disk(self.head.call(&[])) {
            let (unique, caller) = (self.head.unique(), self.head.caller());
            served.under_way.take(&self.spot, unique, caller);
        }
        Ok(received)
    }

    /// Serve the call that was received, once.
    fn serve(&mut self, served: &Served, disk: Pass<'_>) {
        let answer = match self.memory.lend(LONGEST as usize) {
            Ok((body, owner)) => {
                let call = self.head.call(body);
                let given_up = || served.file.is_given_up();
                match served.under_way.begin(&self.spot, changes(call), given_up) {
                    Begin::Never => return,
                    Begin::GivenUp => failed(Errno::IO).into(),
                    Begin::Now => served.admit(&self.head, call).map_or_else(
                        |errno| failed(errno).into(),
                        |()| {
                            let own = served.own_cancel(&self.spot, call);
                            let cancel = own.as_ref().unwrap_or(served.file.cancel());
                            served.serve(Lent { disk, cancel }, call, body, owner)
                        },
                    ),
                }
            }
            Err(errno) => failed(errno).into(),
        };
        served.under_way.end(&self.spot);
        self.answer = Some(answer);
    }

    fn answer(&mut self, served: &Served, device: BorrowedFd<'_>) -> io::Result<()> {
        if !served.under_way.leave(&self.spot) {
            return Ok(());
        }
        let Some(Answer { reply, data }) = self.answer.take() else {
            return self.head.answer(device, &failed(Errno::IO), &[]);
        };
        self.head
            .answer(device, &reply, &self.memory.lent()[..data])
    }
}

impl Served {
    pub(super) fn new(file: Arc<DiskFile>, released: Option<Released>, only: Option<u32>) -> Self {
        Self {
            file,
            released,
            only,
            under_way: UnderWay::default(),
        }
    }

    /// Serve until the filesystem is unmounted, on this thread, and on others if there shall be more
    /// than one. A serial disk is let go when `stop` is set, if that comes first.
    pub(super) fn run(&self, device: BorrowedFd<'_>, threads: u16, stop: &Stop) -> io::Result<()> {
        // Behind a loop device it is the kernel itself that calls, which nobody can kill.
        if self.released.is_some() {
            return self.serve_calls(device, threads, stop);
        }
        thread::scope(|scope| {
            let watch = || self.under_way.watch(device);
            let named = thread::Builder::new().name("fuse watch".into());
            named.spawn_scoped(scope, watch)?;
            let served = catch_unwind(AssertUnwindSafe(|| self.serve_calls(device, threads, stop)));
            self.under_way.stop();
            served.unwrap_or_else(|_| Err(io::Error::other("a panic")))
        })
    }

    fn serve_calls(&self, device: BorrowedFd<'_>, threads: u16, stop: &Stop) -> io::Result<()> {
        if threads == 1 && !self.file.limits().parallel {
            let flags = rustix::fs::fcntl_getfl(device)?;
            rustix::fs::fcntl_setfl(device, flags | OFlags::NONBLOCK)?;
            return match self.in_lane(|| self.one_thread(device, Some(stop)))? {
                Left::Gone => Ok(()),
                // Nobody shall wait for an answer, although there is none to have any more.
                Left::Stopped => self.one_thread(device, None).map(drop),
            };
        }
        thread::scope(|scope| {
            let mut others = Vec::new();
            for number in 1..threads {
                let lane = move || self.in_lane(|| self.one_of_many(device));
                let named = threads::deep(format!("fuse lane {number}"));
                others.push(named.spawn_scoped(scope, lane)?);
            }
            let mut outcome = self.in_lane(|| self.one_of_many(device));
            for other in others {
                let ended = other.join();
                let ended = ended.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
                outcome = outcome.and(ended);
            }
            outcome
        })
    }

    /// Run `work`, all of a thread, inside [`OpenDisk::lane`](crate::disk::OpenDisk::lane).
    fn in_lane<T: Send>(&self, mut work: impl FnMut() -> io::Result<T> + Send) -> io::Result<T> {
        let mut outcome = None;
        let mut once = || {
            if outcome.is_none() {
                let worked = catch_unwind(AssertUnwindSafe(&mut work));
                outcome = Some(worked.unwrap_or_else(|_| Err(io::Error::other("a panic"))));
            }
        };
        if let Some(disk) = self.file.disk()
            && catch_unwind(AssertUnwindSafe(|| disk.lane(&mut once))).is_err()
        {
            log::error!("FUSE: a panic around a serving thread");
        }
        once();
        outcome.expect("it was set by `once`")
    }

    /// As many calls at once as there are.
    fn one_thread(&self, device: BorrowedFd<'_>, stop: Option<&Stop>) -> io::Result<Left> {
        let mut seats: Vec<Seat> = Vec::new();
        seats.resize_with(AHEAD, || Seat::at(self.under_way.spot()));
        let mut vigil = Vigil::default();
        let mut before = 0;
        // The kernel's workers, which bring a loop device's requests, would wait for who looks.
        let may_look = !threads::is_real_time();
        loop {
            if stop.is_some_and(Stop::is_set) {
                return Ok(Left::Stopped);
            }
            let (mut taken, mut bytes) = (0, 0);
            while taken < AHEAD && bytes < AHEAD_BYTES {
                let seat = &mut seats[taken];
                match seat.receive(self, device)? {
                    Received::Call => {}
                    Received::Nothing => break,
                    Received::Gone if taken == 0 => return Ok(Left::Gone),
                    Received::Gone => break,
                }
                bytes += seat.head.transfer();
                taken += 1;
            }
            if taken == 0 {
                // What it costs to be woken is little beside the transfer of much data.
                if may_look && before < AHEAD_BYTES {
                    let look = |(): &mut ()| match ready(device) {
                        Ok(false) => None,
                        found => Some(found.map(drop)),
                    };
                    vigil.keep(&mut (), look, |()| wait(device, stop))?;
                } else {
                    wait(device, stop)?;
                }
                continue;
            }
            before = bytes;
            self.batch(device, &mut seats[..taken])?;
        }
    }

    fn batch(&self, device: BorrowedFd<'_>, mut seats: &mut [Seat]) -> io::Result<()> {
        while !seats.is_empty() {
            let mut served = 0;
            let begun = Instant::now();
            // The lock on the disk ends here, before anybody hears of the outcome.
            {
                let disk = self.file.pass();
                let pass = disk.as_deref().map_err(|errno| *errno);
                let mut work = || {
                    while let Some(seat) = seats.get_mut(served) {
                        served += 1;
                        seat.serve(self, pass);
                        if begun.elapsed() >= HAND_OVER {
                            break;
                        }
                    }
                };
                match pass {
                    Ok(disk) => {
                        if catch_unwind(AssertUnwindSafe(|| disk.batch(&mut work))).is_err() {
                            log::error!("FUSE: a panic around a batch of requests");
                        }
                    }
                    Err(_closed) => work(),
                }
            }
            // What a batch did not come to is answered with EIO.
            let (done, rest) = seats.split_at_mut(served.max(1));
            for seat in done {
                seat.answer(self, device)?;
            }
            seats = rest;
        }
        Ok(())
    }

    /// One call at a time; the kernel wakes one of those that wait.
    fn one_of_many(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        let mut seat = Seat::at(self.under_way.spot());
        loop {
            match seat.receive(self, device)? {
                Received::Call => {}
                Received::Nothing => {
                    wait(device, None)?;
                    continue;
                }
                Received::Gone => return Ok(()),
            }
            {
                let disk = self.file.pass();
                let disk = disk.as_deref().map_err(|errno| *errno);
                if catch_unwind(AssertUnwindSafe(|| seat.serve(self, disk))).is_err() {
                    log::error!("FUSE: a panic around a request, which is answered with EIO");
                }
            }
            seat.answer(self, device)?;
        }
    }

    /// What tells whether anybody waits for the call, where that takes more than the file: only calls of any
    /// number of steps are worth that.
    fn own_cancel(&self, spot: &Arc<Spot>, call: Call) -> Option<Cancel> {
        if !matches!(call, Call::Allocate { .. } | Call::Seek { .. }) {
            return None;
        }
        let (all, spot) = (self.file.cancel().clone(), Arc::clone(spot));
        Some(Cancel::unless(move || !all.is_set() && !spot.is_forsaken()))
    }

    /// Who may call at all. Reads and writes carry no user where the kernel itself makes them.
    fn admit(&self, head: &Head, call: Call) -> Result<(), Errno> {
        let free = matches!(
            call,
            Call::Read { .. }
                | Call::Write { .. }
                | Call::Sync
                | Call::Flush
                | Call::Release
                | Call::Forget
                | Call::Destroy
                | Call::Other
                | Call::Short
        );
        match self.only {
            Some(only) if !free && head.uid() != only => Err(Errno::ACCESS),
            _ => Ok(()),
        }
    }

    fn serve(
        &self,
        lent: Lent<'_>,
        call: Call,
        body: &mut [u8],
        owner: &crate::disk::Owner,
    ) -> Answer {
        let file = &*self.file;
        match call {
            Call::Read { at, len } => {
                let len = len.min(body.len());
                match file.read(lent, at, &mut body[..len], owner) {
                    Ok(data) => Answer {
                        reply: Reply::done(),
                        data,
                    },
                    Err(errno) => failed(errno).into(),
                }
            }
            Call::Write {
                at,
                len,
                cached,
                flags,
            } => {
                // What comes from the page cache, by a shared mapping, is followed by an fsync.
                let durable = flags & O_DSYNC != 0 && !cached;
                let written = file.write(lent, at, &body[..len], owner, durable);
                outcome(written.map(Reply::written))
            }
            Call::GetAttributes => Reply::attributes(&self.attributes(), FRESH).into(),
            Call::SetAttributes(changes) => outcome(self.change(changes)),
            // Read-only is what the mode says to all but root.
            Call::Open { flags } if file.limits().read_only && flags & ACCESS_MODE != 0 => {
                failed(Errno::ROFS).into()
            }
            // What two writers do to the same bytes at the same time is theirs to order, as on a
            // device.
            Call::Open { .. } => Reply::opened_direct().into(),
            Call::Sync => outcome(file.sync(lent).map(|()| Reply::done())),
            Call::Allocate { at, len, mode } => {
                let mode = FallocateFlags::from_bits_retain(mode);
                outcome(file.allocate(lent, at, len, mode).map(|()| Reply::done()))
            }
            Call::Seek { at, whence } => outcome(self.seek(lent, at, whence)),
            Call::Statistics => Reply::statistics(&self.statistics()).into(),
            Call::Destroy => Reply::done().into(),
            Call::Release => {
                if let Some(released) = &self.released {
                    released();
                }
                Reply::done().into()
            }
            Call::Forget => Reply::silence().into(),
            Call::Lookup => failed(Errno::NOTDIR).into(),
            // The kernel may ask much more of a regular file, and stops when told this. Who closes the file
            // then waits for nobody, as the end of a killed program shall not.
            Call::Flush | Call::Other => Reply::failed(Errno::NOSYS).into(),
            Call::Short => failed(Errno::IO).into(),
        }
    }

    fn change(&self, changes: Changes) -> Result<Reply, Errno> {
        // `> file`, cp and dd open with O_TRUNC, which the kernel says as size 0 without a handle.
        // A block device ignores it, and so does this file; ftruncate(2) has a handle and means it.
        let opened_with_truncate = changes.size == Some(0) && !changes.by_handle;
        let resized = changes
            .size
            .is_some_and(|size| size != self.file.limits().size);
        if resized && !opened_with_truncate {
            return Err(Errno::PERM);
        }
        self.file.change_face(|face| {
            let mode = changes.mode;
            let bits = mode.and_then(|mode| u16::try_from(mode & 0o7777).ok());
            face.mode = bits.unwrap_or(face.mode);
            face.uid = changes.uid.unwrap_or(face.uid);
            face.gid = changes.gid.unwrap_or(face.gid);
            face.accessed = changes.accessed.map_or(face.accessed, TimeChange::time);
            face.modified = changes.modified.map_or(face.modified, TimeChange::time);
        });
        Ok(Reply::attributes(&self.attributes(), FRESH))
    }

    fn seek(&self, lent: Lent<'_>, at: u64, whence: u32) -> Result<Reply, Errno> {
        let negative = i64::try_from(at).is_err();
        let to = match whence {
            SEEK_DATA | SEEK_HOLE if negative => return Err(Errno::NXIO),
            SEEK_DATA => SeekFrom::Data(at),
            SEEK_HOLE => SeekFrom::Hole(at),
            _ => return Err(Errno::INVAL),
        };
        let found = self.file.seek(lent, to)?;
        if i64::try_from(found).is_err() {
            return Err(Errno::OVERFLOW);
        }
        Ok(Reply::offset(found))
    }

    fn statistics(&self) -> Statistics {
        let limits = self.file.limits();
        let block = limits.block.minimum.max(SPACE_UNIT);
        Statistics {
            blocks: limits.size.div_ceil(u64::from(block)),
            block,
        }
    }

    fn attributes(&self) -> Attributes {
        let limits = self.file.limits();
        let Face {
            mode,
            uid,
            gid,
            accessed,
            modified,
            changed,
        } = self.file.face();
        Attributes {
            size: limits.size,
            mode,
            uid,
            gid,
            accessed,
            modified,
            changed,
            block: limits.block.preferred,
        }
    }
}

/// Whether the plugin may keep the caller waiting. What comes from the page cache has no caller, and would be lost.
fn waits_for_the_disk(call: Call) -> bool {
    match call {
        Call::Write { cached, .. } => !cached,
        Call::Read { .. } | Call::Sync | Call::Allocate { .. } | Call::Seek { .. } => true,
        _ => false,
    }
}

/// The bytes that a call may change.
fn changes(call: Call) -> Range<u64> {
    match call {
        Call::Write { at, len, .. } => at..at.saturating_add(len as u64),
        Call::Allocate { at, len, .. } => at..at.saturating_add(len),
        _ => 0..0,
    }
}

/// Wait for a call or to be stopped; the end of the filesystem is a call too.
fn wait(device: BorrowedFd<'_>, stop: Option<&Stop>) -> io::Result<()> {
    let call = PollFd::new(&device, PollFlags::IN);
    match stop {
        None => readable(&mut [call], None),
        Some(stop) => readable(&mut [call, PollFd::new(stop, PollFlags::IN)], None),
    }
    .map(drop)
}

/// Whether there is a call already.
fn ready(device: BorrowedFd<'_>) -> io::Result<bool> {
    let call = PollFd::new(&device, PollFlags::IN);
    readable(&mut [call], Some(&Timespec::default()))
}

/// Wait until one of these can be read, but not for longer than this; whether one can. A signal ends
/// the wait.
fn readable(descriptors: &mut [PollFd<'_>], within: Option<&Timespec>) -> io::Result<bool> {
    match poll(descriptors, within) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn outcome(result: Result<Reply, Errno>) -> Answer {
    result.unwrap_or_else(failed).into()
}

/// An errno as the kernel takes it from a FUSE server. `ENOSYS` would mean "never ask again, and
/// say that it succeeded", which no disk can mean; from 512 on the kernel takes none at all.
fn failed(errno: Errno) -> Reply {
    match errno.raw_os_error() {
        1..512 if errno != Errno::NOSYS => Reply::failed(errno),
        _ => Reply::failed(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn who_looks_in_vain_is_told_so() {
        let (theirs, mine) = rustix::pipe::pipe().unwrap();
        assert!(!ready(theirs.as_fd()).unwrap());
        rustix::io::write(&mine, b"call").unwrap();
        assert!(ready(theirs.as_fd()).unwrap());
    }
}
