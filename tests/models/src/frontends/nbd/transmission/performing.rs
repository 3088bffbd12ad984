//! Stands in for what has the disk serve requests.

use super::incoming::Arrival;
use super::outbox::Outbox;
use super::{Terms, kind};
use crate::pages::Slot;

pub(super) fn perform(terms: &Terms, arrival: &Arrival, _: &mut Slot, _: usize, out: &mut Outbox) {
    terms.disk.serve(arrival.0);
    out.0.push(arrival.0 % kind::SLOW);
}
