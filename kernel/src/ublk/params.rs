//! What a ublk device is: its size, block sizes and limits, checked before the driver sees them.

use super::abi;
use crate::device_error::DeviceError;

/// Size, block sizes and limits of a device, in bytes throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// A multiple of `logical_block`, above 0.
    pub size_bytes: u64,
    /// The smallest unit of a request: a power of two from 512 to the page size.
    pub logical_block: u32,
    /// The unit that the disk works in: a power of two from `logical_block` to 256 MiB.
    pub physical_block: u32,
    /// The smallest request that costs no more than its share; as `physical_block`.
    pub io_min: u32,
    /// The best size of a request; as `physical_block`.
    pub io_opt: u32,
    /// No read or write is longer, and each of the device's requests has a buffer of this size: a
    /// multiple of the page size up to 32 MiB. The memory is taken as it is used.
    pub max_io_bytes: u32,
    /// Nothing can be written; no ioctl undoes it.
    pub read_only: bool,
    /// Seeks are dear.
    pub rotational: bool,
    /// Writes reach stable storage with a flush only.
    pub volatile_cache: bool,
    /// A single write can be made durable; only with `volatile_cache`.
    pub fua: bool,
    /// The unit of a discard; looked at when `max_discard_bytes` is not 0.
    pub discard_granularity: u32,
    /// No discard is longer; 0 for a device without. The kernel's own limit is just below 4 GiB.
    pub max_discard_bytes: u64,
    /// No zeroing is longer; 0 for a device where the kernel zeroes by writing.
    pub max_write_zeroes_bytes: u64,
    /// Who made the device, for [`super::remove_leftover`]: any number that nobody else uses; 0 for a device
    /// that nobody will look for. The driver keeps it, as `ublksrv_flags`, as long as there is the device.
    pub identity: u64,
}

/// The driver keeps block sizes as shifts up to this one.
const MAX_SHIFT: u32 = 28;
/// The driver's `UBLK_IO_BUF_BITS`.
const MAX_IO_BYTES: u32 = 32 << 20;

impl Params {
    /// A device of `size_bytes` with 512-byte blocks that can be read and written, nothing else.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 4096,
            max_io_bytes: 1 << 20,
            read_only: false,
            rotational: false,
            volatile_cache: false,
            fua: false,
            discard_granularity: 0,
            max_discard_bytes: 0,
            max_write_zeroes_bytes: 0,
            identity: 0,
        }
    }

    /// Whether the driver would take these.
    ///
    /// # Errors
    /// [`DeviceError::Params`] with a sentence that names the field.
    pub fn check(&self) -> Result<(), DeviceError> {
        let page = u32::try_from(rustix::param::page_size()).expect("pages are small");
        let logical = self.logical_block;
        if !logical.is_power_of_two() || !(512..=page).contains(&logical) {
            return refuse(format!(
                "logical block size {logical}: a power of two from 512 to {page} is needed"
            ));
        }
        for (name, bytes) in [
            ("physical block size", self.physical_block),
            ("minimum I/O size", self.io_min),
            ("optimal I/O size", self.io_opt),
        ] {
            if !bytes.is_power_of_two() || bytes < logical || bytes > 1 << MAX_SHIFT {
                return refuse(format!(
                    "{name} {bytes}: a power of two from {logical} to {} is needed",
                    1 << MAX_SHIFT
                ));
            }
        }
        if !self.max_io_bytes.is_multiple_of(page)
            || !(page..=MAX_IO_BYTES).contains(&self.max_io_bytes)
        {
            return refuse(format!(
                "largest request {}: a multiple of {page} up to {MAX_IO_BYTES} is needed",
                self.max_io_bytes
            ));
        }
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(logical.into()) {
            return refuse(format!(
                "size {}: a multiple of the block size {logical}, above 0, is needed",
                self.size_bytes
            ));
        }
        if i64::try_from(self.size_bytes).is_err() {
            return refuse(format!("size {}: more than 2^63-1 bytes", self.size_bytes));
        }
        if self.fua && !self.volatile_cache {
            return refuse("FUA without a volatile cache: the kernel would ignore it".into());
        }
        if self.max_discard_bytes > 0 && !self.discard_granularity.is_multiple_of(logical) {
            return refuse(format!(
                "discard granularity {}: a multiple of the block size {logical} is needed",
                self.discard_granularity
            ));
        }
        Ok(())
    }

    /// In the driver's words. Only for parameters that [`Params::check`] let pass.
    pub(crate) fn to_wire(&self) -> abi::ublk_params {
        let mut attrs = 0;
        for (set, attr) in [
            (self.read_only, abi::UBLK_ATTR_READ_ONLY),
            (self.rotational, abi::UBLK_ATTR_ROTATIONAL),
            (self.volatile_cache, abi::UBLK_ATTR_VOLATILE_CACHE),
            (self.fua, abi::UBLK_ATTR_FUA),
        ] {
            if set {
                attrs |= attr;
            }
        }
        abi::ublk_params {
            // The limits of discards and of zeroing live in one structure: without its bit both
            // are off, and with it the granularity may not be 0.
            types: abi::UBLK_PARAM_TYPE_BASIC | abi::UBLK_PARAM_TYPE_DISCARD,
            basic: abi::ublk_param_basic {
                attrs,
                logical_bs_shift: shift(self.logical_block),
                physical_bs_shift: shift(self.physical_block),
                io_opt_shift: shift(self.io_opt),
                io_min_shift: shift(self.io_min),
                max_sectors: self.max_io_bytes / 512,
                dev_sectors: self.size_bytes / 512,
                ..Default::default()
            },
            discard: abi::ublk_param_discard {
                discard_granularity: self.discard_granularity.max(self.logical_block),
                max_discard_sectors: self.sectors(self.max_discard_bytes),
                max_write_zeroes_sectors: self.sectors(self.max_write_zeroes_bytes),
                max_discard_segments: 1,
                ..Default::default()
            },
            ..Default::default()
        }
    }

    /// Whole blocks, as sectors, of at most what one request of the block layer can hold.
    fn sectors(&self, bytes: u64) -> u32 {
        let block = u64::from(self.logical_block);
        let bytes = bytes.min(u64::from(u32::MAX)) / block * block;
        u32::try_from(bytes / 512).expect("less than 4 GiB were left")
    }
}

