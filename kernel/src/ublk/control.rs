//! Commands to `/dev/ublk-control`, each with a deadline.
//!
//! The rings of `libublk` live in thread-local storage, panic on other threads, and lose track of a
//! command when a signal interrupts the wait. This one can be used from any thread, and a wait
//! starts again after a signal. The ring is made when the node is opened, so that a device can be
//! removed when the process can open nothing more.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::abi;
use crate::device_error::{DeviceError, DeviceName, Driver, errno_of};
use crate::elsewhere::{Word, elsewhere, elsewhere_or_undone, open_there};
use crate::probe;

/// The node that takes the commands.
pub(crate) const CONTROL_NODE: &str = "/dev/ublk-control";

/// An open control node, with a ring for its commands.
pub(crate) struct Control {
    file: File,
    /// Held while a command is under way. Gone after a command that was not answered in time, as
    /// closing the ring is what calls a command off.
    ring: Mutex<Option<Ring>>,
}

type Ring = IoUring<squeue::Entry128, cqueue::Entry>;

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Control").field(&self.file).finish()
    }
}

/// A command and what it is sent with.
#[derive(Debug)]
struct Command {
    what: &'static str,
    code: u32,
    id: u32,
    data: u64,
}

/// A plain structure of the driver's, which it reads or fills.
///
/// # Safety
/// Every bit pattern is a value of the type, and it has no padding that matters.
unsafe trait Wire: Default {}
// SAFETY: both consist of integers only.
unsafe impl Wire for abi::ublksrv_ctrl_dev_info {}
// SAFETY: as above.
unsafe impl Wire for abi::ublk_params {}
// SAFETY: as above.
unsafe impl Wire for [u8; abi::FEATURES_LEN] {}

