//! What every conversation of one server has in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::config::Bounds;
use super::config::Dialect;
use super::tls::Tls;
use crate::disk::Exports;

/// What every conversation of one server has in common.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) bounds: Bounds,
    pub(super) dialect: Dialect,
    pub(super) tls: Tls,
    pub(super) seats: Seats,
}

/// How far a client has come, for whoever shows it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    tls: AtomicBool,
    left: AtomicBool,
    /// Held only while looked at.
    export: Mutex<Option<String>>,
}

impl Standing {
    /// The export that the client has open.
    pub(super) fn export(&self) -> Option<String> {
        self.export.lock().clone()
    }

    /// Whether the connection is encrypted.
    pub(super) fn tls(&self) -> bool {
        self.tls.load(Ordering::Acquire)
    }

    /// The conversation is over; what the client had open may not be closed yet.
    pub(super) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    pub(super) fn left(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn opened(&self, export: &str) {
        *self.export.lock() = Some(export.to_owned());
    }

    pub(super) fn encrypted(&self) {
        self.tls.store(true, Ordering::Release);
    }
}

/// Counts the clients that have an export open.
#[derive(Clone, Debug)]
pub(super) struct Seats {
    free: Arc<AtomicU32>,
}

impl Seats {
    pub(super) fn new(count: u32) -> Self {
        Self {
            free: Arc::new(AtomicU32::new(count)),
        }
    }

    /// One seat, until it is dropped; none if all are taken.
    pub(super) fn take(&self) -> Option<Seat> {
        let one_less = |free: u32| free.checked_sub(1);
        self.free
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .ok()?;
        Some(Seat(self.clone()))
    }

    /// Seats that nobody has taken.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn free(&self) -> u32 {
        self.free.load(Ordering::Acquire)
    }
}

/// The right to have an export open.
#[derive(Debug)]
pub(super) struct Seat(Seats);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_free_again_once_it_was_left() {
        let seats = Seats::new(1);
        let seat = seats.take().unwrap();
        assert!(seats.take().is_none());
        drop(seat);
        assert!(seats.take().is_some());
    }
}
