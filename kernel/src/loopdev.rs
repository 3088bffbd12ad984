//! Loop devices: a file as a block device, by `/dev/loop-control` and `/dev/loopN`; see loop(4).

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsString, c_void};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

use crate::elsewhere::{Word, elsewhere, errno_there, open_there, read_there};
use crate::mounts::Device;
use crate::node;

// https://git.kernel.org/torvalds/c/v6.12:include/uapi/linux/loop.h
const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_ADD: Opcode = 0x4C80;
const LOOP_CTL_REMOVE: Opcode = 0x4C81;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_PARTSCAN: u32 = 8;
const LO_FLAGS_DIRECT_IO: u32 = 16;

#[repr(C)]
#[derive(Debug)]
struct loop_info64 {
    lo_device: u64,
    lo_inode: u64,
    lo_rdevice: u64,
    lo_offset: u64,
    lo_sizelimit: u64,
    lo_number: u32,
    lo_encrypt_type: u32,
    lo_encrypt_key_size: u32,
    lo_flags: u32,
    lo_file_name: [u8; 64],
    lo_crypt_name: [u8; 64],
    lo_encrypt_key: [u8; 32],
    lo_init: [u64; 2],
}

#[repr(C)]
#[derive(Debug)]
struct loop_config {
    fd: u32,
    block_size: u32,
    info: loop_info64,
    __reserved: [u64; 8],
}

const _: () = assert!(size_of::<loop_info64>() == 232);
const _: () = assert!(size_of::<loop_config>() == 304);

/// How a loop device shall use its file.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Logical block size in bytes: a power of two from 512 to the page size.
    pub block_size: u32,
    /// Refuse writes.
    pub read_only: bool,
    /// Bytes of the file that the device has at most; 0 for all of them. One above the size of the file has no
    /// effect and is kept all the same, so it can say whose the device is, see [`LoopDevice::size_limit`].
    pub size_limit: u64,
}

impl Config {
    fn on(self, fd: u32) -> loop_config {
        let read_only = if self.read_only {
            LO_FLAGS_READ_ONLY
        } else {
            0
        };
        let info = loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: self.size_limit,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN | read_only,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        };
        loop_config {
            fd,
            block_size: self.block_size,
            info,
            __reserved: [0; 8],
        }
    }
}

/// A device has its file, and its first bytes cannot be read.
#[derive(Debug)]
pub struct NotRead(pub io::Error);

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the first read: {}", self.0)
    }
}

impl std::error::Error for NotRead {}

/// The step after which the device has its file.
const READ: u64 = 1;

/// For `elsewhere`.
fn configure_there(backing: &CStr, device: &CStr, config: Config, len: usize) -> Word {
    let how = if config.read_only {
        libc::O_RDONLY
    } else {
        libc::O_RDWR
    };
    let opened = open_there(backing, how).and_then(|file| Ok((file, open_there(device, how)?)));
    let (file, device) = match opened {
        Ok(opened) => opened,
        Err(errno) => return [0, errno, 0],
    };
    let config = config.on(file.cast_unsigned());
    // SAFETY: LOOP_CONFIGURE reads one `loop_config`; both descriptors are open.
    if unsafe { libc::ioctl(device, LOOP_CONFIGURE.into(), &raw const config) } != 0 {
        return [0, errno_there(), 0];
    }
    [READ, read_there(device, len).err().unwrap_or(0), 0]
}

/// What a loop device stands on, by numbers: a path may mean another file in another mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A block device.
    Block(Device),
    /// A file: the number of its filesystem, and its inode there.
    File(Device, u64),
}

/// For `elsewhere`: 0 and the errno, 1 and a file's numbers, or 2 and a block device's.
fn backing_there(device: &CStr) -> Word {
    let device = match open_there(device, libc::O_RDONLY | libc::O_NONBLOCK) {
        Ok(device) => device,
        Err(errno) => return [0, errno, 0],
    };
    // SAFETY: all zeroes is a `loop_info64`.
    let mut info: loop_info64 = unsafe { std::mem::zeroed() };
    // SAFETY: LOOP_GET_STATUS64 writes one `loop_info64`.
    if unsafe { libc::ioctl(device, LOOP_GET_STATUS64.into(), &raw mut info) } != 0 {
        return [0, errno_there(), 0];
    }
    if info.lo_rdevice != 0 {
        return [2, info.lo_rdevice, 0];
    }
    [1, info.lo_device, info.lo_inode]
}

