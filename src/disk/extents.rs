//! Which parts of a disk are allocated: an ordered list without gaps.

use super::{Cancel, Result, go_on};

bitflags::bitflags! {
    /// What is known of a range. Nothing set means allocated data. The values are NBD's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ExtentKind: u32 {
        /// Takes no space.
        const HOLE = 1;
        /// Reads as zeroes.
        const ZERO = 2;
    }
}

impl ExtentKind {
    /// Allocated, content unknown.
    pub const DATA: Self = Self::empty();
}

/// A range of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub at: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// What is known of them.
    pub kind: ExtentKind,
}

/// Collects consecutive extents; neighbours of one kind become one.
#[derive(Clone, Debug)]
pub struct Extents {
    list: Vec<Extent>,
    next: u64,
    first_only: bool,
    cancel: Option<Cancel>,
}

impl Extents {
    /// An empty list whose first extent will start at byte `at`.
    #[must_use]
    pub fn starting_at(at: u64) -> Self {
        Self {
            list: Vec::new(),
            next: at,
            first_only: false,
            cancel: None,
        }
    }

    /// Whoever asks wants to know about the first extent only; a disk that finds it cheaper stops
    /// there. More is no mistake.
    #[must_use]
    pub fn first_only(self) -> Self {
        Self {
            first_only: true,
            ..self
        }
    }

    /// Whoever asks waits until `cancel` says otherwise.
    #[must_use]
    pub fn with_cancel(self, cancel: Option<&Cancel>) -> Self {
        Self {
            cancel: cancel.cloned(),
            ..self
        }
    }

    /// Tells whether somebody still waits for this; without it somebody does.
    #[must_use]
    pub fn cancel(&self) -> Option<&Cancel> {
        self.cancel.as_ref()
    }

    /// Between two steps: is the next one still wanted?
    ///
    /// # Errors
    /// As [`go_on`].
    pub fn go_on(&self) -> Result {
        go_on(self.cancel())
    }

    /// See [`Extents::first_only`].
    #[must_use]
    pub fn is_first_only(&self) -> bool {
        self.first_only
    }

    /// Add `len` bytes of `kind` after what is there. A length past `u64::MAX` saturates, and is
    /// then past the end of every disk.
    pub fn push(&mut self, len: u64, kind: ExtentKind) {
        if len == 0 {
            return;
        }
        match self.list.last_mut() {
            Some(last) if last.kind == kind => last.len = last.len.saturating_add(len),
            _ => self.list.push(Extent {
                at: self.next,
                len,
                kind,
            }),
        }
        self.next = self.next.saturating_add(len);
    }

    /// The extents so far, ascending and without gaps.
    #[must_use]
    pub fn list(&self) -> &[Extent] {
        &self.list
    }

    /// The first byte that is not described yet.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_become_one_extent() {
        let mut found = Extents::starting_at(512);
        found.push(512, ExtentKind::DATA);
        found.push(0, ExtentKind::HOLE);
        found.push(512, ExtentKind::DATA);
        found.push(1024, ExtentKind::HOLE | ExtentKind::ZERO);
        assert_eq!(
            found.list(),
            [
                Extent {
                    at: 512,
                    len: 1024,
                    kind: ExtentKind::DATA
                },
                Extent {
                    at: 1536,
                    len: 1024,
                    kind: ExtentKind::HOLE | ExtentKind::ZERO
                },
            ]
        );
        assert_eq!(found.end(), 2560);
    }
}
