//! A disk with the manners of a file of fixed size: what each operation on the file does to the disk.
//!
//! Called by `session`, from several threads if the disk is parallel. It knows nothing of FUSE but
//! that the kernel never reads or writes more than a request at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};
use rustix::fs::{FallocateFlags, SeekFrom};

use crate::disk::{
    Cancel, Errno, ExtentKind, Extents, Flags, Fua, Limits, Op, OpKind, OpenDisk, Owner, Request,
    go_on,
};
use crate::frontends::kernel_errnos::for_kernel;
use crate::frontends::{answer, answer_extents};

/// No zero request is longer; what comes longer is cut into several.
const LONGEST_ZERO: u64 = 1 << 30;

/// The first stretch in which data or a hole is looked for; the next ones double.
const FIRST_SEARCH: u64 = 64 << 20;

/// The disk for the time of one operation or of several, or why there is none.
pub(super) type Pass<'a> = Result<&'a dyn OpenDisk, Errno>;

/// The disk for the time of one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lent<'a> {
    pub(super) disk: Pass<'a>,
    /// Tells whether somebody still waits for the operation.
    pub(super) cancel: &'a Cancel,
}

/// The disk as a file.
#[derive(Debug)]
pub(super) struct DiskFile {
    limits: Limits,
    /// The disk, until the file is closed. Requests hold the lock for reading while the disk serves
    /// them, on purpose: whoever gets it for writing knows that none is under way. Taken first.
    disk: RwLock<Option<Arc<dyn OpenDisk>>>,
    /// What the file says of itself. Held only while it is copied.
    face: Mutex<Face>,
    /// Something was written since `face.modified` was last looked at.
    written: AtomicBool,
    /// Nobody is answered any more.
    given_up: Arc<AtomicBool>,
    cancel: Cancel,
}

/// Who may open the file and when it changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Face {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
    pub(super) changed: SystemTime,
}

impl DiskFile {
    pub(super) fn new(disk: Arc<dyn OpenDisk>) -> Self {
        let limits = disk.limits().clone();
        let now = SystemTime::now();
        let given_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&given_up);
        Self {
            cancel: Cancel::unless(move || !told.load(Ordering::Acquire)),
            face: Mutex::new(Face {
                mode: if limits.read_only { 0o400 } else { 0o600 },
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                accessed: now,
                modified: now,
                changed: now,
            }),
            written: AtomicBool::new(false),
            given_up,
            disk: RwLock::new(Some(disk)),
            limits,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The disk without a lock, for what is no request. Whoever holds it keeps it open.
    pub(super) fn disk(&self) -> Option<Arc<dyn OpenDisk>> {
        self.disk.read().clone()
    }

    /// What stat(2) shows. The time of the last write is known to within the time between two calls
    /// of this, and never too early.
    pub(super) fn face(&self) -> Face {
        let mut face = self.face.lock();
        if self.written.swap(false, Ordering::Relaxed) {
            face.modified = SystemTime::now();
            face.changed = face.modified;
        }
        *face
    }

    /// Change what stat(2) shows.
    pub(super) fn change_face(&self, change: impl FnOnce(&mut Face)) {
        let mut face = self.face.lock();
        face.changed = SystemTime::now();
        change(&mut face);
    }

    /// Wait for the requests under way, let no more through, and let go of the disk; false if they
    /// took too long.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let taken = self
            .disk
            .try_write_for(patience)
            .map(|mut disk| disk.take());
        // The disk may close itself here, with the lock free again.
        taken.is_some()
    }

    /// What is under way and takes several steps may end between two of them.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Tells whether anybody is answered.
    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Read, fewer bytes than there is room for at the end of the disk, and give how many.
    pub(super) fn read(
        &self,
        lent: Lent<'_>,
        at: u64,
        room: &mut [u8],
        owner: &Owner,
    ) -> Result<usize, Errno> {
        let left = self.limits.size.saturating_sub(at);
        let len = usize::try_from(left).map_or(room.len(), |left| room.len().min(left));
        if len == 0 {
            return Ok(0);
        }
        let request = Request {
            owner: Some(owner),
            ..Request::new(Op::Read(&mut room[..len]), at)
        };
        lent.tell(request).map(|()| len)
    }

    /// Write, durably if `durable`, and give the bytes written: fewer at the end of the disk, as a
    /// block device does.
    pub(super) fn write(
        &self,
        lent: Lent<'_>,
        at: u64,
        data: &[u8],
        owner: &Owner,
        durable: bool,
    ) -> Result<u32, Errno> {
        self.refuse_read_only()?;
        let room = self.limits.size.saturating_sub(at);
        if room == 0 && !data.is_empty() {
            return Err(Errno::NOSPC);
        }
        let len = usize::try_from(room).map_or(data.len(), |room| data.len().min(room));
        let written = u32::try_from(len).or(Err(Errno::INVAL))?;
        if len == 0 {
            return Ok(0);
        }
        // Before anything is said to have been written.
        lent.disk?;
        self.written.store(true, Ordering::Relaxed);
        let request = Request {
            owner: Some(owner),
            ..Request::new(Op::Write(&data[..len]), at)
        };
        // The kernel sends no fsync after a direct write with O_DSYNC: it is this one's to keep.
        if durable && self.limits.fua != Fua::None {
            lent.tell(request.with_flags(Flags::FUA))?;
            return Ok(written);
        }
        lent.tell(request)?;
        if durable && self.limits.flush {
            lent.tell(Request::new(Op::Flush, 0))?;
        }
        Ok(written)
    }

