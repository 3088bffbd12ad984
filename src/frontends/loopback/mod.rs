//! The loop front end: a loop device with direct I/O on a hidden FUSE file, where there is no ublk.
//!
//! The worker starts it through [`DEVICES`]. The kernel's loop driver turns block requests into requests on the
//! file, which [`super::fuse`] answers; here is only what makes the device and takes it away.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pydisk_kernel::loopdev::{self, Config, LoopDevice, NotRead};
use rustix::io::Errno;

use super::block::{Devices, FIRST_READ, Geometry};
use super::fuse::{self, FuseFile};
use super::{Dead, Ended, Endpoint, Options, Published, Row, Target};
use crate::disk::{Disk, Limits, OpenDisk};
use crate::refusal::words;
use crate::{Refusal, ResultExt};

mod mark;

use mark::Mark;

/// The hidden file in the attachment's folder.
const FILE: &str = "file";

/// Beside it, the number of a device that the kernel had to make for this attachment, and what tells that device
/// from a later one of the same number.
const ADDED: &str = "loop-added";

/// How often another free device is tried when somebody else was faster.
const RACES: u32 = 20;

/// How long a device may take to appear, or to go when its last user closes it.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) static ROW: Row = Row {
    name: "loop",
    words: "a loop device on FUSE",
    // Its file is one by FUSE.
    offered: Some(|host| {
        host.loop_device
            .clone()
            .and_then(|()| host.fuse.clone().map(drop))
    }),
    free: |_folder| Target::Loop(None),
    blocks: true,
    clients: false,
    mounts: false,
    guard: None,
    stopper: false,
};

pub(super) static DEVICES: Devices = Devices {
    row: &ROW,
    start,
    remove_leftover,
};

/// Make `disk` a loop device: `/dev/loopN` for an index, else a free one.
///
/// A size that is no multiple of 512 is rounded down by the kernel; to say so is the caller's.
///
/// # Errors
/// One sentence, and nothing is left behind.
fn start(
    index: Option<u32>,
    disk: Arc<dyn OpenDisk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Published>, Refusal> {
    let limits = disk.limits().clone();
    if limits.size < 512 {
        return Err(Refusal::new(format!(
            "a loop device needs a disk of at least 512 bytes, this one has {}",
            limits.size
        )));
    }
    if let Some(index) = index {
        refuse_in_use(LoopDevice::at(index))?;
    }
    let watch = Arc::new(Watch::default());
    let released = {
        let watch = Arc::clone(&watch);
        Box::new(move || watch.look())
    };
    let path = options.folder.join(FILE);
    let file = FuseFile::start(&path, disk, options, ended, Some(released))?;
    let mark = Mark::new(options.identity, limits.size, file.real_path());
    let (block_size, read_only) = told(&limits, options.logical_block);
    let config = Config {
        block_size,
        read_only,
        size_limit: mark.limit(),
    };
    let device = match configure(index, &file, &mark, config, limits.size, &options.folder) {
        Ok(device) => device,
        Err(refusal) => return Err(after(file.end(), refusal)),
    };
    watch.watch(device, mark.clone(), &file);
    let mut attached = LoopFile {
        endpoint: Endpoint::Device(device.path()),
        device,
        mark,
        file: Some(file),
        folder: options.folder.clone(),
    };
    if let Err(why) = attached.check(&limits) {
        let refusal = Refusal::about(&attached.endpoint, why);
        return Err(after(attached.take_down(), refusal));
    }
    watch.look();
    Ok(Box::new(attached))
}

/// What the driver is told of the device, by what the disk is: the bytes in a block, and whether it is read-only. The
/// rest it finds at the file.
pub(super) fn told(limits: &Limits, logical_block: Option<u32>) -> (u32, bool) {
    let device = Geometry::of(limits, logical_block);
    (device.logical, device.read_only)
}

/// Take away what a dead attachment left: its loop device and the hidden file. It is no error if there is nothing,
/// and what others made is never touched.
///
/// # Errors
/// One sentence. That a device is still open is none: it stays until it is closed, and every request fails.
fn remove_leftover(dead: &Dead<'_>) -> Result<(), Refusal> {
    let about = dead.folder.display();
    // The kernel names the file without symbolic links.
    let folder = &match dead.folder.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        folder => folder.refuse(&about)?,
    };
    let file = folder.join(FILE);
    let marks = Mark::of_dead(dead, &file);
    let mut gone = Ok(true);
    for index in loopdev::all().refuse(&about)? {
        for mark in marks
            .iter()
            .filter(|mark| mark.is_on(LoopDevice::at(index)))
        {
            let cleared = clear(LoopDevice::at(index), mark);
            gone = gone.and_then(|before| cleared.map(|now| before && now));
        }
    }
    fuse::remove_hidden(&file, dead)?;
    if gone? {
        return remove_added(folder);
    }
    Ok(())
}