/// A loop device by its number. Several values may stand for one device; nothing happens on drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    index: u32,
}

impl LoopDevice {
    /// `/dev/loopN`, whether it exists or not.
    #[must_use]
    pub fn at(index: u32) -> Self {
        Self { index }
    }

    /// The `N` of `/dev/loopN`.
    #[must_use]
    pub fn index(self) -> u32 {
        self.index
    }

    /// The device node.
    #[must_use]
    pub fn path(self) -> PathBuf {
        format!("/dev/loop{}", self.index).into()
    }

    /// Whether the kernel has this device, with a file or without.
    #[must_use]
    pub fn exists(self) -> bool {
        self.sysfs("").exists()
    }

    /// Make the device.
    ///
    /// # Errors
    /// `EEXIST` if there is one, `EACCES` without the right to, `ENOENT` without the loop module.
    pub fn add(self) -> io::Result<()> {
        Number::<LOOP_CTL_ADD>(self.index)
            .on(control()?.as_fd())
            .map(|_| ())
    }

    /// Remove the device, which has no file.
    ///
    /// # Errors
    /// `EBUSY` while somebody has it open or it has a file, `ENODEV` if there is none.
    pub fn remove(self) -> io::Result<()> {
        Number::<LOOP_CTL_REMOVE>(self.index)
            .on(control()?.as_fd())
            .map(|_| ())
    }

    /// Give the device its file, with direct I/O as far as the file can, and look for partitions.
    ///
    /// # Errors
    /// `EBUSY` if it has one already; what opening the node says.
    pub fn configure(self, file: &File, config: Config) -> io::Result<()> {
        let device = OpenOptions::new()
            .read(true)
            .write(!config.read_only)
            .open(self.path())?;
        let fd =
            u32::try_from(file.as_raw_fd()).expect("an open file's descriptor is not negative");
        let config = config.on(fd);
        // SAFETY: LOOP_CONFIGURE reads one `loop_config`; the descriptor in it is open during the
        // call because `file` is borrowed, and the kernel takes its own reference.
        unsafe { ioctl(&device, Setter::<LOOP_CONFIGURE, _>::new(config)) }?;
        Ok(())
    }

    /// As [`LoopDevice::configure`] with the file at `path`, which this process serves itself, and
    /// read the first `len` bytes, at most 64 KiB. Another process does it: this one could not be
    /// killed while it waited for its own answers.
    ///
    /// # Errors
    /// As [`LoopDevice::configure`]; `ETIMEDOUT` when it is not done `within` that time; and
    /// [`NotRead`] inside an error when the device has its file and cannot be read.
    pub fn configure_own(
        self,
        path: &Path,
        config: Config,
        len: usize,
        within: Duration,
    ) -> io::Result<()> {
        let backing = CString::new(path.as_os_str().as_bytes())?;
        let device = CString::new(self.path().as_os_str().as_bytes())?;
        let work = || configure_there(&backing, &device, config, len);
        // SAFETY: `configure_there` makes system calls only.
        let [step, errno, _] = unsafe { elsewhere(within, || false, work) }?;
        match i32::try_from(errno).map(io::Error::from_raw_os_error) {
            Ok(error) if errno > 0 && step == READ => Err(io::Error::other(NotRead(error))),
            Ok(error) if errno > 0 => Err(error),
            _ => Ok(()),
        }
    }

    /// Take the file away if the device is `ours`; where somebody has it open, the file goes as soon as the last
    /// one closes it.
    ///
    /// # Errors
    /// `ENXIO` if it has no file.
    pub fn clear(self, ours: impl FnOnce() -> bool) -> io::Result<()> {
        let device = File::open(self.path())?;
        // As long as this one is open it keeps its file, so nobody can put another one there in between.
        if !ours() {
            return Ok(());
        }
        Number::<LOOP_CLR_FD>(0).on(device.as_fd()).map(|_| ())
    }

