//! What a device shall be, and the same in the driver's words.

use std::time::Duration;

use crate::device_error::DeviceError;

// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, transmission flags.
const HAS_FLAGS: u64 = 1 << 0;
const READ_ONLY: u64 = 1 << 1;
const SEND_FLUSH: u64 = 1 << 2;
const SEND_FUA: u64 = 1 << 3;
const ROTATIONAL: u64 = 1 << 4;
const SEND_TRIM: u64 = 1 << 5;
const SEND_WRITE_ZEROES: u64 = 1 << 6;
const CAN_MULTI_CONN: u64 = 1 << 8;

/// What a device shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Bytes; a multiple of `block_bytes`, at most `i64::MAX`.
    pub size_bytes: u64,
    /// Logical and physical block: a power of two from 512 to the page size.
    pub block_bytes: u32,
    /// No read or write is longer; the driver's own limit is 32 MiB.
    pub max_io_bytes: u32,
    /// No discard is longer.
    pub max_discard_bytes: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Seeks are dear.
    pub rotational: bool,
    /// There is a cache that a flush empties.
    pub flush: bool,
    /// A write can be made durable by itself.
    pub fua: bool,
    /// Discards are served.
    pub trim: bool,
    /// Write-zeroes are served (Linux 6.12; before, the kernel writes zeroes).
    pub write_zeroes: bool,
    /// When a request that was not answered ends the device: its sockets are shut down and all its
    /// requests fail. At least a second.
    pub timeout: Duration,
    /// Who made the device, for [`super::remove_leftover`]: any word that nobody else uses
    /// and that does not end with `+`.
    pub identity: String,
}

impl Params {
    /// Refuse what the driver would refuse or take for something else.
    ///
    /// # Errors
    /// [`DeviceError::Params`].
    pub fn check(&self) -> Result<(), DeviceError> {
        let refuse = |text: String| Err(DeviceError::Params(text));
        let page = u32::try_from(rustix::param::page_size()).unwrap_or(4096);
        let block = self.block_bytes;
        if !block.is_power_of_two() || !(512..=page).contains(&block) {
            return refuse(format!(
                "blocks of {block} bytes: a power of two from 512 to {page} is possible"
            ));
        }
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(u64::from(block)) {
            return refuse(format!(
                "size {}: a multiple of the block size {block} is needed",
                self.size_bytes
            ));
        }
        if self.size_bytes > i64::MAX.cast_unsigned() {
            return refuse(format!(
                "size {}: more than the kernel can count",
                self.size_bytes
            ));
        }
        if self.timeout < Duration::from_secs(1) {
            return refuse("a timeout of at least a second is needed".into());
        }
        if self.identity.is_empty() || self.identity.ends_with('+') {
            return refuse("an identity is needed that does not end with `+`".into());
        }
        Ok(())
    }

    /// The driver's flags for a device on so many sockets.
    pub(super) fn flags(&self, sockets: usize) -> u64 {
        let several = sockets > 1;
        [
            (true, HAS_FLAGS),
            (self.read_only, READ_ONLY),
            (self.flush, SEND_FLUSH),
            (self.fua, SEND_FUA),
            (self.rotational, ROTATIONAL),
            (self.trim, SEND_TRIM),
            (self.write_zeroes, SEND_WRITE_ZEROES),
            (several, CAN_MULTI_CONN),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        Params {
            size_bytes: 1 << 20,
            block_bytes: 512,
            max_io_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            read_only: false,
            rotational: false,
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            timeout: Duration::from_secs(1),
            identity: "x".into(),
        }
    }

    #[test]
    fn capabilities_become_the_protocols_flags() {
        assert_eq!(params().flags(1), 0b0110_1101);
        assert_eq!(params().flags(2), 0b1_0110_1101);
        let least = Params {
            read_only: true,
            rotational: true,
            flush: false,
            fua: false,
            trim: false,
            write_zeroes: false,
            ..params()
        };
        assert_eq!(least.flags(1), 0b1_0011);
    }

    #[test]
    fn what_the_driver_would_misunderstand_is_refused() {
        type Change = fn(&mut Params);
        let changes: [(Change, &str); 7] = [
            (|params| params.block_bytes = 256, "blocks of 256 bytes"),
            (|params| params.block_bytes = 3072, "blocks of 3072 bytes"),
            (|params| params.block_bytes = 1 << 20, "blocks of 1048576"),
            (|params| params.size_bytes = 1000, "size 1000"),
            (|params| params.size_bytes = 1 << 63, "more than"),
            (|params| params.timeout = Duration::ZERO, "timeout"),
            (|params| params.identity.clear(), "identity"),
        ];
        assert_eq!(params().check(), Ok(()));
        for (change, word) in changes {
            let mut params = params();
            change(&mut params);
            let why = params.check().unwrap_err().to_string();
            assert!(why.contains(word), "{why}");
        }
    }
}
