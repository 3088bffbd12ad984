//! The kernel's FUSE words, turned into what [`DiskFile`] does, and every one answered.
//!
//! Runs in the threads of `fuser`, which reads the requests. Never called by anyone else.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyBmap, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, SeekFrom};

use super::Released;
use super::file::{DiskFile, Face};
use crate::disk::Errno;

/// How long the kernel may believe what it was told of the file.
const FRESH: Duration = Duration::from_secs(1);

/// Requests in flight that nobody waits for in person: read-ahead and asynchronous direct I/O.
const BACKGROUND: u16 = 256;

/// The loop driver takes its discard granularity from this block size of statfs(2).
const SPACE_UNIT: u32 = 4096;

/// `O_DSYNC` of asm-generic/fcntl.h, which x86, Arm, RISC-V, s390 and Power share; `O_SYNC` contains
/// it. rustix calls `O_SYNC` by this name, which an `O_DSYNC` write does not have set.
const O_DSYNC: i32 = 0o10000;

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The filesystem that has one inode.
pub(super) struct Served {
    file: Arc<DiskFile>,
    released: Option<Released>,
}

impl Served {
    pub(super) fn new(file: Arc<DiskFile>, released: Option<Released>) -> Self {
        Self { file, released }
    }

    fn attributes(&self) -> FileAttr {
        let limits = self.file.limits();
        let Face {
            mode,
            uid,
            gid,
            accessed,
            modified,
            changed,
        } = self.file.face();
        FileAttr {
            ino: INodeNo::ROOT,
            size: limits.size,
            blocks: limits.size.div_ceil(512),
            atime: accessed,
            mtime: modified,
            ctime: changed,
            crtime: changed,
            kind: FileType::RegularFile,
            perm: mode,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: limits.block.preferred,
            flags: 0,
        }
    }
}

/// An errno as the kernel takes it from a FUSE server. `ENOSYS` would mean "never ask again, and
/// say that it succeeded", which no disk can mean; from 512 on the kernel takes none at all.
fn errno(errno: Errno) -> fuser::Errno {
    match errno.raw_os_error() {
        code @ 1..512 if errno != Errno::NOSYS => fuser::Errno::from_i32(code),
        _ => fuser::Errno::EIO,
    }
}

fn answer_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn time(given: TimeOrNow) -> SystemTime {
    match given {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
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
        Ok(())
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FRESH, &self.attributes());
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // `> file`, cp and dd open with O_TRUNC, which the kernel says as size 0 without a handle.
        // A block device ignores it, and so does this file; ftruncate(2) has a handle and means it.
        let opened_with_truncate = size == Some(0) && handle.is_none();
        let resized = size.is_some_and(|size| size != self.file.limits().size);
        if resized && !opened_with_truncate {
            return reply.error(fuser::Errno::EPERM);
        }
        self.file.change_face(|face| {
            let bits = mode.and_then(|mode| u16::try_from(mode & 0o7777).ok());
            face.mode = bits.unwrap_or(face.mode);
            face.uid = uid.unwrap_or(face.uid);
            face.gid = gid.unwrap_or(face.gid);
            face.accessed = accessed.map_or(face.accessed, time);
            face.modified = modified.map_or(face.modified, time);
        });
        reply.attr(&FRESH, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.file.limits().read_only && flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(fuser::Errno::EROFS);
        }
        // What two writers do to the same bytes at the same time is theirs to order, as on a device.
        let how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), how);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.file.read(at, len, |result| match result {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        data: &[u8],
        how: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // What comes from the page cache, by a shared mapping, is followed by an fsync.
        let durable = flags.0 & O_DSYNC != 0 && !how.contains(WriteFlags::FUSE_WRITE_CACHE);
        match self.file.write(at, data, durable) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        if let Some(released) = &self.released {
            released();
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer_empty(self.file.sync(), reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        answer_empty(self.file.allocate(at, len, mode), reply);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match (u64::try_from(at), whence) {
            (Ok(at), SEEK_DATA) => SeekFrom::Data(at),
            (Ok(at), SEEK_HOLE) => SeekFrom::Hole(at),
            (Err(_negative), SEEK_DATA | SEEK_HOLE) => return reply.error(fuser::Errno::ENXIO),
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        match self.file.seek(to).map(i64::try_from) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(_too_large)) => reply.error(fuser::Errno::EOVERFLOW),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let limits = self.file.limits();
        let unit = limits.block.minimum.max(SPACE_UNIT);
        let blocks = limits.size.div_ceil(u64::from(unit));
        reply.statfs(blocks, 0, 0, 1, 0, unit, 255, unit);
    }

    // The kernel may ask all that follows of a regular file, and stops when told ENOSYS.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(fuser::Errno::ENOTDIR);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
