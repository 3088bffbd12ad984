//! What a server sends in the transmission phase, without the data itself.

use super::{EXTENDED_REPLY_MAGIC, Failure, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, Shape};

/// The kinds of a chunk.
pub(in super::super) mod chunk {
    pub(in super::super::super) const NONE: u16 = 0;
    pub(in super::super::super) const OFFSET_DATA: u16 = 1;
    pub(in super::super::super) const OFFSET_HOLE: u16 = 2;
    pub(in super::super::super) const BLOCK_STATUS: u16 = 5;
    pub(in super::super::super) const BLOCK_STATUS_EXT: u16 = 6;
    pub(in super::super::super) const ERROR: u16 = 1 << 15 | 1;
}

/// Marks the last chunk of a reply.
pub(in super::super) const DONE: u16 = 1;

/// What a chunk answers, and how long its payload is.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Chunk {
    pub(in super::super) kind: u16,
    pub(in super::super) last: bool,
    pub(in super::super) cookie: u64,
    /// The offset that the request named; only extended replies repeat it.
    pub(in super::super) at: u64,
    /// Bytes that follow.
    pub(in super::super) payload: u32,
}

impl Chunk {
    /// Add the head of the chunk to `out`. Simple replies have no chunks.
    pub(in super::super) fn encode(&self, shape: Shape, out: &mut Vec<u8>) {
        let magic = match shape {
            Shape::Extended => EXTENDED_REPLY_MAGIC,
            Shape::Simple | Shape::Structured => STRUCTURED_REPLY_MAGIC,
        };
        let flags = if self.last { DONE } else { 0 };
        out.extend(magic.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        if shape == Shape::Extended {
            out.extend(self.at.to_be_bytes());
            out.extend(u64::from(self.payload).to_be_bytes());
            return;
        }
        out.extend(self.payload.to_be_bytes());
    }
}

/// Add a simple reply to `out`, up to the data of a read that succeeded.
pub(in super::super) fn simple(cookie: u64, failure: Option<Failure>, out: &mut Vec<u8>) {
    out.extend(SIMPLE_REPLY_MAGIC.to_be_bytes());
    out.extend(failure.map_or(0, |failure| failure as u32).to_be_bytes());
    out.extend(cookie.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_sizes_of_the_protocol() {
        let chunk = Chunk {
            kind: chunk::NONE,
            last: true,
            cookie: 7,
            at: 9,
            payload: 0,
        };
        let size = |shape| {
            let mut out = Vec::new();
            chunk.encode(shape, &mut out);
            out.len()
        };
        assert_eq!(size(Shape::Structured), 20);
        assert_eq!(size(Shape::Extended), 32);
        let mut out = Vec::new();
        simple(7, Some(Failure::Inval), &mut out);
        assert_eq!(out.len(), 16);
        assert_eq!(out[4..8], [0, 0, 0, 22]);
        assert_eq!(out[8..], 7_u64.to_be_bytes());
    }
}
