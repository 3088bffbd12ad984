//! The words of the ublk driver ([`super::uapi`]), and how one request descriptor is read.

pub(crate) use super::uapi::*;

/// The result of a fetch that will bring no request: the device is going away.
pub(crate) const ABORT: i32 = UBLK_IO_RES_ABORT;

/// `UBLK_U_CMD_GET_FEATURES` writes so many bytes.
pub(crate) const FEATURES_LEN: usize = 8;

/// The driver's features with the bits of `UBLK_F_*`, named for people.
pub(crate) const FEATURES: &[(u64, &str)] = &[
    (1 << 0, "zero-copy"),
    (1 << 2, "need-get-data"),
    (1 << 3, "recovery"),
    (1 << 4, "recovery-reissue"),
    (1 << 5, "unprivileged"),
    (1 << 6, "ioctl-encode"),
    (1 << 7, "user-copy"),
    (1 << 8, "zoned"),
    (1 << 9, "recovery-fail-io"),
    (1 << 10, "update-size"),
    (1 << 11, "auto-buffers"),
    (1 << 12, "quiesce"),
    (PER_IO_DAEMON, "per-io-daemon"),
    (1 << 14, "off-daemon-buffers"),
    (1 << 15, "batch-io"),
    (1 << 16, "integrity"),
    (1 << 17, "safe-stop"),
    (1 << 18, "no-partition-scan"),
    (1 << 19, "shared-memory"),
];

/// Ways to pass data that we never ask for; with one of them the buffers would stay empty.
pub(crate) const ZERO_COPY: u64 = 1 << 0;
pub(crate) const NEED_GET_DATA: u64 = 1 << 2;
pub(crate) const USER_COPY: u64 = 1 << 7;

/// Each tag may be served by a thread of its own.
pub(crate) const PER_IO_DAEMON: u64 = 1 << 13;

/// Commands are encoded as ioctls; every driver since 6.4 does that, and we send nothing else.
pub(crate) const IOCTL_ENCODE: u64 = 1 << 6;

/// What the block layer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Read,
    Write { fua: bool },
    Flush,
    Discard,
    WriteZeroes { may_unmap: bool },
}

/// One request as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) asked: Asked,
    /// First byte; 0 for a flush.
    pub(crate) at: u64,
    /// Bytes; 0 for a flush.
    pub(crate) len: u64,
}

impl Descriptor {
    /// Read what the driver wrote, or give the number of an operation that we do not know.
    ///
    /// The flags are bits of the whole `op_flags` word, not of the word shifted by the width of the
    /// operation. A flush comes with a start sector of `u64::MAX`, so the operation decides before
    /// anything is multiplied.
    pub(crate) fn parse(desc: &ublksrv_io_desc) -> Result<Self, u32> {
        let op = desc.op_flags & 0xff;
        let asked = match op {
            UBLK_IO_OP_READ => Asked::Read,
            UBLK_IO_OP_WRITE => Asked::Write {
                fua: desc.op_flags & UBLK_IO_F_FUA != 0,
            },
            UBLK_IO_OP_FLUSH => {
                return Ok(Self {
                    asked: Asked::Flush,
                    at: 0,
                    len: 0,
                });
            }
            UBLK_IO_OP_DISCARD => Asked::Discard,
            UBLK_IO_OP_WRITE_ZEROES => Asked::WriteZeroes {
                may_unmap: desc.op_flags & UBLK_IO_F_NOUNMAP == 0,
            },
            other => return Err(other),
        };
        Ok(Self {
            asked,
            at: desc.start_sector.saturating_mul(512),
            len: u64::from(desc.nr_sectors) * 512,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desc(op_flags: u32, start_sector: u64, nr_sectors: u32) -> ublksrv_io_desc {
        ublksrv_io_desc {
            op_flags,
            nr_sectors,
            start_sector,
            addr: 0,
        }
    }

    #[test]
    fn flags_are_bits_of_the_unshifted_word() {
        // As seen from a 7.3 kernel: a write with FUA, and a zeroing that must not unmap.
        assert_eq!(
            Descriptor::parse(&desc(0x2001, 8, 8)),
            Ok(Descriptor {
                asked: Asked::Write { fua: true },
                at: 4096,
                len: 4096
            })
        );
        assert_eq!(
            Descriptor::parse(&desc(0x8005, 0, 8)).map(|d| d.asked),
            Ok(Asked::WriteZeroes { may_unmap: false })
        );
        assert_eq!(
            Descriptor::parse(&desc(5, 0, 8)).map(|d| d.asked),
            Ok(Asked::WriteZeroes { may_unmap: true })
        );
    }

    #[test]
    fn a_flush_has_no_range_whatever_its_sector_says() {
        assert_eq!(
            Descriptor::parse(&desc(2, u64::MAX, 0)),
            Ok(Descriptor {
                asked: Asked::Flush,
                at: 0,
                len: 0
            })
        );
    }

    #[test]
    fn an_unknown_operation_is_told_by_its_number() {
        assert_eq!(Descriptor::parse(&desc(0x2000 | 18, 0, 8)), Err(18));
    }
}
