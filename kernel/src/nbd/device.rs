//! A device: connecting it, seeing that it can be used, and making it go.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::netlink::{DISCONNECT, Family, Say, send_there};
use super::params::Params;
use super::sysfs::{self, Folder, Identity};
use super::{largest_index, path};
use crate::device_error::{DeviceError, DeviceName, Driver};
use crate::elsewhere::{elsewhere, first_line_is_there, open_there};
use crate::first_read::first_read;
use crate::node::Node;
use crate::usage::{self, User};

/// How long somebody may look at a device that shall be connected: udev and friends do.
const LOOKED_AT: Duration = Duration::from_secs(2);
/// How long the driver may take for a command that waits for nobody.
const COMMAND: Duration = Duration::from_secs(10);
/// How long it may take to open a device that shall be disconnected: whoever opens it first reads its
/// partition table, which nobody may answer any more. It is short, for the rest is waited for as well by whoever
/// removes a leftover.
const OPEN: Duration = Duration::from_millis(100);
/// How long is waited for others to let go of a device that is gone.
const LET_GO: Duration = Duration::from_secs(2);
/// How long devtmpfs has to remove the node of a device that is gone.
const NODE_GOES: Duration = Duration::from_millis(500);
/// How often a wait looks up.
const SLICE: Duration = Duration::from_millis(5);

/// A connected device. Dropping it disconnects it.
#[derive(Debug)]
pub struct Device {
    index: u32,
    size_bytes: u64,
    block_bytes: u32,
    node: Node,
    connection: Connection,
}

impl Device {
    /// Connect `sockets` as the device with the number `index`, or with any free one. Their other
    /// ends are served already, or will be soon: the kernel may read partition tables.
    ///
    /// Each socket is a stream of TCP or of the local kind. There is one queue for each, but no more
    /// than there are processors: the rest stays unused until others fail.
    ///
    /// # Errors
    /// [`DeviceError::InUse`] when the number is taken, [`DeviceError::Params`] for parameters out of range,
    /// [`DeviceError::NoDriver`], [`DeviceError::NotPermitted`] and others when no device can be made at all.
    pub fn connect(
        index: Option<u32>,
        sockets: &[OwnedFd],
        params: &Params,
    ) -> Result<Self, DeviceError> {
        params.check()?;
        let family = Family::find_or_load()?;
        let connection = match index {
            Some(index) => Connection::at(family, index, sockets, params, LOOKED_AT)?,
            None => Connection::anywhere(family, sockets, params)?,
        };
        let index = connection.index;
        let folder = Folder(index);
        if folder.identity().as_ref() != Some(&connection.identity) {
            return Err(DeviceError::TooOld);
        }
        folder.limit("max_sectors_kb", u64::from(params.max_io_bytes / 1024));
        if params.trim {
            folder.limit("discard_max_bytes", params.max_discard_bytes);
        }
        Ok(Self {
            index,
            size_bytes: params.size_bytes,
            block_bytes: params.block_bytes,
            node: Node::block(&format!("nbd{index}")).map_err(DeviceError::Node)?,
            connection,
        })
    }

    /// The device's number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The device node.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.node.path()
    }

    /// Wait until the device can be opened, has its size, and its first block can be read. Another
    /// process does it, so that this one may be the one that answers.
    ///
    /// # Errors
    /// [`DeviceError::Node`] with the reason, [`DeviceError::Timeout`] when there was no answer `within` that
    /// time.
    pub fn wait_until_usable(&self, within: Duration) -> Result<(), DeviceError> {
        first_read(self.path(), self.size_bytes, self.block_bytes, within)
    }

    /// Requests that the kernel has sent, or is about to send, and has no answer to.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        Folder(self.index).under_way()
    }

    /// Requests that were answered since the kernel made the device.
    #[must_use]
    pub fn answered(&self) -> u64 {
        Folder(self.index).answered()
    }

    /// Disconnect the device: the other ends are told, and what is still under way fails. Another
    /// process does it, so that this one can be killed whatever the kernel waits for.
    ///
    /// # Errors
    /// [`DeviceError::StillOpen`] when it is disconnected and somebody keeps it open; [`DeviceError::Timeout`].
    pub fn disconnect(mut self) -> Result<(), DeviceError> {
        self.connection.end()
    }

    /// Let go of a device without disconnecting it, where that could hang: who dies takes the
    /// sockets along, and whoever watches does the rest.
    pub fn abandon(mut self) {
        self.connection.ended = true;
    }
}