fn refuse(text: String) -> Result<(), DeviceError> {
    Err(DeviceError::Params(text))
}

fn shift(power_of_two: u32) -> u8 {
    u8::try_from(power_of_two.trailing_zeros()).expect("a u32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the driver's own table of bad parameters has, and what it would take silently.
    #[test]
    fn what_the_driver_would_refuse_or_ignore_is_refused() {
        let good = Params::new(1 << 20);
        assert_eq!(good.check(), Ok(()));
        type Spoil = fn(&mut Params);
        let bad: &[(&str, Spoil)] = &[
            ("size 0", |p| p.size_bytes = 0),
            ("size 1000", |p| p.size_bytes = 1000),
            ("size 9223372036854775808", |p| p.size_bytes = 1 << 63),
            ("logical block size 256", |p| p.logical_block = 256),
            ("logical block size 768", |p| p.logical_block = 768),
            ("logical block size 131072", |p| p.logical_block = 131_072),
            ("physical block size 256", |p| p.physical_block = 256),
            ("physical block size 536870912", |p| {
                p.physical_block = 1 << 29
            }),
            ("minimum I/O size 0", |p| p.io_min = 0),
            ("optimal I/O size 1000", |p| p.io_opt = 1000),
            ("largest request 512", |p| p.max_io_bytes = 512),
            ("largest request 67108864", |p| p.max_io_bytes = 64 << 20),
            ("FUA without", |p| p.fua = true),
            ("discard granularity 100", |p| {
                p.max_discard_bytes = 4096;
                p.discard_granularity = 100;
            }),
        ];
        for (start, spoil) in bad {
            let mut params = good.clone();
            spoil(&mut params);
            let text = params.check().expect_err(start).to_string();
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn limits_become_sectors_and_shifts() {
        let params = Params {
            logical_block: 4096,
            io_opt: 1 << 16,
            volatile_cache: true,
            fua: true,
            discard_granularity: 8192,
            max_discard_bytes: u64::MAX,
            max_write_zeroes_bytes: (64 << 20) + 1,
            ..Params::new(1 << 30)
        };
        assert_eq!(params.check(), Ok(()));
        let wire = params.to_wire();
        assert_eq!(wire.basic.attrs, 4 | 8);
        assert_eq!(wire.basic.logical_bs_shift, 12);
        assert_eq!(wire.basic.io_opt_shift, 16);
        assert_eq!(wire.basic.max_sectors, 2048);
        assert_eq!(wire.basic.dev_sectors, 1 << 21);
        assert_eq!(wire.discard.discard_granularity, 8192);
        assert_eq!(wire.discard.max_discard_sectors, (1 << 23) - 8);
        assert_eq!(wire.discard.max_write_zeroes_sectors, 1 << 17);
    }

    #[test]
    fn a_device_without_discard_still_has_a_granularity() {
        let wire = Params::new(512).to_wire();
        assert_eq!(wire.discard.max_discard_sectors, 0);
        assert_eq!(wire.discard.discard_granularity, 512);
    }
}
