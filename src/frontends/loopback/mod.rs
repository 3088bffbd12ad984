//! The loop front end: a loop device with direct I/O on a hidden FUSE file, where there is no ublk.
//!
//! Called by [`super::start`]. The kernel's loop driver turns block requests into requests on the
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

use super::fuse::{self, FuseFile};
use super::{Attached, Ended, Options};
use crate::Refusal;
use crate::disk::{Disk, Limits};

/// The hidden file in the attachment's folder.
const FILE: &str = "file";

/// Beside it, the number of a device that the kernel had to make for this attachment.
const ADDED: &str = "loop-added";

/// How often another free device is tried when somebody else was faster.
const RACES: u32 = 20;

/// How long the first read of the device may take.
const FIRST_READ: Duration = Duration::from_secs(60);

/// How long a device may take to appear, or to go when its last user closes it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Make `disk` a loop device: `/dev/loopN` for an index, else a free one.
///
/// A size that is no multiple of 512 is rounded down by the kernel; to say so is the caller's.
///
/// # Errors
/// One sentence, and nothing is left behind.
pub fn start_loop(
    index: Option<u32>,
    disk: Arc<dyn Disk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Attached>, Refusal> {
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
    let device = match configure(index, &file, &limits, &options.folder) {
        Ok(device) => device,
        Err(refusal) => return Err(after(file.end(), refusal)),
    };
    watch.watch(device, &file);
    let mut attached = LoopFile {
        path: device.path(),
        device,
        file: Some(file),
        folder: options.folder.clone(),
    };
    if let Err(why) = attached.check(&limits) {
        let refusal = Refusal::new(format!("{}: {why}", attached.path.display()));
        return Err(after(attached.take_down(), refusal));
    }
    watch.look();
    Ok(Box::new(attached))
}

/// Take away what a process left when it was killed whose attachment's folder was `folder`: its loop
/// device and the hidden file. It is no error if there is nothing.
///
/// # Errors
/// One sentence. A device that is still open stays until it is closed, and every request fails.
pub fn remove_leftover(folder: &Path) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::new(format!("{}: {error}", folder.display()));
    // The kernel names the file without symbolic links.
    let folder = &match folder.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        folder => folder.map_err(failed)?,
    };
    let file = folder.join(FILE);
    let mut outcome = Ok(());
    for index in loopdev::all().map_err(failed)? {
        let device = LoopDevice::at(index);
        if device.backing_file().is_some_and(|backing| backing == file) {
            outcome = clear(device, &file);
        }
    }
    fuse::remove_leftover(&file, true)?;
    outcome?;
    remove_added(folder)
}

/// A loop device on a FUSE file.
#[derive(Debug)]
struct LoopFile {
    path: PathBuf,
    device: LoopDevice,
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
            .map_err(|error| format!("size: {error}"))?;
        if size != wanted {
            return Err(format!("the kernel made it {size} bytes, not {wanted}"));
        }
        if !self.device.direct_io() {
            log::warn!(
                "{}: the kernel uses its page cache below the device, which is slower",
                self.path.display()
            );
        }
        Ok(())
    }

    fn take_down(&mut self) -> Result<(), Refusal> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        file.hush();
        let cleared = clear(self.device, file.real_path());
        // Without its file a device that is still open fails every request.
        let ended = file.end();
        if let Err(refusal) = cleared {
            return Err(after(ended, refusal));
        }
        ended?;
        remove_added(&self.folder)
    }
}

impl Drop for LoopFile {
    fn drop(&mut self) {
        if let Err(refusal) = self.take_down() {
            log::error!("{refusal}");
        }
    }
}

impl Attached for LoopFile {
    fn path(&self) -> &Path {
        &self.path
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
    file: PathBuf,
    tell: Box<dyn Fn(String) + Send + Sync>,
}

impl Watch {
    fn watch(&self, device: LoopDevice, file: &FuseFile) {
        *self.armed.lock() = Some(Armed {
            device,
            file: file.real_path().to_owned(),
            tell: Box::new(file.teller()),
        });
    }