impl Control {
    /// Open the control node.
    pub(crate) fn open() -> Result<Self, DeviceError> {
        let opened = File::options().read(true).write(true).open(CONTROL_NODE);
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => DeviceError::NoDriver(Driver::Ublk),
            ErrorKind::PermissionDenied => DeviceError::NotPermitted(Driver::Ublk),
            _ => match errno_of(&error) {
                // A node that is left over from a module that is gone.
                Errno::NXIO | Errno::NODEV => DeviceError::NoDriver(Driver::Ublk),
                errno => DeviceError::Failed {
                    what: "open /dev/ublk-control",
                    errno,
                },
            },
        })?;
        let ring = Mutex::new(Some(new_ring()?));
        Ok(Self { file, ring })
    }

    /// Open the control node; where there is none, try to load the module first.
    pub(crate) fn open_or_load() -> Result<Self, DeviceError> {
        match Self::open() {
            Err(DeviceError::NoDriver(_)) if probe::load("ublk_drv", CONTROL_NODE.as_ref()) => {
                Self::open()
            }
            other => other,
        }
    }

    /// The features of the driver; drivers before 6.5 cannot tell.
    pub(crate) fn features(&self) -> Result<u64, DeviceError> {
        let command = Command::new("GET_FEATURES", abi::UBLK_U_CMD_GET_FEATURES, u32::MAX);
        let (_, bits) = self.exchange(&command, [0; abi::FEATURES_LEN], SHORT)?;
        Ok(u64::from_ne_bytes(bits))
    }

    /// Make the device that `info` describes; gives what the driver made of it.
    ///
    /// There are kernels that crash here, and a process that has a command in a driver that crashed or hangs can
    /// neither be killed nor end by itself. So another one sends it, which is left behind then.
    pub(crate) fn add(
        &self,
        info: abi::ublksrv_ctrl_dev_info,
    ) -> Result<abi::ublksrv_ctrl_dev_info, DeviceError> {
        let command = Command::new(ADD_DEV, abi::UBLK_U_CMD_ADD_DEV, info.dev_id);
        let work = || {
            let mut info = info;
            let addr = (&raw mut info).addr() as u64;
            let [_, errno, _] =
                send_there(&command, addr, wire_len::<abi::ublksrv_ctrl_dev_info>());
            [0, errno, info.dev_id.into()]
        };
        let undo = |[_, errno, id]: Word| {
            if let (0, Ok(id)) = (errno, u32::try_from(id)) {
                send_there(&Command::new("DEL_DEV", abi::UBLK_U_CMD_DEL_DEV, id), 0, 0);
            }
        };
        // SAFETY: `send_there` makes system calls only; a ring is made of mappings.
        let told = unsafe { elsewhere_or_undone(ADD, work, undo) };
        let [_, _, id] = command.outcome(told, ADD)?;
        self.info(u32::try_from(id).expect("it was a u32"))
    }

    pub(crate) fn set_params(
        &self,
        id: u32,
        mut params: abi::ublk_params,
    ) -> Result<(), DeviceError> {
        params.len = wire_len::<abi::ublk_params>().into();
        let command = Command::new("SET_PARAMS", abi::UBLK_U_CMD_SET_PARAMS, id);
        self.exchange(&command, params, SHORT).map(drop)
    }

    pub(crate) fn info(&self, id: u32) -> Result<abi::ublksrv_ctrl_dev_info, DeviceError> {
        let command = Command::new(GET_DEV_INFO, abi::UBLK_U_CMD_GET_DEV_INFO, id);
        let info = abi::ublksrv_ctrl_dev_info::default();
        self.exchange(&command, info, SHORT).map(|(_, info)| info)
    }

    /// Start the device; returns when the disk exists. `no_lane` is asked from time to time.
    ///
    /// Kernels before 7.0 read the partition table before that, which the lanes must serve. The
    /// command is therefore sent by another process: this one could not be killed as long as a plugin
    /// that hangs does not answer that read.
    pub(crate) fn start(id: u32, no_lane: impl Fn() -> bool) -> Result<(), DeviceError> {
        let command = Command {
            data: u64::from(std::process::id()),
            ..Command::new("START_DEV", abi::UBLK_U_CMD_START_DEV, id)
        };
        // SAFETY: `send_there` makes system calls only; a ring is made of mappings.
        let told = unsafe { elsewhere(START, &no_lane, || send_there(&command, 0, 0)) };
        if told == Err(Errno::TIMEDOUT) && no_lane() {
            return Err(DeviceError::Lane(
                "a serving thread ended before the device was started".into(),
            ));
        }
        command.outcome(told, START).map(drop)
    }

    /// Whether device `id` is the one that was made with this `identity`. A number is another device's as soon
    /// as the first one is removed, so this is asked before each command that ends a device.
    pub(crate) fn is(&self, id: u32, identity: u64) -> Result<bool, DeviceError> {
        match self.info(id) {
            Ok(info) => Ok(info.ublksrv_flags == identity),
            Err(DeviceError::NoSuchDevice(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stop device `id`, if it is the one with this `identity`: the disk goes, what is under way is answered
    /// first by whoever serves it.
    pub(crate) fn stop(
        &self,
        id: u32,
        identity: u64,
        within: Option<Duration>,
    ) -> Result<(), DeviceError> {
        if !self.is(id, identity)? {
            return Ok(());
        }
        self.stop_any(id, within)
    }

    /// As [`Control::stop`] for a device that cannot be another one by now, because its server holds it.
    pub(crate) fn stop_any(&self, id: u32, within: Option<Duration>) -> Result<(), DeviceError> {
        let command = Command::new("STOP_DEV", abi::UBLK_U_CMD_STOP_DEV, id);
        let sent = match within {
            Some(within) => self.send_apart(&command, within),
            None => self.send(&command, FOR_EVER),
        };
        match sent {
            Err(DeviceError::NoSuchDevice(_)) => Ok(()),
            other => other,
        }
    }

    /// Remove device `id`, if it is the one with this `identity`; returns when its number is free again. It is
    /// marked for removal at once, and what remains goes with its last user: [`DeviceError::StillOpen`] when that
    /// takes longer.
    pub(crate) fn delete(
        &self,
        id: u32,
        identity: u64,
        within: Duration,
    ) -> Result<(), DeviceError> {
        if !self.is(id, identity)? {
            return Ok(());
        }
        let command = Command::new("DEL_DEV", abi::UBLK_U_CMD_DEL_DEV, id);
        let deadline = Instant::now() + within;
        match self.send_apart(&command, within) {
            Err(DeviceError::NoSuchDevice(_)) => Ok(()),
            Err(DeviceError::Timeout { .. }) => {
                Err(DeviceError::StillOpen(DeviceName(Driver::Ublk, id)))
            }
            // Interrupted while it waited for the number: the device is going all the same.
            Err(DeviceError::Failed {
                errno: Errno::INTR, ..
            }) => self.wait_until_gone(id, identity, deadline),
            other => other,
        }
    }

    fn wait_until_gone(
        &self,
        id: u32,
        identity: u64,
        deadline: Instant,
    ) -> Result<(), DeviceError> {
        while self.is(id, identity)? {
            if Instant::now() >= deadline {
                return Err(DeviceError::StillOpen(DeviceName(Driver::Ublk, id)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Send a command that carries no structure.
    fn send(&self, command: &Command, within: Duration) -> Result<(), DeviceError> {
        self.run(command, 0, 0, within).map(drop)
    }

    /// The same by another process, which is left behind where the driver does not answer. Where this one may open
    /// nothing more, it has to do it itself.
    fn send_apart(&self, command: &Command, within: Duration) -> Result<(), DeviceError> {
        // SAFETY: `send_there` makes system calls only; a ring is made of mappings.
        match unsafe { elsewhere(within, || false, || send_there(command, 0, 0)) } {
            Err(Errno::MFILE | Errno::NFILE) => self.send(command, within),
            told => command.outcome(told, within).map(drop),
        }
    }

    /// Send a command with a structure and give back what the driver left in it.
    fn exchange<T: Wire>(
        &self,
        command: &Command,
        value: T,
        within: Duration,
    ) -> Result<(i32, T), DeviceError> {
        let mut value = Box::new(value);
        let addr = std::ptr::from_mut(&mut *value).addr() as u64;
        match self.run(command, addr, wire_len::<T>(), within) {
            Ok(result) => Ok((result, *value)),
            Err(error @ DeviceError::Timeout { .. }) => {
                // The driver may still write to it.
                Box::leak(value);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn run(
        &self,
        command: &Command,
        addr: u64,
        len: u16,
        within: Duration,
    ) -> Result<i32, DeviceError> {
        let mut held = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ring = match held.take() {
            Some(ring) => ring,
            None => new_ring()?,
        };
        let entry = command.entry(self.file.as_raw_fd(), addr, len);
        // SAFETY: the structure at `addr`, if any, outlives the command: `exchange` keeps it until
        // the completion, and for ever when there was none. The file is open as long as `self`.
        unsafe { ring.submission().push(&entry) }.expect("no other command is in the ring");
        let result = wait_for_one(&mut ring, command.what, within)?;
        *held = Some(ring);
        drop(held);
        let Ok(errno) = u32::try_from(-result) else {
            return Ok(result);
        };
        if errno == 0 {
            return Ok(0);
        }
        Err(command.error(Errno::from_raw_os_error(-result)))
    }
}

/// Send a command, with the structure at `addr` of this process if it has one, and tell the errno of its completion,
/// for [`elsewhere`].
fn send_there(command: &Command, addr: u64, len: u16) -> Word {
    let failed = |error: &std::io::Error| {
        [
            0,
            u64::from(errno_of(error).raw_os_error().unsigned_abs()),
            0,
        ]
    };
    let control = match open_there(c"/dev/ublk-control", libc::O_RDWR) {
        Ok(control) => control,
        Err(errno) => return [0, errno, 0],
    };
    let mut ring: Ring = match IoUring::builder().build(1) {
        Ok(ring) => ring,
        Err(error) => return failed(&error),
    };
    let entry = command.entry(control, addr, len);
    // SAFETY: the structure is the caller's and lives until this returns, and the file stays open until this process ends.
    if unsafe { ring.submission().push(&entry) }.is_err() {
        return failed(&std::io::Error::from_raw_os_error(libc::EBUSY));
    }
    loop {
        let waited = ring.submit_and_wait(1);
        if let Some(completion) = ring.completion().next() {
            let errno = completion.result().min(0).unsigned_abs();
            return [0, u64::from(errno), 0];
        }
        match waited {
            Err(error) if errno_of(&error) != Errno::INTR => return failed(&error),
            _ => {}
        }
    }
}

/// How the command is called in errors.
pub(crate) const GET_DEV_INFO: &str = "GET_DEV_INFO";
/// How the command that makes a device is called in errors.
pub const ADD_DEV: &str = "ADD_DEV";
/// Making a device waits for nobody but others that make or remove one.
const ADD: Duration = Duration::from_secs(30);
/// Commands that wait for nobody.
const SHORT: Duration = Duration::from_secs(20);
/// Starting may read the partition table from a slow disk.
const START: Duration = Duration::from_secs(120);
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How often a wait looks up.
const SLICE: Duration = Duration::from_millis(100);

impl Command {
    fn new(what: &'static str, code: u32, id: u32) -> Self {
        Self {
            what,
            code,
            id,
            data: 0,
        }
    }

    fn entry(&self, control: i32, addr: u64, len: u16) -> squeue::Entry128 {
        let wire = abi::ublksrv_ctrl_cmd {
            dev_id: self.id,
            queue_id: u16::MAX,
            len,
            addr,
            data: [self.data],
            ..Default::default()
        };
        // SAFETY: a structure of 32 bytes made of integers, without padding.
        let bytes: [u8; 32] = unsafe { std::mem::transmute(wire) };
        let mut cmd = [0; 80];
        cmd[..32].copy_from_slice(&bytes);
        opcode::UringCmd80::new(Fd(control), self.code)
            .cmd(cmd)
            .build()
    }

    /// What another process tells of the command.
    fn outcome(&self, told: Result<Word, Errno>, after: Duration) -> Result<Word, DeviceError> {
        match told {
            Ok(word @ [_, 0, _]) => Ok(word),
            Ok([_, errno, _]) => {
                let errno = i32::try_from(errno).map_or(Errno::IO, Errno::from_raw_os_error);
                Err(self.error(errno))
            }
            Err(Errno::TIMEDOUT) => Err(DeviceError::Timeout {
                what: self.what,
                after,
            }),
            Err(errno) => Err(DeviceError::Failed {
                what: self.what,
                errno,
            }),
        }
    }

    fn error(&self, errno: Errno) -> DeviceError {
        match errno {
            Errno::PERM => DeviceError::NotPermitted(Driver::Ublk),
            Errno::NODEV => DeviceError::NoSuchDevice(self.id),
            Errno::EXIST if self.code == abi::UBLK_U_CMD_ADD_DEV => DeviceError::InUse {
                device: DeviceName(Driver::Ublk, self.id),
                holder: None,
            },
            Errno::NOSPC if self.code == abi::UBLK_U_CMD_ADD_DEV => {
                DeviceError::NoFreeDevice(Driver::Ublk)
            }
            errno => DeviceError::Failed {
                what: self.what,
                errno,
            },
        }
    }
}

fn wire_len<T>() -> u16 {
    u16::try_from(size_of::<T>()).expect("the driver's structures are small")
}

fn new_ring() -> Result<Ring, DeviceError> {
    IoUring::builder()
        .dontfork()
        .build(1)
        .map_err(|error| no_ring(&error))
}

/// Why there is no ring.
pub(crate) fn no_ring(error: &std::io::Error) -> DeviceError {
    match errno_of(error) {
        errno @ (Errno::PERM | Errno::NOSYS | Errno::ACCESS) => DeviceError::NoIoUring(errno),
        errno => DeviceError::Failed {
            what: "io_uring_setup",
            errno,
        },
    }
}

/// Submit what is in `ring` and wait for its one completion.
fn wait_for_one(ring: &mut Ring, what: &'static str, within: Duration) -> Result<i32, DeviceError> {
    let deadline = Instant::now() + within;
    loop {
        let slice = Timespec::from(SLICE);
        let waited = ring
            .submitter()
            .submit_with_args(1, &SubmitArgs::new().timespec(&slice));
        if let Some(completion) = ring.completion().next() {
            return Ok(completion.result());
        }
        match waited.map_err(|error| errno_of(&error)) {
            Ok(_) | Err(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY) => {}
            Err(errno) => return Err(DeviceError::Failed { what, errno }),
        }
        if Instant::now() >= deadline {
            return Err(DeviceError::Timeout {
                what,
                after: within,
            });
        }
    }
}
