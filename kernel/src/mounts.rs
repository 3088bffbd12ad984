//! What is mounted where, read from `/proc/self/mountinfo`, and how to take a FUSE mount away.
//!
//! Nothing here asks the filesystem that is mounted, or has another process ask: a FUSE server that
//! hangs or is gone cannot make a caller hang.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::elsewhere::{elsewhere, open_and_close_there, size_there};
use crate::proc;

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Which driver, or 0 for a filesystem without a block device.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

impl Device {
    /// Read `MAJOR:MINOR`, the form of mountinfo and sysfs.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// What the kernel writes as one number to programs.
    pub(crate) fn of_number(number: u64) -> Self {
        Self {
            major: rustix::fs::major(number),
            minor: rustix::fs::minor(number),
        }
    }

    /// The filesystem that a file lies on.
    pub(crate) fn of_filesystem(status: &Statx) -> Self {
        Self {
            major: status.stx_dev_major,
            minor: status.stx_dev_minor,
        }
    }

    /// The device that a device node stands for.
    pub(crate) fn of_node(status: &Statx) -> Self {
        Self {
            major: status.stx_rdev_major,
            minor: status.stx_rdev_minor,
        }
    }
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's own number, which statx(2) shows as well.
    pub id: u64,
    /// The filesystem's device number.
    pub device: Device,
    /// Where it is mounted.
    pub at: PathBuf,
    /// For example `ext4` or `fuse`.
    pub kind: String,
    /// For example `/dev/sda1`, or whatever the filesystem calls itself.
    pub source: OsString,
}

/// Everything mounted in this process's namespace; of several at one place, the last is visible.
///
/// # Errors
/// `/proc` cannot be read.
pub fn mounts() -> io::Result<Vec<Mount>> {
    mounts_of(Path::new("/proc/self"))
}

/// Everything mounted as the process sees it that this folder of `/proc` stands for.
///
/// # Errors
/// It is gone, or belongs to somebody else.
pub(crate) fn mounts_of(process: &Path) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(process.join("mountinfo"))?))
}

fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines.filter_map(parse_line).collect()
}

/// The devices and files that the kernel swaps to, as far as they have a path here.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn swaps() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/swaps")?;
    let paths = text.split(|byte| *byte == b'\n').skip(1).map(|line| {
        let end = line.iter().position(u8::is_ascii_whitespace);
        PathBuf::from(unescape(&line[..end.unwrap_or(line.len())]))
    });
    Ok(paths.filter(|path| path.is_absolute()).collect())
}

/// The name of the mount namespace that this process is in, while there is one of that name.
#[must_use]
pub fn namespace() -> Option<PathBuf> {
    namespace_of(Path::new("/proc/self"))
}

fn namespace_of(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/mnt")).ok()
}

/// A folder of `/proc` for each view of what is mounted: that of this process, and of one process of each
/// other mount namespace that this one may look at.
pub(crate) fn views() -> impl Iterator<Item = PathBuf> {
    let mut seen = BTreeSet::new();
    let own = PathBuf::from("/proc/self");
    let others = proc::processes().into_iter().flatten();
    let others = others.map(|pid| PathBuf::from(format!("/proc/{pid}")));
    [own].into_iter().chain(others).filter(move |process| {
        // A process may see a part of its namespace only.
        let root = fs::read_link(process.join("root")).ok();
        namespace_of(process).is_some_and(|namespace| seen.insert((namespace, root)))
    })
}

/// What names itself `source` in the mount namespace of the name `there`.
#[must_use]
pub fn named(source: &OsStr, there: &Path) -> Option<Mount> {
    let in_it = |process: &PathBuf| namespace_of(process).is_some_and(|found| found == there);
    let mut all = views()
        .filter(in_it)
        .flat_map(|process| mounts_of(&process).unwrap_or_default());
    all.find(|mount| mount.source == source)
}

/// What is visible at `path`, if that is where something is mounted. Symbolic links are not followed.
///
/// # Errors
/// `/proc` cannot be read.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mount>> {
    Ok(visible(mounts()?, path))
}

fn visible(mounts: Vec<Mount>, at: &Path) -> Option<Mount> {
    mounts.into_iter().rev().find(|mount| mount.at == at)
}

/// The device number of the filesystem at `path`, without asking that filesystem.
///
/// # Errors
/// There is nothing, or a folder on the way may not be searched.
pub fn device_at(path: &Path) -> io::Result<Device> {
    Ok(Device::of_filesystem(&status(path)?))
}