    /// Called when somebody closed the file.
    fn look(&self) {
        let armed = self.armed.lock();
        let Some(armed) = &*armed else { return };
        if armed.device.backing_file().as_ref() != Some(&armed.file) {
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
    limits: &Limits,
    folder: &Path,
) -> Result<LoopDevice, Refusal> {
    let config = Config {
        block_size: limits.block.minimum.clamp(512, 4096),
        read_only: limits.read_only,
    };
    for _ in 0..RACES {
        let device = match index {
            Some(index) => named(index, folder)?,
            None => free(folder)?,
        };
        let first = usize::try_from(limits.size.min(4096) / 512 * 512).expect("at most 4096");
        let made = device.configure_own(file.real_path(), config, first, FIRST_READ);
        let Err(error) = made else {
            return Ok(device);
        };
        if let Some(refusal) = unusable(device, file, first, &error) {
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
fn unusable(
    device: LoopDevice,
    file: &FuseFile,
    first: usize,
    error: &io::Error,
) -> Option<Refusal> {
    let path = device.path().display().to_string();
    if is_errno(error, Errno::TIMEDOUT) {
        // To touch it now could hang; it goes with the file and with this process.
        let seconds = FIRST_READ.as_secs();
        return Some(Refusal::new(format!(
            "{path}: no answer to the first read within {seconds} s"
        )));
    }
    let not_read = error.get_ref()?.downcast_ref::<NotRead>()?;
    let refusal = Refusal::new(format!(
        "{path}: reading the first {first} bytes: {}",
        not_read.0
    ));
    Some(after(clear(device, file.real_path()), refusal))
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
    let refusal = Refusal::new(format!(
        "{}: the kernel has this device, but there is no such node",
        device.path().display()
    ))
    .hint("/dev is not kept by devtmpfs or udev here; a container must be given its devices");
    Err(after(remove_added(folder), refusal))
}

fn refuse_in_use(device: LoopDevice) -> Result<(), Refusal> {
    match device.backing_file() {
        None => Ok(()),
        Some(file) => Err(Refusal::new(format!(
            "{} is in use: it is the loop device of `{}`",
            device.path().display(),
            file.display()
        ))
        .hint("name another one, or none for a free one")),
    }
}

fn device_failed(device: LoopDevice, error: &io::Error) -> Refusal {
    control_failed(&device.path().display().to_string(), error)
}

fn control_failed(what: &str, error: &io::Error) -> Refusal {
    let refusal = Refusal::new(format!("{what}: {error}"));
    if !Path::new("/dev/loop-control").exists() {
        return refusal.hint("there is no /dev/loop-control; load it with `modprobe loop`");
    }
    match error.kind() {
        ErrorKind::PermissionDenied => refusal.hint("loop devices take root"),
        _ => refusal,
    }
}

/// Take `file` away from `device`, if it has it, and wait until it is gone.
fn clear(device: LoopDevice, file: &Path) -> Result<(), Refusal> {
    let ours = || device.backing_file().is_some_and(|backing| backing == file);
    if !ours() {
        return Ok(());
    }
    match device.clear() {
        Err(error) if !is_errno(&error, Errno::NXIO) => return Err(device_failed(device, &error)),
        _ => {}
    }
    if until(|| !ours()) {
        return Ok(());
    }
    Err(Refusal::new(format!(
        "{} is still open: its requests fail from now on, and it goes when it is closed",
        device.path().display()
    )))
}

fn remember_added(device: LoopDevice, folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(ADDED);
    fs::write(&note, device.index().to_string())
        .map_err(|error| Refusal::new(format!("{}: {error}", note.display())))
}

/// Remove the device that was made for this attachment, unless somebody uses it by now.
fn remove_added(folder: &Path) -> Result<(), Refusal> {
    let note = folder.join(ADDED);
    let failed = |error: io::Error| Refusal::new(format!("{}: {error}", note.display()));
    let index = match fs::read_to_string(&note) {
        Ok(text) => text.parse().map_err(io::Error::other).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let device = LoopDevice::at(index);
    let gone =
        until(|| device.backing_file().is_some() || !device.exists() || device.remove().is_ok());
    if !gone {
        log::warn!(
            "{}: this device was not removed: it is open",
            device.path().display()
        );
    }
    fs::remove_file(&note).map_err(failed)
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
        Err(also) => refusal.hint(also.to_string()),
    }
}

#[cfg(test)]
mod tests;
