//! The buffers of the tags that one thread has with the driver.

use super::buffer::Slot;

/// The slots of a range of tags, and how many of the tags are still with the driver or will be.
///
/// The driver writes to the memory of a tag until it says that the tag is gone. A ring that is closed
/// earlier is taken down by the kernel in its own time, so memory that was not given back yet is then
/// never unmapped.
#[derive(Debug)]
pub(crate) struct Tags {
    first: u16,
    slots: Vec<Option<Slot>>,
    live: usize,
}

impl Tags {
    pub(crate) fn new(first: u16, slots: Vec<Slot>) -> Self {
        Self {
            first,
            live: slots.len(),
            slots: slots.into_iter().map(Some).collect(),
        }
    }

    /// The tags and what each is to tell the driver at the start.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (u16, u64)> {
        let slots = self.slots.iter().flatten();
        (self.first..)
            .zip(slots)
            .map(|(tag, slot)| (tag, slot.address()))
    }

    /// The slot of a tag that brought a request.
    pub(crate) fn take(&mut self, tag: u16) -> Slot {
        let slot = self.slots[usize::from(tag - self.first)].take();
        slot.expect("the driver completes a tag once for each fetch")
    }

    /// Put a slot back before its tag is committed.
    pub(crate) fn put(&mut self, tag: u16, slot: Slot) {
        self.slots[usize::from(tag - self.first)] = Some(slot);
    }

    /// One tag will not come back.
    pub(crate) fn gone(&mut self) {
        self.live = self.live.saturating_sub(1);
    }

    /// Whether a request can still come.
    pub(crate) fn any_live(&self) -> bool {
        self.live > 0
    }
}

impl Drop for Tags {
    fn drop(&mut self) {
        if self.live > 0 {
            std::mem::take(&mut self.slots).leak();
        }
    }
}
