//! Stands in for the reading side.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Terms, kind};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::pages::Slot;

#[derive(Debug)]
pub(super) struct Incoming<'a> {
    link: &'a Link,
    here: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival(pub(super) u64);

impl<'a> Incoming<'a> {
    pub(super) fn new(link: &'a Link) -> Self {
        Self {
            link,
            here: VecDeque::new(),
        }
    }

    pub(super) fn is_ready(&self, _: &Terms) -> bool {
        !self.here.is_empty()
    }

    pub(super) fn begins_within(&mut self, _: &Terms, _: Duration) -> Result<bool, End> {
        unreachable!("there is no memory to be given back")
    }

    /// Whether something has begun to come.
    pub(super) fn look(&mut self, _: &Terms) -> Result<bool, End> {
        if self.here.is_empty() {
            self.here.extend(self.link.read(false)?);
        }
        Ok(!self.here.is_empty() || self.link.has_begun())
    }

    pub(super) fn take(&mut self, _: &Terms, _: &mut Slot) -> Result<Arrival, End> {
        if self.here.is_empty() {
            self.here.extend(self.link.read(true)?);
        }
        let first = self.here.pop_front();
        match first.expect("the link waits for it") {
            kind::GOODBYE => Err(End::Disconnected),
            request => Ok(Arrival(request)),
        }
    }
}
