//! What every conversation of one server has in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bounds::Bounds;
use super::server::Registry;
use super::tls::Tls;
use crate::disk::Exports;

/// What every conversation of one server has in common.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) exports: Arc<dyn Exports>,
    pub(super) bounds: Bounds,
    pub(super) tls: Tls,
    pub(super) seats: Seats,
    /// Who is connected, for those who want to know or to end it.
    pub(super) clients: Registry,
}

impl Service {
    /// A service that nobody uses yet.
    pub(super) fn new(exports: Arc<dyn Exports>, bounds: Bounds, tls: Tls) -> Self {
        Self {
            exports,
            seats: Seats::new(bounds.clients),
            bounds,
            tls,
            clients: Registry::default(),
        }
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