/// A loop device on a FUSE file.
#[derive(Debug)]
struct LoopFile {
    endpoint: Endpoint,
    device: LoopDevice,
    mark: Mark,
    /// None once it was taken down.
    file: Option<FuseFile>,
    folder: PathBuf,
}

impl LoopFile {
    /// See that the device can be used before anyone is told of it.
    fn check(&self, limits: &Limits) -> Result<(), String> {
        let wanted = limits.size / 512 * 512;
        let size = self
            .device
            .size()
            .map_err(|error| format!("size: {}", words(error)))?;
        if size != wanted {
            return Err(format!("the kernel made it {size} bytes, not {wanted}"));
        }
        if !self.device.direct_io() {
            log::warn!(
                "{}: the kernel uses its page cache below the device, which is slower",
                self.endpoint
            );
        }
        Ok(())
    }

    fn take_down(&mut self) -> Result<(), Refusal> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        file.hush();
        let cleared = clear(self.device, &self.mark);
        // Without its file a device that is still open fails every request.
        let ended = file.end();
        match cleared {
            Err(refusal) => Err(after(ended, refusal)),
            Ok(false) => ended,
            Ok(true) => {
                ended?;
                remove_added(&self.folder)
            }
        }
    }
}

impl Drop for LoopFile {
    fn drop(&mut self) {
        if let Err(refusal) = self.take_down() {
            log::error!("{refusal}");
        }
    }
}

impl Published for LoopFile {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn stop(mut self: Box<Self>) -> Result<(), Refusal> {
        self.take_down()
    }
}

/// Sees when the device lets go of the file although nobody asked for it: `losetup -d`.
#[derive(Default)]
struct Watch {
    /// Set once the device has the file. Held while the kernel is asked, which does not touch the file.
    armed: Mutex<Option<Armed>>,
}

struct Armed {
    device: LoopDevice,
    mark: Mark,
    tell: Box<dyn Fn(String) + Send + Sync>,
}

impl Watch {
    fn watch(&self, device: LoopDevice, mark: Mark, file: &FuseFile) {
        *self.armed.lock() = Some(Armed {
            device,
            mark,
            tell: Box::new(file.teller()),
        });
    }

    /// Called when somebody closed the file.
    fn look(&self) {
        let armed = self.armed.lock();
        let Some(armed) = &*armed else { return };
        if !armed.mark.is_on(armed.device) {
            (armed.tell)(format!(
                "{}: detached from outside",
                armed.device.path().display()
            ));
        }
    }
}

/// Put a loop device on the file: the one asked for, or a free one.
fn configure(
    index: Option<u32>,
    file: &FuseFile,
    mark: &Mark,
    config: Config,
    size: u64,
    folder: &Path,
) -> Result<LoopDevice, Refusal> {
    for _ in 0..RACES {
        let device = match index {
            Some(index) => named(index, folder)?,
            None => free(folder)?,
        };
        let first = usize::try_from(size.min(4096) / 512 * 512).expect("at most 4096");
        let made = device.configure_own(file.real_path(), config, first, FIRST_READ);
        let Err(error) = made else {
            return Ok(device);
        };
        if let Some(refusal) = unusable(device, mark, first, &error) {
            return Err(after(remove_added(folder), refusal));
        }
        let refusal = match index {
            Some(_) => refuse_in_use(device).err(),
            None => None,
        };
        let refusal = refusal.unwrap_or_else(|| device_failed(device, &error));
        let refusal = after(remove_added(folder), refusal);
        if index.is_some() || !is_errno(&error, Errno::BUSY) {
            return Err(refusal);
        }
    }
    Err(Refusal::new(format!(
        "other programs took each of {RACES} free loop devices first"
    )))
}

/// Why a device is of no use that has, or may have, its file by now; it is taken away again.
fn unusable(device: LoopDevice, mark: &Mark, first: usize, error: &io::Error) -> Option<Refusal> {
    let path = device.path().display().to_string();
    if is_errno(error, Errno::TIMEDOUT) {
        // To touch it now could hang; it goes with the file and with this process.
        let seconds = FIRST_READ.as_secs();
        return Some(Refusal::about(
            &path,
            format_args!("no answer to the first read within {seconds} s"),
        ));
    }
    let not_read = error.get_ref()?.downcast_ref::<NotRead>()?;
    let refusal = Refusal::about(
        &path,
        format_args!("reading the first {first} bytes: {}", words(&not_read.0)),
    );
    Some(after(clear(device, mark).map(|_| ()), refusal))
}