    /// The path of the file behind the device, as it was when it was given; none without a file.
    #[must_use]
    pub fn backing_file(self) -> Option<PathBuf> {
        // The file is missing without a backing file, and cannot be read while one goes.
        let mut text = fs::read(self.sysfs("loop/backing_file")).ok()?;
        if text.last() == Some(&b'\n') {
            text.pop();
        }
        Some(OsString::from_vec(text).into())
    }

    /// The limit of the size that the device was given with its file; none without a file. The kernel tells it
    /// without asking the file, whose server may be gone or hang, and unlike the path of the file it is the same
    /// for everybody, also once the file is mounted nowhere any more.
    #[must_use]
    pub fn size_limit(self) -> Option<u64> {
        // The file is missing without a backing file.
        let text = fs::read_to_string(self.sysfs("loop/sizelimit")).ok()?;
        text.trim().parse().ok()
    }

    /// What tells the device, with a file or without, from a later one of the same number.
    ///
    /// # Errors
    /// There is no such device.
    pub fn identity(self) -> io::Result<String> {
        // sysfs gives each of its folders a number that no other one has on this boot.
        let folder = fs::metadata(self.sysfs(""))?.ino();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(format!("{} {folder}", boot.trim_end()))
    }

    /// What is behind the device. Another process asks: the filesystem of the file may ask its server.
    ///
    /// # Errors
    /// `ENXIO` without a file, what opening the node says, and `ETIMEDOUT` when there is no answer
    /// `within` that time.
    pub(crate) fn backing(self, within: Duration) -> io::Result<Backing> {
        let device = CString::new(self.path().as_os_str().as_bytes())?;
        // SAFETY: `backing_there` makes system calls only.
        let word = unsafe { elsewhere(within, || false, || backing_there(&device)) }?;
        match word {
            [1, filesystem, inode] => Ok(Backing::File(Device::of_number(filesystem), inode)),
            [2, device, _] => Ok(Backing::Block(Device::of_number(device))),
            [_, errno, _] => {
                let errno = i32::try_from(errno).unwrap_or(libc::EIO);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    /// The device's number, as filesystems on it show it.
    pub(crate) fn number(self) -> Option<Device> {
        Device::parse(&fs::read_to_string(self.sysfs("dev")).ok()?)
    }

    /// Whether the device reads and writes its file directly, past the page cache.
    #[must_use]
    pub fn direct_io(self) -> bool {
        fs::read_to_string(self.sysfs("loop/dio")).is_ok_and(|text| text.trim() == "1")
    }

    /// Size of the device in bytes.
    ///
    /// # Errors
    /// There is no such device.
    pub fn size(self) -> io::Result<u64> {
        let text = fs::read_to_string(self.sysfs("size"))?;
        let sectors: u64 = text.trim().parse().map_err(io::Error::other)?;
        Ok(sectors * 512)
    }

    fn sysfs(self, attribute: &str) -> PathBuf {
        Path::new("/sys/block")
            .join(format!("loop{}", self.index))
            .join(attribute)
    }
}

/// All loop devices there are, with a file or without.
///
/// # Errors
/// `/sys` cannot be read.
pub fn all() -> io::Result<BTreeSet<u32>> {
    node::numbers("/sys/block", "loop")
}

/// A device without a file; the kernel makes one if there is none. Somebody else may be faster to
/// use it.
///
/// # Errors
/// `EACCES` without the right to, `ENOENT` without the loop module.
pub fn free() -> io::Result<LoopDevice> {
    let index = Number::<LOOP_CTL_GET_FREE>(0).on(control()?.as_fd())?;
    Ok(LoopDevice::at(index))
}

fn control() -> io::Result<File> {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    Ok(open)
}

/// An ioctl that takes a number in place of a pointer and answers with a number.
struct Number<const OPCODE: Opcode>(u32);

impl<const OPCODE: Opcode> Number<OPCODE> {
    fn on(self, file: BorrowedFd<'_>) -> io::Result<u32> {
        // SAFETY: the opcodes of this file that are used with a number take no memory.
        let answer = unsafe { ioctl(file, self) }?;
        u32::try_from(answer).map_err(|_negative| Errno::INVAL.into())
    }
}

// SAFETY: the argument is a number that is never followed, and the output is the call's own result.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    unsafe fn output_from_ptr(
        answer: IoctlOutput,
        _argument: *mut c_void,
    ) -> rustix::io::Result<IoctlOutput> {
        Ok(answer)
    }
}
