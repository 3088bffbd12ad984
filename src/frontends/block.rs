//! What a block device is by what its disk is, and what a driver's error is to whoever wants the device: the same for
//! ublk, `/dev/nbdN` and loop devices.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pydisk_kernel::ublk::ADD_DEV;
use pydisk_kernel::{DeviceError, DeviceName, Driver};

use super::{Dead, Ended, FrontEnd, OneDisk, Options, Prepared, Published, Row};
use crate::Refusal;
use crate::disk::{Fua, Limits, OpenDisk};

/// Reads and writes are not longer than this, unless the disk prefers longer ones: longer requests bring a Python
/// disk little, and each may take so much memory.
const MAX_IO: u32 = 1 << 20;
/// No read or write is longer, whatever the disk prefers: the limit of the ublk driver and of the kernel's NBD client.
pub(super) const MOST_IO: u32 = 32 << 20;
/// No trim is longer, so that a disk that answers slowly answers others in between.
pub(super) const MAX_TRIM: u64 = 1 << 30;
/// How long the first read of a device may take.
pub(super) const FIRST_READ: Duration = Duration::from_secs(60);

/// Makes a disk the device of this number, or a free one.
type Start =
    fn(Option<u32>, Arc<dyn OpenDisk>, &Options, Ended) -> Result<Box<dyn Published>, Refusal>;

/// Devices that a driver knows by their numbers. What the drivers do differently stands in the fields.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) row: &'static Row,
    pub(super) start: Start,
    /// Removes the device that a dead attachment left, and no other one.
    pub(super) remove_leftover: fn(&Dead<'_>) -> Result<(), Refusal>,
}

impl Devices {
    /// The one with this number, or any free one.
    pub(super) fn at(&'static self, index: Option<u32>) -> Numbered {
        Numbered {
            devices: self,
            index,
        }
    }
}

/// One of a driver's devices, or any free one.
#[derive(Debug)]
pub(super) struct Numbered {
    devices: &'static Devices,
    index: Option<u32>,
}

impl FrontEnd for Numbered {
    fn row(&self) -> &'static Row {
        self.devices.row
    }

    fn prepare(
        &self,
        options: &Options,
        _passed: Vec<OwnedFd>,
    ) -> Result<Box<dyn Prepared>, Refusal> {
        let (start, index, options) = (self.devices.start, self.index, options.clone());
        let start = move |disk, ended| start(index, disk, &options, ended);
        Ok(Box::new(OneDisk(start)))
    }

    fn remove_leftover(&self, dead: &Dead<'_>, _new: bool) -> Result<(), Refusal> {
        (self.devices.remove_leftover)(dead)
    }
}

/// Bytes in a block of the device that a disk with these limits becomes. Blocks above 4 KiB cannot be expressed;
/// the layer below fills requests up to those that the disk takes.
#[must_use]
pub fn logical_block(limits: &Limits, wanted: Option<u32>) -> u32 {
    let own = limits.block.minimum.next_power_of_two();
    wanted.unwrap_or(own.clamp(512, 4096))
}

/// A block device, in bytes and in what it can do. A driver is told as much of it as it has words for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// As the disk has it: that it is a multiple of `logical` is for the layer below to see to.
    pub(super) size: u64,
    /// The smallest unit of a request.
    pub(super) logical: u32,
    /// The smallest unit that costs no more than its share.
    pub(super) physical: u32,
    /// The best size of a request.
    pub(super) optimal: u32,
    /// No read or write is longer; a multiple of the page size.
    pub(super) longest: u32,
    /// Nothing can be written.
    pub(super) read_only: bool,
    /// Seeks are dear.
    pub(super) rotational: bool,
    /// Writes reach stable storage with a flush only.
    pub(super) flush: bool,
    /// A single write can be made durable.
    pub(super) fua: bool,
    /// Trims are served.
    pub(super) trim: bool,
    /// Zeroing is served.
    pub(super) zero: bool,
}

impl Geometry {
    /// What the device of a disk with these `limits` is, in blocks of `wanted` bytes if the user wants that.
    pub(super) fn of(limits: &Limits, wanted: Option<u32>) -> Self {
        let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
        let block = limits.block;
        let logical = logical_block(limits, wanted);
        let minimum = block.minimum.next_power_of_two().max(logical);
        let physical = minimum.max(block.preferred.min(4096));
        let optimal = block.preferred.next_power_of_two().max(physical);
        let longest = MAX_IO.max(optimal).min(block.maximum).min(MOST_IO);
        let writable = !limits.read_only;
        let flush = writable && limits.flush;
        Self {
            size: limits.size,
            logical,
            physical,
            optimal,
            longest: (longest / page * page).max(page),
            read_only: limits.read_only,
            rotational: limits.rotational,
            flush,
            // Where the disk would emulate it, the kernel's own flush after the write does the same.
            fua: flush && limits.fua == Fua::Native,
            trim: writable && limits.trim,
            zero: writable && limits.zero,
        }
    }
}

