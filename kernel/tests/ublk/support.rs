//! What the tests share: a disk in memory, and devices on it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pydisk_kernel::DeviceError;
use pydisk_kernel::ublk::{self, Device, Handler, Io, Op, Params, Running, Shape};
use rustix::io::Errno;

/// Whether ublk devices can be made here; says why not, or fails where `PYDISK_REQUIRE` names ublk.
#[expect(clippy::explicit_write, reason = "see below")]
pub(crate) fn available() -> bool {
    let Err(why) = ublk::features() else {
        return true;
    };
    let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "ublk"), "{why}");
    // Not by a print macro: what those write in a test that passes is captured.
    writeln!(std::io::stderr(), "skipped: {why}").unwrap();
    false
}

/// An amount of work, times `PYDISK_TEST_SCALE`, a tenth unless set.
pub(crate) fn scaled(amount: usize) -> usize {
    let scale = std::env::var("PYDISK_TEST_SCALE").unwrap_or_default();
    // A duration is the one number of the library that multiplies without a lossy cast.
    let amount = Duration::from_secs(u64::try_from(amount).unwrap());
    let some = amount.mul_f64(scale.parse().unwrap_or(0.1)).as_secs();
    usize::try_from(some.max(1)).unwrap()
}

/// A number that no other test uses, in no other process either: one that is free again would be
/// taken by another test before this one has looked.
pub(crate) fn fresh_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1000 + std::process::id() % 1000 * 1000 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How a device is served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Serial,
    Lanes,
    /// What kernels before 6.16 do.
    Pool,
}

pub(crate) const WAYS: [Way; 3] = [Way::Serial, Way::Lanes, Way::Pool];

/// Whose the device with this number is, among those of the tests.
pub(crate) fn identity(id: u32) -> u64 {
    u64::from(id) | 0x7465_7374 << 32
}

impl Way {
    pub(crate) fn add(self, id: Option<u32>, params: &Params) -> Result<Device, DeviceError> {
        let params = &Params {
            identity: id.map_or(0, identity),
            ..params.clone()
        };
        self.add_as(id, params)
    }

    /// A device with the identity that stands in `params`.
    pub(crate) fn add_as(self, id: Option<u32>, params: &Params) -> Result<Device, DeviceError> {
        match self {
            Way::Serial => Device::add(id, Shape::Serial { depth: 64 }, params),
            Way::Lanes => Device::add(id, Shape::Parallel { lanes: 4 }, params),
            Way::Pool => Device::add(id, Shape::Parallel { lanes: 4 }, params)
                .map(Device::without_per_io_daemon),
        }
    }

    /// A device that is usable, with a number that no other test uses.
    pub(crate) fn start(self, params: &Params, handler: Arc<dyn Handler>) -> Running {
        let running = self
            .add(Some(fresh_id()), params)
            .unwrap()
            .start(handler, |_| {})
            .unwrap();
        running.wait_until_usable(Duration::from_secs(60)).unwrap();
        running
    }
}

/// A disk in memory that can be told to behave badly.
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    /// Called first; an errno is the answer.
    #[expect(clippy::type_complexity, reason = "one use")]
    before: Box<dyn Fn(&Io<'_>) -> Result<(), Errno> + Send + Sync>,
}

impl Memory {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        Self::with(size, |_| Ok(()))
    }

    pub(crate) fn with(
        size: usize,
        before: impl Fn(&Io<'_>) -> Result<(), Errno> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0; size]),
            before: Box::new(before),
        })
    }
}

impl Handler for Memory {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        (self.before)(&io)?;
        let mut bytes = self.bytes.lock().unwrap();
        let at = usize::try_from(io.at).unwrap();
        match io.op {
            Op::Read(memory) => memory.copy_from_slice(&bytes[at..at + memory.len()]),
            Op::Write { data, .. } => bytes[at..at + data.len()].copy_from_slice(data),
            Op::WriteZeroes { len, .. } | Op::Discard { len } => {
                bytes[at..at + usize::try_from(len).unwrap()].fill(0);
            }
            Op::Flush => {}
        }
        Ok(())
    }
}

/// Parameters of a device that can do everything.
pub(crate) fn everything(size_bytes: u64) -> Params {
    Params {
        volatile_cache: true,
        fua: true,
        discard_granularity: 4096,
        max_discard_bytes: 1 << 30,
        max_write_zeroes_bytes: 1 << 26,
        ..Params::new(size_bytes)
    }
}

/// Run a command to its end and fail with what it said.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The device without the page cache in between.
pub(crate) fn open_direct(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap()
}

/// Memory that direct I/O can use.
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [u8; 4096]);

pub(crate) fn read_page(device: &mut File, number: u64) -> io::Result<Page> {
    let mut page = Page([0xAA; 4096]);
    device.seek(SeekFrom::Start(number * 4096))?;
    device.read_exact(&mut page.0)?;
    Ok(page)
}

pub(crate) fn write_page(device: &mut File, number: u64, byte: u8) -> io::Result<()> {
    device.seek(SeekFrom::Start(number * 4096))?;
    device.write_all(&Page([byte; 4096]).0)
}
