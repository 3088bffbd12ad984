//! Stands in for what collects replies.

use std::io;

use super::Shape;
use crate::frontends::nbd::link::Link;
use crate::pages::Slot;

#[derive(Debug, Default)]
pub(super) struct Outbox(pub(super) Vec<u64>);

impl Outbox {
    pub(super) fn new(_: Shape) -> Self {
        Self::default()
    }

    pub(super) fn send(&mut self, link: &Link, _: &[Slot]) -> io::Result<()> {
        link.send(&mut self.0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pending(Vec<u64>);

impl Pending {
    const MOST: usize = 3;

    pub(super) fn add(&mut self, out: &mut Outbox, _: &[Slot]) -> bool {
        if self.0.len() == Self::MOST {
            return false;
        }
        self.0.append(&mut out.0);
        true
    }

    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        link.send(&mut self.0)
    }

    pub(super) fn send_with(
        &mut self,
        out: &mut Outbox,
        link: &Link,
        slots: &[Slot],
    ) -> io::Result<()> {
        self.send(link)?;
        out.send(link, slots)
    }
}
