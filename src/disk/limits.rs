//! What a disk can do, as a value: fixed when the disk is opened, read by everyone above it.

/// Size, block sizes and capabilities of an open disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, any number up to `i64::MAX`.
    pub size: u64,
    /// Which requests suit the disk.
    pub block: BlockSizes,
    /// Requests outside `block` are refused; where false, `block` is advice.
    pub strict_blocks: bool,
    /// Nothing can be written.
    pub read_only: bool,
    /// Seeks are dear, as on a spinning disk.
    pub rotational: bool,
    /// There is a cache that [`super::Op::Flush`] empties.
    pub flush: bool,
    /// What becomes of [`super::Flags::FUA`].
    pub fua: Fua,
    /// [`super::Op::Trim`] is served.
    pub trim: bool,
    /// [`super::Op::Zero`] is served.
    pub zero: bool,
    /// [`super::Flags::FAST_ZERO`] is understood.
    pub fast_zero: bool,
    /// What becomes of [`super::Op::Cache`].
    pub cache: Cache,
    /// [`super::Disk::extents`] knows more than "all data".
    pub extents: bool,
    /// What one connection flushed, another one reads.
    pub multi_conn: bool,
    /// Several threads may call the disk at the same time.
    pub parallel: bool,
}

impl Limits {
    /// A readable disk of `size` bytes that can do nothing else and is called by one thread.
    #[must_use]
    pub fn read_only(size: u64) -> Self {
        Self {
            size,
            block: BlockSizes::ANY,
            strict_blocks: false,
            read_only: true,
            rotational: false,
            flush: false,
            fua: Fua::None,
            trim: false,
            zero: false,
            fast_zero: false,
            cache: Cache::None,
            extents: false,
            multi_conn: false,
            parallel: false,
        }
    }
}

/// Which requests suit a disk, in bytes. The rules are those of NBD's block size information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this; a power of two from 1 to 65536.
    pub minimum: u32,
    /// Offsets and lengths that cost least; a power of two from 512 to 32 MiB, at least `minimum`.
    pub preferred: u32,
    /// No read or write is longer; a multiple of `minimum`, or `u32::MAX` for no limit.
    pub maximum: u32,
}

impl BlockSizes {
    /// What a disk gets that says nothing: any byte range, 4 KiB preferred.
    pub const ANY: Self = Self {
        minimum: 1,
        preferred: 4096,
        maximum: u32::MAX,
    };
}

/// How a disk makes a single write durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fua {
    /// Not at all: [`super::Flags::FUA`] is refused.
    None,
    /// By a flush after the write. The layer `emulate` sends it; the disk below never sees the flag, and
    /// serves [`super::Op::Flush`] for this even where it does not offer it.
    Emulate,
    /// By itself: the flag is passed on.
    Native,
}

/// What a disk makes of the hint to cache a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// The request is refused.
    None,
    /// The range is read and the data dropped.
    Emulate,
    /// The request is passed on.
    Native,
}