/// The size in bytes of the file at `path`. Another process asks: whoever serves the file may never
/// answer, and may be this process, which could not be killed while it waited for its own answer.
///
/// # Errors
/// As stat(2); `ETIMEDOUT` when there is no answer `within` that time.
pub fn size_at(path: &Path, within: Duration) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let work = || size_there(&path).map_or_else(|errno| [0, errno, 0], |size| [0, 0, size]);
    // SAFETY: `size_there` makes one system call.
    let [_, errno, size] = unsafe { elsewhere(within, || false, work) }?;
    match i32::try_from(errno).map(io::Error::from_raw_os_error) {
        Ok(error) if errno > 0 => Err(error),
        _ => Ok(size),
    }
}

/// Open the file at `path` for reading, by another process, and close it.
///
/// # Errors
/// As open(2) and close(2); `ETIMEDOUT` when they were not done `within` that time.
pub fn open_and_close(path: &Path, within: Duration) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let work = || [0, open_and_close_there(&path).err().unwrap_or(0), 0];
    // SAFETY: `open_and_close_there` makes system calls only.
    let [_, errno, _] = unsafe { elsewhere(within, || false, work) }?;
    match i32::try_from(errno).map(io::Error::from_raw_os_error) {
        Ok(error) if errno > 0 => Err(error),
        _ => Ok(()),
    }
}

/// Type, numbers and mount of what is at `path`, from what the kernel already knows.
pub(crate) fn status(path: &Path) -> io::Result<Statx> {
    // statx(2): with AT_STATX_DONT_SYNC a network or FUSE filesystem answers without its server.
    let how = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let what = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    Ok(statx(CWD, path, how, what)?)
}

pub(crate) fn is_block_device(status: &Statx) -> bool {
    FileType::from_raw_mode(u32::from(status.stx_mode)) == FileType::BlockDevice
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nobody uses it.
    Idle,
    /// From sight at once; a FUSE server's open requests are ended with an error where the kernel
    /// lets us (it does for root), and files that are open stay until they are closed.
    Force,
}

/// Unmount the FUSE filesystem at `path`, as root with umount2(2), else with `fusermount3`.
///
/// # Errors
/// `EBUSY` while it is used, `EINVAL` where nothing is mounted; or what `fusermount3` said.
pub fn unmount_fuse(path: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Idle => UnmountFlags::NOFOLLOW,
        Unmount::Force => UnmountFlags::NOFOLLOW | UnmountFlags::FORCE | UnmountFlags::DETACH,
    };
    match unmount(path, flags) {
        Err(Errno::PERM) => fusermount(path, how),
        other => Ok(other?),
    }
}

/// End the FUSE filesystem with this number, mounted or not: its open requests fail, and its server's
/// threads hear that it is gone. For whoever mounted it, and for root.
///
/// # Errors
/// There is none any more, or `/sys/fs/fuse/connections` is not mounted here.
pub fn abort_fuse(device: Device) -> io::Result<()> {
    fs::write(
        format!("/sys/fs/fuse/connections/{}/abort", device.minor),
        "1",
    )
}

fn fusermount(path: &Path, how: Unmount) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if how == Unmount::Force {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(Errno::BUSY.into());
    }
    Err(io::Error::other(said.trim().to_owned()))
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/root rw`, see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = Device::parse(std::str::from_utf8(fields.nth(1)?).ok()?)?;
    let at = PathBuf::from(unescape(fields.nth(1)?));
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount {
        id,
        device,
        at,
        kind,
        source,
    })
}

/// The kernel writes blank, tab, newline and backslash as `\` and three octal digits.
fn unescape(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let code = match (first, behind) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &behind[3..] } else { behind };
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line =
            br"36 35 98:0 /sub /mnt/a\040b\134 rw,noatime master:1 shared:2 - fuse.x py:\040d rw";
        assert_eq!(
            parse_line(line),
            Some(Mount {
                id: 36,
                device: Device {
                    major: 98,
                    minor: 0
                },
                at: r"/mnt/a b\".into(),
                kind: "fuse.x".into(),
                source: "py: d".into(),
            })
        );
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"36 35 98 / /mnt rw - ext4 x rw"), None);
    }

    #[test]
    fn the_topmost_of_several_mounts_is_visible() {
        let text = "\
            22 1 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=1g\n\
            23 22 0:6 / /dev/pts rw - devpts devpts rw\n\
            24 1 0:7 / /dev rw - tmpfs tmpfs rw\n";
        let at = |path: &str| visible(parse(text.as_bytes()), Path::new(path));
        assert_eq!(at("/dev").unwrap().kind, "tmpfs");
        assert_eq!(at("/dev/pts").unwrap().kind, "devpts");
        assert_eq!(at("/"), None);
    }

    #[test]
    fn the_size_that_another_process_tells() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(12345).unwrap();
        let within = Duration::from_secs(60);
        assert_eq!(size_at(file.path(), within).unwrap(), 12345);
        let error = size_at(Path::new("/no/such/file"), within).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_path_is_not() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert_eq!(mounted_at(Path::new("/no/such/place")).unwrap(), None);
    }
}
