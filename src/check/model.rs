//! What is known of a disk's bytes, in the parts of it that are written to.

use std::ops::Range;

use fastrand::Rng;

/// Bytes of the disk that are kept in mind as a whole.
const WHOLE: u64 = 16 << 20;
/// Bytes of each part that is kept in mind of a larger disk.
const PART: u64 = 4 << 20;

/// What is known of a byte.
#[derive(Clone, Copy, Debug)]
struct Byte {
    value: u8,
    /// `value` is what a read must find.
    known: bool,
    /// The callback that made it so.
    by: &'static str,
}

const UNKNOWN: Byte = Byte {
    value: 0,
    known: false,
    by: "pread",
};

/// The bytes of some parts of a disk.
#[derive(Debug)]
pub(super) struct Model {
    parts: Vec<(u64, Vec<Byte>)>,
}

/// A byte that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: u64,
    pub(super) found: u8,
    pub(super) expected: u8,
    /// The callback that should have made it so.
    pub(super) by: &'static str,
}

impl Model {
    /// Of a disk of `size` bytes: all of it, or its start, its end and a part in between.
    pub(super) fn new(size: u64, unit: u64, random: &mut Rng) -> Self {
        let starts = if size <= WHOLE {
            vec![(0, size)]
        } else {
            let part = PART.next_multiple_of(unit);
            let between = random.u64(part..=size - 2 * part) / unit * unit;
            vec![(0, part), (between, part), (size - part, part)]
        };
        let parts = starts.into_iter().map(|(start, len)| {
            let len = usize::try_from(len).expect("a part is at most 16 MiB and a block");
            (start, vec![UNKNOWN; len])
        });
        Self {
            parts: parts.collect(),
        }
    }

    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let parts = self.parts.iter();
        parts
            .map(|(at, bytes)| *at..*at + bytes.len() as u64)
            .collect()
    }

    /// The bytes of a range that lies within one part.
    fn bytes(&mut self, at: u64, len: u64) -> &mut [Byte] {
        let (start, bytes) = self
            .parts
            .iter_mut()
            .find(|(start, bytes)| *start <= at && at + len <= *start + bytes.len() as u64)
            .expect("requests are made for the parts");
        let from = usize::try_from(at - *start).expect("a part is in memory");
        let len = usize::try_from(len).expect("a part is in memory");
        &mut bytes[from..from + len]
    }

    /// `by` made the bytes at `at` what they are now.
    pub(super) fn hold(&mut self, at: u64, data: &[u8], by: &'static str) {
        let bytes = self.bytes(at, data.len() as u64);
        for (byte, &value) in bytes.iter_mut().zip(data) {
            *byte = Byte {
                value,
                known: true,
                by,
            };
        }
    }

    /// `by` may have done anything to the bytes.
    pub(super) fn forget(&mut self, at: u64, len: u64, by: &'static str) {
        self.bytes(at, len).fill(Byte { by, ..UNKNOWN });
    }

    pub(super) fn forget_all(&mut self) {
        for (_, bytes) in &mut self.parts {
            bytes.fill(UNKNOWN);
        }
    }

    /// Compare with what was read, and learn what was not known. The first byte that is wrong, after
    /// which all are taken as they are.
    pub(super) fn compare(&mut self, at: u64, found: &[u8]) -> Option<Wrong> {
        let mut wrong = None;
        let bytes = self.bytes(at, found.len() as u64);
        for (index, (byte, &value)) in bytes.iter_mut().zip(found).enumerate() {
            if byte.known && byte.value != value {
                wrong.get_or_insert(Wrong {
                    at: at + index as u64,
                    found: value,
                    expected: byte.value,
                    by: byte.by,
                });
            }
            byte.value = value;
            byte.known = true;
        }
        wrong
    }
}
