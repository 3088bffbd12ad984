//! Sparse memory in pages: what is not there reads as zeroes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{ExtentKind, Extents};

/// Bytes in a page, as a length in memory and as a distance on the disk.
const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

type Page = Arc<[u8; PAGE]>;

/// The pages of a disk, by number. A copy shares them until one side changes a page.
#[derive(Clone, Default)]
pub(super) struct Pages {
    present: BTreeMap<u64, Page>,
    changed: BTreeSet<u64>,
}

impl Pages {
    pub(super) fn read(&self, at: u64, buf: &mut [u8]) {
        let mut rest = buf;
        for (number, part) in parts(at, rest.len()) {
            let (head, tail) = rest.split_at_mut(part.len());
            match self.present.get(&number) {
                Some(page) => head.copy_from_slice(&page[part]),
                None => head.fill(0),
            }
            rest = tail;
        }
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let mut rest = data;
        for (number, part) in parts(at, data.len()) {
            let (head, tail) = rest.split_at(part.len());
            let page = self
                .present
                .entry(number)
                .or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[part].copy_from_slice(head);
            self.changed.insert(number);
            rest = tail;
        }
    }

    /// Overwrite with `byte` whatever of `range` is present.
    pub(super) fn fill(&mut self, range: &Range<u64>, byte: u8) {
        for (&number, page) in self.present.range_mut(touched(range)) {
            Arc::make_mut(page)[inside(range, number)].fill(byte);
            self.changed.insert(number);
        }
    }

    /// Give back the pages that lie in `range` as a whole.
    pub(super) fn drop_whole(&mut self, range: &Range<u64>) {
        let whole = range.start.div_ceil(PAGE_BYTES)..range.end / PAGE_BYTES;
        if whole.is_empty() {
            return;
        }
        let numbers: Vec<u64> = self
            .present
            .range(whole)
            .map(|(&number, _)| number)
            .collect();
        for number in numbers {
            self.present.remove(&number);
            self.changed.insert(number);
        }
    }

    /// Take over what changed in `from` since the last time.
    pub(super) fn settle(&mut self, from: &mut Pages) {
        for number in std::mem::take(&mut from.changed) {
            match from.present.get(&number) {
                Some(page) => self.present.insert(number, Arc::clone(page)),
                None => self.present.remove(&number),
            };
        }
        self.changed.clear();
    }

    /// Nothing has changed yet, seen from here on.
    pub(super) fn settled(mut self) -> Self {
        self.changed.clear();
        self
    }

    pub(super) fn extents(&self, range: &Range<u64>, found: &mut Extents) {
        let hole = ExtentKind::HOLE | ExtentKind::ZERO;
        let mut next = range.start;
        for (&number, _) in self.present.range(touched(range)) {
            let start = (number * PAGE_BYTES).max(range.start);
            let end = ((number + 1) * PAGE_BYTES).min(range.end);
            found.push(start - next, hole);
            found.push(end - start, ExtentKind::DATA);
            next = end;
        }
        found.push(range.end - next, hole);
    }
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pages", self.present.len())
    }
}

/// The pages that `range` touches.
fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

/// The part of page `number` that lies in `range`, which touches it.
fn inside(range: &Range<u64>, number: u64) -> Range<usize> {
    let within = |at: u64| {
        let distance = at.saturating_sub(number * PAGE_BYTES);
        usize::try_from(distance).map_or(PAGE, |distance| distance.min(PAGE))
    };
    within(range.start)..within(range.end)
}

/// The pages of `at` and the `len` bytes from there, each with its part.
fn parts(at: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let range = at..at + len as u64;
    touched(&range).map(move |number| (number, inside(&range, number)))
}