/// Disconnect the devices that were made with this `identity`, from another process than the one that
/// served them: whatever is under way fails. It is no error when there are none any more.
///
/// # Errors
/// [`DeviceError::Timeout`] when the driver did not do it `within` that time, and [`DeviceError::StillOpen`] when
/// it did and somebody keeps the device open for longer than that.
pub fn remove_leftover(identity: &str, within: Duration) -> Result<(), DeviceError> {
    for index in sysfs::all()? {
        let Some(found) = Folder(index).identity() else {
            continue;
        };
        if found.word() != identity {
            continue;
        }
        disconnect(index, &found, within)?;
        wait_for_the_end(index, &found, within)?;
    }
    Ok(())
}

/// What the driver has been told and must be told to forget.
#[derive(Debug)]
struct Connection {
    index: u32,
    identity: Identity,
    ended: bool,
}

impl Connection {
    /// Connect at a free number. Somebody else may be faster, then it is the next one.
    fn anywhere(family: Family, sockets: &[OwnedFd], params: &Params) -> Result<Self, DeviceError> {
        let there = sysfs::all()?;
        let unused = there
            .iter()
            .copied()
            .filter(|&index| !Folder(index).is_connected());
        let new = (0..=largest_index()).filter(|index| !there.contains(index));
        for index in unused.chain(new) {
            match Self::at(family, index, sockets, params, Duration::ZERO) {
                Err(DeviceError::InUse { .. }) => {}
                other => return other,
            }
        }
        Err(DeviceError::NoFreeDevice(Driver::Nbd))
    }

    /// Connect at this number, waiting for those who only look at it.
    fn at(
        family: Family,
        index: u32,
        sockets: &[OwnedFd],
        params: &Params,
        patience: Duration,
    ) -> Result<Self, DeviceError> {
        let largest = largest_index();
        if index > largest {
            return Err(DeviceError::NoSuchNumber { index, largest });
        }
        let start = Instant::now();
        loop {
            let added = !Folder(index).exists();
            let identity = Identity::new(&params.identity, added);
            let mut says = vec![
                Say::Index(index),
                Say::SizeBytes(params.size_bytes),
                Say::BlockSizeBytes(params.block_bytes.into()),
                Say::Timeout(params.timeout.as_secs()),
                Say::ServerFlags(params.flags(sockets.len())),
                Say::Identity(identity.as_str()),
                Say::Sockets(sockets),
            ];
            says.extend(added.then_some(Say::DestroyOnDisconnect));
            let errno = match family.connect(&says) {
                Ok(index) => {
                    return Ok(Self {
                        index,
                        identity,
                        ended: false,
                    });
                }
                Err(errno) => errno,
            };
            match errno {
                Errno::BUSY if Folder(index).is_connected() || start.elapsed() >= patience => {
                    return Err(DeviceError::InUse {
                        device: DeviceName(Driver::Nbd, index),
                        holder: holder(index),
                    });
                }
                Errno::BUSY => thread::sleep(SLICE),
                // The driver is not done yet with the one before that goes when it is disconnected.
                Errno::INVAL if added && start.elapsed() < LET_GO => thread::sleep(SLICE),
                Errno::PERM => return Err(DeviceError::NotPermitted(Driver::Nbd)),
                errno => return Err(DeviceError::failed("NBD_CMD_CONNECT")(errno)),
            }
        }
    }

    fn end(&mut self) -> Result<(), DeviceError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        disconnect(self.index, &self.identity, COMMAND)?;
        wait_for_the_end(self.index, &self.identity, LET_GO)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("nbd: disconnecting device {}: {error}", self.index);
        }
    }
}