/// `/dev/loopN`, made if the kernel has none of that number.
fn named(index: u32, folder: &Path) -> Result<LoopDevice, Refusal> {
    let device = LoopDevice::at(index);
    if !device.exists() {
        match device.add() {
            Ok(()) => remember_added(device, folder)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(device_failed(device, &error)),
        }
    }
    wait_for_node(device, folder)?;
    Ok(device)
}

/// A loop device without a file, made if there is none.
fn free(folder: &Path) -> Result<LoopDevice, Refusal> {
    let failed = |error: io::Error| control_failed("no free loop device", &error);
    let before = loopdev::all().map_err(failed)?;
    let device = loopdev::free().map_err(failed)?;
    if !before.contains(&device.index()) {
        remember_added(device, folder)?;
    }
    wait_for_node(device, folder)?;
    Ok(device)
}

fn wait_for_node(device: LoopDevice, folder: &Path) -> Result<(), Refusal> {
    if until(|| device.path().exists()) {
        return Ok(());
    }
    let refusal = Refusal::about(
        device.path().display(),
        "the kernel has this device, but there is no such node",
    )
    .hint("/dev is not kept by devtmpfs or udev here; a container must be given its devices");
    Err(after(remove_added(folder), refusal))
}

fn refuse_in_use(device: LoopDevice) -> Result<(), Refusal> {
    match device.backing_file() {
        None => Ok(()),
        Some(file) => Err(Refusal::about(
            format_args!("{} is in use", device.path().display()),
            format_args!("it is the loop device of `{}`", file.display()),
        )
        .hint("name another one, or none for a free one")),
    }
}

fn device_failed(device: LoopDevice, error: &io::Error) -> Refusal {
    control_failed(&device.path().display().to_string(), error)
}

fn control_failed(what: &str, error: &io::Error) -> Refusal {
    let refusal = Refusal::caused(what, error);
    if !Path::new("/dev/loop-control").exists() {
        return refusal.hint("there is no /dev/loop-control; load it with `modprobe loop`");
    }
    match error.kind() {
        ErrorKind::PermissionDenied => refusal.hint("loop devices take root"),
        _ => refusal,
    }
}

/// Take the file away from `device`, if it has this mark, and wait until it is gone; whether it is. A device that
/// is still open keeps it until it is closed.
fn clear(device: LoopDevice, mark: &Mark) -> Result<bool, Refusal> {
    let ours = || mark.is_on(device);
    if !ours() {
        return Ok(true);
    }
    match device.clear(ours) {
        Err(error) if !is_errno(&error, Errno::NXIO) => return Err(device_failed(device, &error)),
        _ => {}
    }
    let gone = until(|| !ours());
    if !gone {
        log::warn!(
            "{} is still open: its requests fail from now on, and it goes when it is closed",
            device.path().display()
        );
    }
    Ok(gone)
}

fn remember_added(device: LoopDevice, folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(ADDED);
    device
        .identity()
        .and_then(|identity| fs::write(&note, format!("{} {identity}", device.index())))
        .refuse(note.display())
}

/// Remove the device that was made for this attachment, unless somebody uses it by now. An older pydisk noted the
/// number only; that device stays, as it may be another one.
fn remove_added(folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(ADDED);
    let text = match fs::read_to_string(&note) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Refusal::caused(note.display(), error)),
    };
    let (index, identity) = text.split_once(' ').unwrap_or((&text, ""));
    let index = index
        .parse()
        .map_err(|error| Refusal::about(note.display(), error))?;
    let device = LoopDevice::at(index);
    let is_another = || device.identity().map_or(true, |found| found != identity);
    let gone = until(|| is_another() || device.backing_file().is_some() || device.remove().is_ok());
    if !gone {
        log::warn!(
            "{}: this device was not removed: it is open",
            device.path().display()
        );
    }
    fs::remove_file(&note).refuse(note.display())
}

/// Ask again and again for a short while.
fn until(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

fn is_errno(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// The refusal, and what went wrong while cleaning up after it.
fn after(cleaned: Result<(), Refusal>, refusal: Refusal) -> Refusal {
    match cleaned {
        Ok(()) => refusal,
        Err(also) => refusal.hint(also),
    }
}

#[cfg(test)]
mod tests;