    /// fsync(2) and fdatasync(2).
    pub(super) fn sync(&self, lent: Lent<'_>) -> Result<(), Errno> {
        if !self.limits.flush || self.limits.read_only {
            return Ok(());
        }
        lent.tell(Request::new(Op::Flush, 0))
    }

    /// fallocate(2): punch a hole, zero a range, or see that there is space, which there is.
    pub(super) fn allocate(
        &self,
        lent: Lent<'_>,
        at: u64,
        len: u64,
        mode: FallocateFlags,
    ) -> Result<(), Errno> {
        const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
        self.refuse_read_only()?;
        let past_end = at.saturating_add(len) > self.limits.size;
        let keeps_size = mode.contains(FallocateFlags::KEEP_SIZE);
        let flags = match mode.difference(FallocateFlags::KEEP_SIZE) {
            // The loop driver sends this for discard as well, so it must read back as zeroes.
            FallocateFlags::PUNCH_HOLE if mode == PUNCH => Flags::MAY_TRIM,
            FallocateFlags::ZERO_RANGE if keeps_size || !past_end => Flags::empty(),
            kind if past_end && (kind.is_empty() || kind == FallocateFlags::ZERO_RANGE) => {
                return Err(Errno::NOSPC);
            }
            kind if kind.is_empty() => return Ok(()),
            _ => return Err(Errno::OPNOTSUPP),
        };
        if !self.limits.zero {
            return Err(Errno::OPNOTSUPP);
        }
        let range = at..at.saturating_add(len).min(self.limits.size);
        lent.disk?;
        self.zero(lent, range, flags)
    }

    fn zero(&self, lent: Lent<'_>, range: Range<u64>, flags: Flags) -> Result<(), Errno> {
        self.written.store(true, Ordering::Relaxed);
        let mut at = range.start;
        while at < range.end {
            if at > range.start {
                go_on(Some(lent.cancel)).map_err(|nobody| nobody.errno)?;
            }
            let len = (range.end - at).min(LONGEST_ZERO);
            lent.tell(Request::new(Op::Zero(len), at).with_flags(flags))?;
            at += len;
        }
        Ok(())
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`. A hole reads as zeroes; what merely takes no space
    /// is data, since a copy that skips it would differ.
    pub(super) fn seek(&self, lent: Lent<'_>, to: SeekFrom) -> Result<u64, Errno> {
        let (at, hole) = match to {
            SeekFrom::Data(at) => (at, false),
            SeekFrom::Hole(at) => (at, true),
            _ => return Err(Errno::INVAL),
        };
        let size = self.limits.size;
        if at >= size {
            return Err(Errno::NXIO);
        }
        if !self.limits.extents {
            return Ok(if hole { size } else { at });
        }
        let (mut start, mut search) = (at, FIRST_SEARCH);
        while start < size {
            let end = start.saturating_add(search).min(size);
            if let Some(found) = lent.first(start..end, hole)? {
                return Ok(found);
            }
            start = end;
            search = search.saturating_mul(2);
        }
        // A file ends with a hole of no length.
        if hole { Ok(size) } else { Err(Errno::NXIO) }
    }

    fn refuse_read_only(&self) -> Result<(), Errno> {
        if self.limits.read_only {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }

    /// The disk, to be lent to the operations here and held while they go on.
    pub(super) fn pass(&self) -> Result<MappedRwLockReadGuard<'_, dyn OpenDisk>, Errno> {
        RwLockReadGuard::try_map(self.disk.read(), |disk| disk.as_deref())
            .map_err(|_closed| Errno::IO)
    }
}

impl Lent<'_> {
    /// Serve one request, and give the errno for the kernel.
    fn tell(self, request: Request<'_>) -> Result<(), Errno> {
        let kind = request.op.kind();
        let request = request.with_cancel(Some(self.cancel));
        answer(self.disk?, request).map_err(|errno| for_kernel(kind, errno))
    }

    /// The first byte in `range` that is in a hole, or that is not.
    fn first(self, range: Range<u64>, hole: bool) -> Result<Option<u64>, Errno> {
        let mut found = Extents::starting_at(range.start).with_cancel(Some(self.cancel));
        answer_extents(self.disk?, range.clone(), &mut found).map_err(|errno| match errno {
            // "There is no data from here on": a copy would leave out what it could not ask for.
            Errno::NXIO => Errno::IO,
            errno => for_kernel(OpKind::Read, errno),
        })?;
        // What the disk did not speak of is data.
        found.push(range.end.saturating_sub(found.end()), ExtentKind::DATA);
        let hit = found
            .list()
            .iter()
            .find(|extent| extent.at < range.end && extent.kind.contains(ExtentKind::ZERO) == hole);
        Ok(hit.map(|extent| extent.at))
    }
}