/// Why there is no device of this driver with the number `index`, or no free one, in words for the user.
pub(super) fn refused(driver: Driver, index: Option<u32>, error: &DeviceError) -> Refusal {
    let refusal = match index {
        Some(index) if !error.names_its_device() => {
            Refusal::about(DeviceName(driver, index), error)
        }
        _ => Refusal::new(error),
    };
    match hint(error) {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

/// What the user can do, where that is known.
fn hint(error: &DeviceError) -> Option<&'static str> {
    Some(match error {
        DeviceError::NoDriver(Driver::Ublk) => {
            "load the module with `modprobe ublk_drv`, or use /dev/loopN or a file path"
        }
        DeviceError::NoDriver(Driver::Nbd) => {
            "load the module with `modprobe nbd`, or use /dev/loopN or a file path"
        }
        DeviceError::NotPermitted(_) => "run it as root, or use a file path",
        DeviceError::OtherNamespace => {
            "run it outside of the container, or use /dev/loopN or a file path"
        }
        DeviceError::NoIoUring(_) => {
            "set `sysctl kernel.io_uring_disabled=0`, or use /dev/loopN or a file path"
        }
        DeviceError::KernelCrashes { .. } | DeviceError::TooOld => {
            "use a newer kernel, or /dev/loopN or a file path"
        }
        DeviceError::InUse { .. } | DeviceError::NoSuchNumber { .. } => "choose another number",
        DeviceError::Timeout { what: ADD_DEV, .. } => {
            "the ublk driver of this kernel hangs or has crashed, see `dmesg`: use /dev/loopN or a file path, and \
             start the machine again before you use ublk"
        }
        _ => return None,
    })
}

/// What came of stopping `device`.
///
/// # Errors
/// One sentence. That it still is open is none.
pub(super) fn stopped(device: &str, came: Result<(), DeviceError>) -> Result<(), Refusal> {
    match came {
        Err(error @ DeviceError::StillOpen(_)) => {
            log::warn!("{device}: {error}");
            Ok(())
        }
        came => came.map_err(|error| Refusal::about(device, error)),
    }
}

/// What came of removing the device that a dead attachment left.
///
/// # Errors
/// The driver's. That it still is open is none.
pub(super) fn removed(came: Result<(), DeviceError>) -> Result<(), DeviceError> {
    match came {
        Err(DeviceError::StillOpen(_)) => Ok(()),
        came => came,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::BlockSizes;
    use crate::frontends::{loopback, nbd_kernel, ublk};

    fn limits() -> Limits {
        Limits {
            read_only: false,
            flush: true,
            fua: Fua::Native,
            trim: true,
            zero: true,
            ..Limits::read_only(16 << 20)
        }
    }

    /// Disks that differ from each other in one thing.
    fn disks() -> Vec<Limits> {
        let mut disks = vec![limits(), Limits::read_only(16 << 20)];
        type Change = fn(&mut Limits);
        let changes: [Change; 6] = [
            |limits| limits.fua = Fua::Emulate,
            |limits| limits.flush = false,
            |limits| limits.trim = false,
            |limits| limits.zero = false,
            |limits| limits.rotational = true,
            |limits| limits.read_only = true,
        ];
        disks.extend(changes.map(|change| {
            let mut limits = limits();
            change(&mut limits);
            limits
        }));
        for minimum in (0..=16).map(|shift| 1 << shift) {
            for preferred in (9..=25).map(|shift| (1 << shift).max(minimum)) {
                for maximum in [minimum, 65536, 1 << 20, 1 << 24, u32::MAX] {
                    let block = BlockSizes {
                        minimum,
                        preferred,
                        maximum: maximum.max(minimum),
                    };
                    disks.push(Limits { block, ..limits() });
                }
            }
        }
        disks
    }

    /// What the three drivers are told of one disk.
    #[test]
    fn a_disk_is_the_same_device_behind_every_driver() {
        for limits in disks() {
            for wanted in [None, Some(512), Some(4096)] {
                let ublk = ublk::params(&limits, wanted);
                let nbd = nbd_kernel::params(&limits, wanted, "x");
                let (block_size, read_only) = loopback::told(&limits, wanted);
                let about = format!("{limits:?} {wanted:?}");
                assert_eq!(ublk.check(), Ok(()), "{about}");
                assert_eq!(nbd.check(), Ok(()), "{about}");
                let logical = ublk.logical_block;
                assert_eq!([nbd.block_bytes, block_size], [logical; 2], "{about}");
                assert_eq!([nbd.read_only, read_only], [ublk.read_only; 2], "{about}");
                assert_eq!(nbd.size_bytes, ublk.size_bytes, "{about}");
                assert_eq!(nbd.max_io_bytes, ublk.max_io_bytes, "{about}");
                assert_eq!(nbd.rotational, ublk.rotational, "{about}");
                assert_eq!(
                    (nbd.flush, nbd.fua),
                    (ublk.volatile_cache, ublk.fua),
                    "{about}"
                );
                assert_eq!(nbd.trim, ublk.max_discard_bytes > 0, "{about}");
                assert_eq!(nbd.write_zeroes, ublk.max_write_zeroes_bytes > 0, "{about}");
                assert!(!nbd.trim || nbd.max_discard_bytes == ublk.max_discard_bytes);
            }
        }
    }

    #[test]
    fn the_device_takes_what_suits_its_disk() {
        for limits in disks() {
            let block = limits.block;
            for wanted in [None, Some(512), Some(4096)] {
                let device = Geometry::of(&limits, wanted);
                assert!(
                    wanted.is_none_or(|wanted| device.logical == wanted),
                    "{block:?}"
                );
                assert!(device.physical >= block.minimum, "{block:?}");
            }
            let device = Geometry::of(&limits, None);
            assert!(device.optimal >= block.preferred, "{block:?}");
            let longest = device.longest;
            assert!((4096..=MOST_IO).contains(&longest), "{block:?}: {longest}");
            assert!(longest <= block.maximum.max(4096), "{block:?}: {longest}");
        }
    }

    #[test]
    fn what_a_disk_has_its_device_has() {
        let all = Geometry::of(&limits(), None);
        assert!(all.flush && all.fua && all.trim && all.zero);
        assert!(!all.read_only && !all.rotational);
        assert_eq!((all.logical, all.physical), (512, 4096));
        assert_eq!((all.optimal, all.longest), (4096, 1 << 20));
        let of = |change: fn(&mut Limits)| {
            let mut limits = limits();
            change(&mut limits);
            Geometry::of(&limits, None)
        };
        let emulated = of(|limits| limits.fua = Fua::Emulate);
        assert!(emulated.flush && !emulated.fua);
        let no_flush = of(|limits| limits.flush = false);
        assert!(!no_flush.flush && !no_flush.fua);
        let read_only = of(|limits| (limits.read_only, limits.rotational) = (true, true));
        assert!(read_only.read_only && read_only.rotational);
        assert!(!read_only.flush && !read_only.fua && !read_only.trim && !read_only.zero);
    }

    #[test]
    fn a_refusal_names_the_device_once_and_says_what_to_do() {
        let says = |driver, index, error: &DeviceError| refused(driver, index, error).to_string();
        let text = says(Driver::Nbd, Some(3), &DeviceError::NoDriver(Driver::Nbd));
        assert!(
            text.starts_with("/dev/nbd3: the kernel module `nbd`"),
            "{text}"
        );
        let hint = "load the module with `modprobe nbd`, or use /dev/loopN or a file path";
        assert!(text.ends_with(&format!("\nhint: {hint}")), "{text}");
        let none = DeviceError::NoDriver(Driver::Ublk);
        let text = says(Driver::Ublk, None, &none);
        assert!(text.starts_with(&none.to_string()), "{text}");
        assert!(
            text.contains("\nhint: load the module with `modprobe ublk_drv`"),
            "{text}"
        );
        for (driver, path) in [(Driver::Nbd, "/dev/nbd3"), (Driver::Ublk, "/dev/ublkb3")] {
            let (device, holder) = (DeviceName(driver, 3), None);
            let text = says(driver, Some(3), &DeviceError::InUse { device, holder });
            assert!(text.starts_with(path), "{text}");
            assert_eq!(text.matches("/dev/").count(), 1, "{text}");
            assert!(text.ends_with("\nhint: choose another number"), "{text}");
            let open = DeviceError::StillOpen(device);
            let text = says(driver, Some(3), &open);
            assert!(!text.contains("hint"), "{text}");
            assert_eq!(stopped(path, Err(open.clone())), Ok(()));
            assert_eq!(removed(Err(open)), Ok(()));
        }
        assert!(stopped("/dev/ublkb3", Err(none.clone())).is_err());
        assert_eq!(removed(Err(none.clone())), Err(none));
    }
}
