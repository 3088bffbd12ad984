//! `/dev/nbdN`: the kernel's own NBD client on a socket whose other end this process serves.
//!
//! The worker starts it through [`DEVICES`]. No port, no negotiation: the kernel is told what the disk is when it
//! gets the socket, and speaks the protocol's transmission phase on it, which [`super::nbd`] answers,
//! for a parallel disk with several threads.
//!
//! There is one socket. On several the kernel sends a request once more that took longer than
//! [`TIMEOUT`] (`nbd_xmit_timeout` of drivers/block/nbd.c): a plugin that is done with the first one
//! late would undo what was written since. On one socket the request fails, and the device ends.
//!
//! What the kernel does not see is the end of this process: it waits for what is under way until
//! [`TIMEOUT`]. Whoever sees it, the agent or the [guard](mod@guard), disconnects the device.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pydisk_kernel::nbd::{self as kernel, Device, Params};
use pydisk_kernel::{DeviceError, Driver, threads};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::block::{self, Devices, FIRST_READ, Geometry, MAX_TRIM, MOST_IO, refused};
use super::nbd::Unnegotiated;
use super::{Dead, Ended, Endpoint, Options, Published, Row, Target};
use crate::disk::{Disk, Limits, OpenDisk};
use crate::{Refusal, ResultExt};

mod guard;

pub use guard::guard;

/// In the folder of an attachment of an older pydisk, the word by which the kernel knows whose the device is.
const WORD: &str = "nbd-identity";
/// When the kernel gives the device up over one request that was not answered. The time in which it
/// waits behind others counts, and a plugin may rightly be slow (a network that is away for a while),
/// so it is long; it must be there at all for the case that nobody is left who could disconnect.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// How long others may keep a device busy that shall be stopped.
const BUSY: Duration = Duration::from_secs(2);
/// How long the kernel may take to let go of a device whose process is dead.
const LEFTOVER: Duration = Duration::from_millis(800);

pub(super) static ROW: Row = Row {
    name: "nbd-kernel",
    words: "the kernel's NBD client",
    offered: Some(|host| host.nbd.clone()),
    free: |_folder| Target::Nbd(None),
    blocks: true,
    clients: false,
    mounts: false,
    guard: Some(word),
    stopper: false,
};

pub(super) static DEVICES: Devices = Devices {
    row: &ROW,
    start,
    remove_leftover,
};

/// Remove the device that a dead attachment left. It is no error if it made none; a device that somebody else
/// made is never touched.
fn remove_leftover(dead: &Dead<'_>) -> Result<(), Refusal> {
    match dead.identity {
        Some(_) => remove(&dead.word()),
        None => noted(dead.folder)?.as_deref().map_or(Ok(()), remove),
    }
}

/// The word by which the kernel shall know whose the device is.
fn word(options: &Options) -> String {
    options.identity.word(&options.name)
}

/// The word that an older pydisk noted, if it came so far.
fn noted(folder: &Path) -> Result<Option<String>, Refusal> {
    let note = folder.join(WORD);
    match fs::read_to_string(&note) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Refusal::caused(note.display(), error)),
        Ok(word) => Ok(Some(word)),
    }
}

/// Remove the device that the kernel knows by this word.
fn remove(word: &str) -> Result<(), Refusal> {
    block::removed(kernel::remove_leftover(word, LEFTOVER)).map_err(Refusal::new)
}

