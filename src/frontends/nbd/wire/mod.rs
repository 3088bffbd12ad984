//! The numbers of the NBD protocol and the layouts of its messages; nothing here reads, writes or
//! decides. All of it is <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>, and
//! extended headers are that document's branch `extension-ext-header`. Integers are big-endian.

pub(super) mod option;
pub(super) mod reply;
pub(super) mod request;

/// The first eight bytes that a server says.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// What follows them in the newstyle negotiation, and what begins each option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What follows them in the handshake of old, in place of a negotiation.
pub(super) const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Begins the reply to an option.
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins a request with a 32-bit length.
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins a request with a 64-bit length.
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Begins a simple reply.
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Begins a chunk of a reply to an extended request.
pub(super) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// No export name, query or message is longer, in bytes.
pub(super) const LONGEST_STRING: usize = 4096;
/// The only metadata context that is served.
pub(super) const BASE_ALLOCATION: &str = "base:allocation";
/// The number that stands for [`BASE_ALLOCATION`] in replies.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

bitflags::bitflags! {
    /// What the server says of itself, and what a client answers: the same bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Handshake: u16 {
        const FIXED_NEWSTYLE = 1;
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Transmission: u16 {
        const HAS_FLAGS = 1;
        const READ_ONLY = 1 << 1;
        const SEND_FLUSH = 1 << 2;
        const SEND_FUA = 1 << 3;
        const ROTATIONAL = 1 << 4;
        const SEND_TRIM = 1 << 5;
        const SEND_WRITE_ZEROES = 1 << 6;
        const SEND_DF = 1 << 7;
        const CAN_MULTI_CONN = 1 << 8;
        const SEND_CACHE = 1 << 10;
        const SEND_FAST_ZERO = 1 << 11;
    }

    /// What a request asks for beyond its command. All bits survive: unknown ones are refused, not lost.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Asked: u16 {
        const FUA = 1;
        const NO_HOLE = 1 << 1;
        const DF = 1 << 2;
        const REQ_ONE = 1 << 3;
        const FAST_ZERO = 1 << 4;
        const PAYLOAD_LEN = 1 << 5;
        const _ = !0;
    }
}

/// The shape of the replies, and with [`Shape::Extended`] of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Simple,
    Structured,
    Extended,
}

/// The numbers of the commands in a request.
pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISC: u16 = 2;
    pub(in super::super) const FLUSH: u16 = 3;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const CACHE: u16 = 5;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
    pub(in super::super) const BLOCK_STATUS: u16 = 7;
}

/// Why a request failed, as a client is told: the only numbers that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Failure {
    Perm = 1,
    Io = 5,
    NoMem = 12,
    Inval = 22,
    NoSpc = 28,
    Overflow = 75,
    NotSup = 95,
    Shutdown = 108,
}

/// Takes big-endian numbers and bytes off the front of a message; none if they are not there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greetings_are_the_words_they_spell() {
        assert_eq!(&GREETING.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
    }

    #[test]
    fn a_reader_takes_nothing_that_is_not_there() {
        let mut reader = Reader::new(&[0, 1, 2]);
        assert_eq!(reader.u32(), None);
        assert_eq!(reader.u16(), Some(1));
        assert_eq!(reader.bytes(2), None);
        assert_eq!(reader.bytes(1), Some(&[2][..]));
        assert!(reader.is_empty());
        assert_eq!(reader.bytes(0), Some(&[][..]));
    }

    #[test]
    fn unknown_flags_of_a_request_survive() {
        assert_eq!(Asked::from_bits_truncate(0x8001).bits(), 0x8001);
    }
}
