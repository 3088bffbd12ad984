//! Stands in for requests that go through the loop together.

use std::io;

use super::incoming::Incoming;
use super::outbox::Outbox;
use super::performing::perform;
use super::{Shape, Terms};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::pages::Slot;

#[derive(Debug, Default)]
pub(super) struct Batch {
    arrivals: Vec<super::incoming::Arrival>,
    out: Outbox,
}

impl Batch {
    pub(super) fn new(_: Shape) -> Self {
        Self::default()
    }

    /// Wait for a request, and take what has come with it.
    pub(super) fn gather(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Option<End> {
        self.add(terms, incoming).err()
    }

    /// Take what has come, if anything has.
    pub(super) fn gather_here(
        &mut self,
        terms: &Terms,
        incoming: &mut Incoming<'_>,
    ) -> Option<End> {
        match incoming.look(terms) {
            Ok(false) => None,
            Ok(true) => self.add(terms, incoming).err(),
            Err(end) => Some(end),
        }
    }

    pub(super) fn serve(
        &mut self,
        terms: &Terms,
        mut send: impl FnMut(&mut Outbox, &[Slot]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut left = self.arrivals.len();
        for arrival in &self.arrivals {
            perform(terms, arrival, &mut Slot::new(), 0, &mut self.out);
            left -= 1;
            if left > 0 {
                // What follows may always take long.
                send(&mut self.out, &[])?;
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        self.arrivals.clear();
        self.out.send(link, &[])
    }

    pub(super) fn is_large(&self) -> bool {
        !self.arrivals.is_empty()
    }

    pub(super) fn holds_much(&self) -> bool {
        false
    }

    pub(super) fn give_back(&mut self) {}

    fn add(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Result<(), End> {
        loop {
            self.arrivals.push(incoming.take(terms, &mut Slot::new())?);
            if self.arrivals.len() == 2 || !incoming.is_ready(terms) {
                return Ok(());
            }
        }
    }
}
