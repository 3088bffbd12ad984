//! The kernel header [`include/uapi/linux/ublk_cmd.h`][header], as far as it is used here: names,
//! numbers and layouts are the kernel's.
//!
//! [header]: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/ublk_cmd.h

use std::mem::size_of;

/// The number of an ioctl that passes a `T` both ways, of the ublk driver's type `'u'`.
/// `include/uapi/asm-generic/ioctl.h`.
const fn iowr<T>(number: u32) -> u32 {
    (3 << 30) | ior_bits::<T>(number)
}

/// The same for one that only reads.
const fn ior<T>(number: u32) -> u32 {
    (2 << 30) | ior_bits::<T>(number)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the structs of this file have a few dozen bytes"
)]
const fn ior_bits<T>(number: u32) -> u32 {
    (size_of::<T>() as u32) << 16 | (b'u' as u32) << 8 | number
}

pub(crate) const UBLK_U_CMD_GET_DEV_INFO: u32 = ior::<ublksrv_ctrl_cmd>(0x02);
pub(crate) const UBLK_U_CMD_ADD_DEV: u32 = iowr::<ublksrv_ctrl_cmd>(0x04);
pub(crate) const UBLK_U_CMD_DEL_DEV: u32 = iowr::<ublksrv_ctrl_cmd>(0x05);
pub(crate) const UBLK_U_CMD_START_DEV: u32 = iowr::<ublksrv_ctrl_cmd>(0x06);
pub(crate) const UBLK_U_CMD_STOP_DEV: u32 = iowr::<ublksrv_ctrl_cmd>(0x07);
pub(crate) const UBLK_U_CMD_SET_PARAMS: u32 = iowr::<ublksrv_ctrl_cmd>(0x08);
pub(crate) const UBLK_U_CMD_GET_FEATURES: u32 = ior::<ublksrv_ctrl_cmd>(0x13);
pub(crate) const UBLK_U_IO_FETCH_REQ: u32 = iowr::<ublksrv_io_cmd>(0x20);
pub(crate) const UBLK_U_IO_COMMIT_AND_FETCH_REQ: u32 = iowr::<ublksrv_io_cmd>(0x21);

/// The result of a fetch that will bring no request: `-ENODEV`.
pub(crate) const UBLK_IO_RES_ABORT: i32 = -19;

pub(crate) const UBLK_S_DEV_DEAD: u16 = 0;
pub(crate) const UBLK_S_DEV_LIVE: u16 = 1;
pub(crate) const UBLK_S_DEV_QUIESCED: u16 = 2;
pub(crate) const UBLK_S_DEV_FAIL_IO: u16 = 3;

pub(crate) const UBLK_IO_OP_READ: u32 = 0;
pub(crate) const UBLK_IO_OP_WRITE: u32 = 1;
pub(crate) const UBLK_IO_OP_FLUSH: u32 = 2;
pub(crate) const UBLK_IO_OP_DISCARD: u32 = 3;
pub(crate) const UBLK_IO_OP_WRITE_ZEROES: u32 = 5;

pub(crate) const UBLK_IO_F_FUA: u32 = 1 << 13;
pub(crate) const UBLK_IO_F_NOUNMAP: u32 = 1 << 15;

pub(crate) const UBLK_ATTR_READ_ONLY: u32 = 1 << 0;
pub(crate) const UBLK_ATTR_ROTATIONAL: u32 = 1 << 1;
pub(crate) const UBLK_ATTR_VOLATILE_CACHE: u32 = 1 << 2;
pub(crate) const UBLK_ATTR_FUA: u32 = 1 << 3;

pub(crate) const UBLK_PARAM_TYPE_BASIC: u32 = 1 << 0;
pub(crate) const UBLK_PARAM_TYPE_DISCARD: u32 = 1 << 1;

/// Argument of every control command, in the second half of a 128-byte submission.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublksrv_ctrl_cmd {
    pub(crate) dev_id: u32,
    pub(crate) queue_id: u16,
    pub(crate) len: u16,
    pub(crate) addr: u64,
    pub(crate) data: [u64; 1],
    pub(crate) dev_path_len: u16,
    pub(crate) pad: u16,
    pub(crate) reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublksrv_ctrl_dev_info {
    pub(crate) nr_hw_queues: u16,
    pub(crate) queue_depth: u16,
    pub(crate) state: u16,
    pub(crate) pad0: u16,
    pub(crate) max_io_buf_bytes: u32,
    pub(crate) dev_id: u32,
    pub(crate) ublksrv_pid: i32,
    pub(crate) pad1: u32,
    pub(crate) flags: u64,
    pub(crate) ublksrv_flags: u64,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) reserved1: u64,
    pub(crate) reserved2: u64,
}

/// Argument of a fetch, and of a commit that fetches.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublksrv_io_cmd {
    pub(crate) q_id: u16,
    pub(crate) tag: u16,
    pub(crate) result: i32,
    pub(crate) addr: u64,
}

/// A request, in the memory that the driver shares.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublksrv_io_desc {
    pub(crate) op_flags: u32,
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
    pub(crate) addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublk_param_basic {
    pub(crate) attrs: u32,
    pub(crate) logical_bs_shift: u8,
    pub(crate) physical_bs_shift: u8,
    pub(crate) io_opt_shift: u8,
    pub(crate) io_min_shift: u8,
    pub(crate) max_sectors: u32,
    pub(crate) chunk_sectors: u32,
    pub(crate) dev_sectors: u64,
    pub(crate) virt_boundary_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublk_param_discard {
    pub(crate) discard_alignment: u32,
    pub(crate) discard_granularity: u32,
    pub(crate) max_discard_sectors: u32,
    pub(crate) max_write_zeroes_sectors: u32,
    pub(crate) max_discard_segments: u16,
    pub(crate) reserved0: u16,
}

/// The parameters that every driver since 6.0 knows; `len` tells it that there are no more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ublk_params {
    pub(crate) len: u32,
    pub(crate) types: u32,
    pub(crate) basic: ublk_param_basic,
    pub(crate) discard: ublk_param_discard,
    /// What the kernel's alignment makes of 60 bytes; written, so it must be initialised.
    pub(crate) pad: u32,
}

// These sizes are part of the command codes or of a mapping.
const _: () = assert!(size_of::<ublksrv_ctrl_cmd>() == 32);
const _: () = assert!(size_of::<ublksrv_ctrl_dev_info>() == 64);
const _: () = assert!(size_of::<ublksrv_io_cmd>() == 16);
const _: () = assert!(size_of::<ublksrv_io_desc>() == 24);
const _: () = assert!(size_of::<ublk_params>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_codes_are_those_that_a_c_compiler_makes_of_the_header() {
        assert_eq!(UBLK_U_CMD_GET_DEV_INFO, 0x8020_7502);
        assert_eq!(UBLK_U_CMD_ADD_DEV, 0xc020_7504);
        assert_eq!(UBLK_U_CMD_DEL_DEV, 0xc020_7505);
        assert_eq!(UBLK_U_CMD_START_DEV, 0xc020_7506);
        assert_eq!(UBLK_U_CMD_STOP_DEV, 0xc020_7507);
        assert_eq!(UBLK_U_CMD_SET_PARAMS, 0xc020_7508);
        assert_eq!(UBLK_U_CMD_GET_FEATURES, 0x8020_7513);
        assert_eq!(UBLK_U_IO_FETCH_REQ, 0xc010_7520);
        assert_eq!(UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0xc010_7521);
    }
}