/// Disconnect the device with this identity, if its number still has it.
///
/// Another process tells the driver: the driver may wait for whoever sends on one of the sockets, and
/// who waits in the kernel cannot be killed. The command has a number and no identity, and the number
/// of a device that somebody else has just disconnected may have been given away again. So that
/// process has the device open when it looks: the driver gives no number away that is open.
fn disconnect(index: u32, identity: &Identity, within: Duration) -> Result<(), DeviceError> {
    const WHAT: &str = "NBD_CMD_DISCONNECT";
    let command = Family::find()?.command(DISCONNECT, &[Say::Index(index)]);
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).expect("made from a number");
    let (node, backend) = (text(&path(index)), text(&Folder(index).backend()));
    let tell = || {
        if first_line_is_there(&backend, identity.as_str().as_bytes()) {
            return send_there(&command);
        }
        [0, 0, 0]
    };
    let held = || {
        // Without a node it is as good as it was looked at a moment ago.
        let _device = open_there(&node, libc::O_RDONLY);
        tell()
    };
    // SAFETY: `held` makes system calls only.
    let mut told = unsafe { elsewhere(OPEN.min(within), || false, held) };
    if told == Err(Errno::TIMEDOUT) {
        // Whoever keeps it from being opened has it open, or the driver takes its time.
        // SAFETY: `tell` makes system calls only.
        told = unsafe { elsewhere(within, || false, tell) };
    }
    match told {
        Ok([_, 0, _]) => Ok(()),
        Ok([_, errno, _]) => match i32::try_from(errno).map(Errno::from_raw_os_error) {
            Ok(Errno::PERM) => Err(DeviceError::NotPermitted(Driver::Nbd)),
            // The device is gone, or is going.
            Ok(Errno::INVAL) if Folder(index).identity().as_ref() != Some(identity) => Ok(()),
            errno => Err(DeviceError::failed(WHAT)(errno.unwrap_or(Errno::IO))),
        },
        Err(Errno::TIMEDOUT) => Err(DeviceError::Timeout {
            what: WHAT,
            after: within,
        }),
        Err(errno) => Err(DeviceError::failed(WHAT)(errno)),
    }
}

/// Wait until a device that was disconnected is gone, also from `/dev` where it does not stay.
fn wait_for_the_end(index: u32, identity: &Identity, within: Duration) -> Result<(), DeviceError> {
    if !until(|| Folder(index).has_gone(identity), within) {
        return Err(DeviceError::StillOpen(DeviceName(Driver::Nbd, index)));
    }
    if !identity.added() {
        forget_partitions(index, within);
    } else if !until(|| !path(index).exists(), NODE_GOES) {
        log::debug!(
            "{}: the node is there without a device",
            path(index).display()
        );
    }
    Ok(())
}

/// Have the kernel forget the partitions of a disk that is gone from a device that stays: the driver looks for them
/// when somebody opens the device, and keeps the old ones until then. Another process opens it: somebody may have
/// connected it by now, and not answer.
fn forget_partitions(index: u32, within: Duration) {
    let folder = Folder(index);
    if folder.is_connected() || !folder.has_partitions() {
        return;
    }
    let node = path(index);
    let Ok(name) = CString::new(node.as_os_str().as_bytes()) else {
        return;
    };
    let open = || open_there(&name, libc::O_RDONLY).map_or_else(|errno| [0, errno, 0], |_| [0; 3]);
    // SAFETY: `open_there` makes one system call.
    let why = match unsafe { elsewhere(within, || false, open) } {
        Ok([_, 0, _]) => return,
        Ok([_, errno, _]) => i32::try_from(errno).map_or(Errno::IO, Errno::from_raw_os_error),
        Err(errno) => errno,
    };
    log::warn!(
        "{}: the partitions of the disk that is gone stay until somebody opens it: {why}",
        node.display()
    );
}

/// Who has a device that cannot be connected: who connected it, or else who has it open.
fn holder(index: u32) -> Option<(i32, String)> {
    if let Some(holder) = Folder(index).holder() {
        return Some(holder);
    }
    let users = usage::users(&path(index), &[]).ok()?;
    users.into_iter().find_map(|user| match user {
        User::Open { pid, command } => Some((i32::try_from(pid).ok()?, command)),
        _ => None,
    })
}

/// Ask again and again.
fn until(done: impl Fn() -> bool, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(SLICE);
    }
    true
}
