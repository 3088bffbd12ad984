//! What a client sends in the transmission phase.

use super::{Asked, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, Reader, Shape, command};

/// The head of a request as it came, not judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Head {
    pub(in super::super) asked: Asked,
    pub(in super::super) command: u16,
    /// Repeated in the reply, for the client to tell its requests apart.
    pub(in super::super) cookie: u64,
    pub(in super::super) at: u64,
    pub(in super::super) len: u64,
}

/// The longest head of a request, in bytes.
pub(in super::super) const LONGEST: usize = 32;

impl Head {
    /// Bytes of a head.
    pub(in super::super) fn size(shape: Shape) -> usize {
        match shape {
            Shape::Simple | Shape::Structured => 28,
            Shape::Extended => LONGEST,
        }
    }

    /// The head in `bytes`; none if it does not begin as it must, or is shorter than [`Head::size`].
    pub(in super::super) fn decode(shape: Shape, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let magic = match shape {
            Shape::Simple | Shape::Structured => REQUEST_MAGIC,
            Shape::Extended => EXTENDED_REQUEST_MAGIC,
        };
        if reader.u32()? != magic {
            return None;
        }
        Some(Self {
            asked: Asked::from_bits_retain(reader.u16()?),
            command: reader.u16()?,
            cookie: reader.u64()?,
            at: reader.u64()?,
            len: match shape {
                Shape::Simple | Shape::Structured => reader.u32()?.into(),
                Shape::Extended => reader.u64()?,
            },
        })
    }

    /// Bytes that follow the head: those of a write, and what extended headers announce.
    ///
    /// A write of extended headers without the announcement is wrong, but carries its data with every
    /// client that sends one.
    pub(in super::super) fn payload(&self, shape: Shape) -> u64 {
        let announced = shape == Shape::Extended && self.asked.contains(Asked::PAYLOAD_LEN);
        if announced || self.command == command::WRITE {
            return self.len;
        }
        0
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Head {
    /// The bytes that a client sends for it.
    pub(in super::super) fn encode(&self, shape: Shape) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LONGEST);
        let magic = match shape {
            Shape::Simple | Shape::Structured => REQUEST_MAGIC,
            Shape::Extended => EXTENDED_REQUEST_MAGIC,
        };
        bytes.extend(magic.to_be_bytes());
        bytes.extend(self.asked.bits().to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.at.to_be_bytes());
        match shape {
            Shape::Simple | Shape::Structured => {
                let len = u32::try_from(self.len).expect("only extended headers have 64 bits");
                bytes.extend(len.to_be_bytes());
            }
            Shape::Extended => bytes.extend(self.len.to_be_bytes()),
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for (shape, len) in [
            (Shape::Simple, u32::MAX.into()),
            (Shape::Structured, 0),
            (Shape::Extended, u64::MAX),
        ] {
            let head = Head {
                asked: Asked::from_bits_retain(0xa55a),
                command: 0x1234,
                cookie: 0x0102_0304_0506_0708,
                at: 1 << 63,
                len,
            };
            let bytes = head.encode(shape);
            assert_eq!(bytes.len(), Head::size(shape));
            assert_eq!(Head::decode(shape, &bytes), Some(head));
            assert_eq!(Head::decode(shape, &bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn each_shape_has_its_own_magic() {
        let head = Head {
            asked: Asked::empty(),
            command: command::READ,
            cookie: 0,
            at: 0,
            len: 1,
        };
        let long = head.encode(Shape::Extended);
        let mut short = head.encode(Shape::Simple);
        short.resize(LONGEST, 0);
        assert_eq!(Head::decode(Shape::Simple, &long), None);
        assert_eq!(Head::decode(Shape::Extended, &short), None);
    }

    #[test]
    fn only_writes_and_announced_payloads_carry_bytes() {
        let head = |command, asked| Head {
            asked,
            command,
            cookie: 0,
            at: 0,
            len: 512,
        };
        let none = Asked::empty();
        for shape in [Shape::Simple, Shape::Structured, Shape::Extended] {
            assert_eq!(head(command::WRITE, none).payload(shape), 512);
            assert_eq!(head(command::READ, none).payload(shape), 0);
        }
        let status = head(command::BLOCK_STATUS, Asked::PAYLOAD_LEN);
        assert_eq!(status.payload(Shape::Structured), 0);
        assert_eq!(status.payload(Shape::Extended), 512);
    }
}