/// Make `disk` a block device with the number `index`, or any free one.
///
/// # Errors
/// One sentence; nothing is left behind, unless the disk does not answer the first read: then the
/// device goes with the process.
fn start(
    index: Option<u32>,
    disk: Arc<dyn OpenDisk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Published>, Refusal> {
    let params = params(disk.limits(), options.logical_block, &word(options));
    let (ours, theirs) = pair().refuse_during(&options.name, "a socket")?;
    let lanes = lanes(disk.limits(), options);
    let serving = Serving::start(disk, ours, lanes, ended);
    let serving = serving.refuse_during(&options.name, "a thread")?;
    let connected = Device::connect(index, slice::from_ref(&theirs), &params);
    // The kernel holds its own.
    drop(theirs);
    let device = match connected {
        Ok(device) => device,
        Err(error) => {
            // Nothing was asked of the disk, and it is closed before the plugin is told of its end.
            serving.stopping();
            serving.join();
            return Err(refused(Driver::Nbd, index, &error));
        }
    };
    if let Err(error) = device.wait_until_usable(FIRST_READ) {
        let index = Some(device.index());
        give_up(device, serving, &error);
        return Err(refused(Driver::Nbd, index, &error));
    }
    Ok(Box::new(KernelNbd {
        endpoint: Endpoint::Device(device.path().to_owned()),
        device,
        serving,
    }))
}

/// Remove a device that is of no use. One that does not answer could not be stopped cleanly.
fn give_up(device: Device, serving: Serving, why: &DeviceError) {
    serving.stopping();
    if matches!(why, DeviceError::Timeout { .. }) {
        device.abandon();
        return;
    }
    if let Err(error) = device.disconnect() {
        log::error!("removing the device: {error}");
    }
    serving.join();
}

/// A disk that is a block device.
struct KernelNbd {
    device: Device,
    serving: Serving,
    endpoint: Endpoint,
}

impl Published for KernelNbd {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn stop(self: Box<Self>) -> Result<(), Refusal> {
        let Self {
            device,
            serving,
            endpoint,
        } = *self;
        let path = endpoint.to_string();
        serving.stopping();
        // A disconnect fails what is under way; so it waits for that, unless there is no end to it.
        if !calm(&device) {
            log::warn!("{path}: it is kept busy; requests that are under way fail");
            serving.socket.close();
        }
        let gone = device.disconnect();
        serving.join();
        block::stopped(&path, gone)
    }
}

/// Wait until nothing is under way, for as long as a plugin may hang: this process can be killed
/// meanwhile. Gives up when others send more and more.
fn calm(device: &Device) -> bool {
    let start = (Instant::now(), device.answered());
    while device.under_way() > 0 {
        if start.0.elapsed() >= BUSY && device.answered() > start.1 {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The thread that serves the socket of a device, and those that it starts.
struct Serving {
    socket: Arc<Unnegotiated>,
    thread: Option<JoinHandle<()>>,
    /// Its end is no news.
    stopping: Arc<AtomicBool>,
}

impl Serving {
    fn start(
        disk: Arc<dyn OpenDisk>,
        socket: OwnedFd,
        lanes: u16,
        ended: Ended,
    ) -> std::io::Result<Self> {
        let socket = Arc::new(Unnegotiated::new(disk, socket, MOST_IO, lanes));
        let stopping = Arc::new(AtomicBool::new(false));
        let (served, expected) = (Arc::clone(&socket), Arc::clone(&stopping));
        let serve = move || {
            let why = served.serve();
            if !expected.load(Ordering::Acquire) {
                // Nobody may listen any more.
                let told = format!("the kernel let go of the device: {why}");
                ended.send(told).unwrap_or_default();
            }
        };
        let thread = threads::deep("nbd").spawn(serve)?;
        Ok(Self {
            socket,
            thread: Some(thread),
            stopping,
        })
    }

    fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// End the socket and wait until the disk is not called any more.
    fn join(mut self) {
        self.socket.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("a serving thread panicked");
        }
    }
}

impl Drop for Serving {
    /// Whoever did not join leaves the threads alone: one of them waits for a plugin that hangs.
    fn drop(&mut self) {
        self.stopping();
        self.socket.close();
    }
}

/// A socket for this process and one for the kernel.
fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Requests that are served at the same time.
fn lanes(limits: &Limits, options: &Options) -> u16 {
    if limits.parallel {
        return options.lanes.max(1);
    }
    1
}

/// What the device is, by what the disk is.
pub(super) fn params(limits: &Limits, logical_block: Option<u32>, identity: &str) -> Params {
    let device = Geometry::of(limits, logical_block);
    Params {
        size_bytes: device.size,
        block_bytes: device.logical,
        max_io_bytes: device.longest,
        max_discard_bytes: MAX_TRIM,
        read_only: device.read_only,
        rotational: device.rotational,
        flush: device.flush,
        fua: device.fua,
        trim: device.trim,
        write_zeroes: device.zero,
        timeout: TIMEOUT,
        identity: identity.to_owned(),
    }
}

#[cfg(test)]
mod tests;
