//! Has the disk serve a request and puts the reply into the outbox.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pydisk_kernel::pages::Slot;

use super::Terms;
use super::admission::{Order, Refused, What, failure};
use super::incoming::Arrival;
use super::outbox::{Outbox, Piece};
use crate::disk::{Errno, ExtentKind, Extents, Op, Request};
use crate::frontends::nbd::wire::{Failure, Shape};
use crate::frontends::{answer, answer_extents};

/// Reads of so many bytes ask for holes first.
const WORTH_ASKING: u64 = 64 << 10;
/// Holes are told in multiples of this, or of the disk's own blocks where they are larger.
const HOLE: u32 = 4096;
/// No more extents are told in one reply; the client asks again from there.
const MOST_EXTENTS: usize = 64 << 10;
/// The longest extent that 32 bits can tell, in whole blocks of any size.
const LONGEST_SHORT: u64 = u32::MAX as u64 & !0xffff;

/// Serve what has arrived. `slot` is the one with this `index`, and has the payload of a write.
pub(super) fn perform(
    terms: &Terms,
    arrival: &Arrival,
    slot: &mut Slot,
    index: usize,
    out: &mut Outbox,
) {
    let order = match arrival.verdict {
        Ok(order) => order,
        Err(refused) => return out.failure(arrival, refused),
    };
    if terms
        .client
        .as_ref()
        .is_some_and(|client| client.is_leaving())
    {
        let failure = Failure::Shutdown;
        let why = "the disk has asked this client to leave";
        return out.failure(arrival, Refused { failure, why });
    }
    let served = catch_unwind(AssertUnwindSafe(|| serve(terms, &order, slot)));
    let served = served.unwrap_or_else(|_panic| {
        log::error!("NBD: a panic around a request, which is answered with EIO");
        Err(failure(Errno::IO, &order))
    });
    match served {
        Ok(Served::Done) => out.success(arrival),
        Ok(Served::Read(pieces)) => out.read(arrival, index, pieces.as_slice()),
        Ok(Served::Status(found, first_only)) => {
            told(terms, &order, first_only, &found, arrival, out);
        }
        Err(refused) => out.failure(arrival, refused),
    }
}

/// What is answered to a request that has succeeded.
enum Served {
    Done,
    Read(Pieces),
    /// The extents, of which the client may want only the first.
    Status(Extents, bool),
}

fn serve(terms: &Terms, order: &Order, slot: &mut Slot) -> Result<Served, Refused> {
    let op = match order.what {
        What::Read { whole } => return read(terms, order, whole, slot).map(Served::Read),
        What::Status { first_only } => {
            let found = status(terms, order, first_only)?;
            return Ok(Served::Status(found, first_only));
        }
        What::Write => return write(terms, order, slot).map(|()| Served::Done),
        What::Zero => Op::Zero(order.len),
        What::Trim => Op::Trim(order.len),
        What::Cache => Op::Cache(order.len),
        What::Flush => Op::Flush,
    };
    change(terms, order, op).map(|()| Served::Done)
}

fn change(terms: &Terms, order: &Order, op: Op<'_>) -> Result<(), Refused> {
    let request = Request {
        op,
        at: order.at,
        flags: order.flags,
        owner: None,
        cancel: Some(&terms.cancel),
    };
    answer(&*terms.disk, request).map_err(|errno| failure(errno, order))
}

fn write(terms: &Terms, order: &Order, slot: &Slot) -> Result<(), Refused> {
    let request = Request {
        op: Op::Write(slot.lent()),
        at: order.at,
        flags: order.flags,
        owner: slot.owner(),
        cancel: Some(&terms.cancel),
    };
    answer(&*terms.disk, request).map_err(|errno| failure(errno, order))
}

/// The pieces of a read; most have one.
enum Pieces {
    One([Piece; 1]),
    Several(Vec<Piece>),
}

impl Pieces {
    fn as_slice(&self) -> &[Piece] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

/// Fill the slot with everything but the holes.
fn read(terms: &Terms, order: &Order, whole: bool, slot: &mut Slot) -> Result<Pieces, Refused> {
    let limits = terms.disk.limits();
    let asks =
        terms.shape >= Shape::Structured && !whole && limits.extents && order.len >= WORTH_ASKING;
    let len = usize::try_from(order.len).expect("not longer than a payload may be");
    let mut pieces = Pieces::One([Piece {
        range: 0..len,
        hole: false,
    }]);
    if asks && let Some(several) = holes(terms, order) {
        pieces = Pieces::Several(several);
    }
    let (bytes, owner) = slot.lend(len).map_err(|errno| failure(errno, order))?;
    for piece in pieces.as_slice() {
        if piece.hole {
            continue;
        }
        let request = Request {
            op: Op::Read(&mut bytes[piece.range.clone()]),
            at: order.at + piece.range.start as u64,
            flags: order.flags,
            owner: Some(owner),
            cancel: Some(&terms.cancel),
        };
        answer(&*terms.disk, request).map_err(|errno| failure(errno, order))?;
    }
    Ok(pieces)
}

/// The pieces of a read that has holes in it; none if it has none, or if the disk does not tell.
fn holes(terms: &Terms, order: &Order) -> Option<Vec<Piece>> {
    let range = order.at..order.at + order.len;
    let mut found = Extents::starting_at(range.start).with_cancel(Some(&terms.cancel));
    answer_extents(&*terms.disk, range.clone(), &mut found).ok()?;
    let granule = u64::from(terms.disk.limits().block.minimum.max(HOLE));
    let mut pieces = Vec::new();
    let mut done = range.start;
    for extent in found.list() {
        if !extent.kind.contains(ExtentKind::ZERO) {
            continue;
        }
        let end = extent.at.saturating_add(extent.len).min(range.end);
        // The ends of the read are as good as those of a block: the read as a whole has them.
        let start = match extent.at <= range.start {
            true => range.start,
            false => extent.at.next_multiple_of(granule),
        };
        let end = if end == range.end {
            end
        } else {
            end - end % granule
        };
        if start >= end {
            continue;
        }
        push(&mut pieces, &range, done..start, false);
        push(&mut pieces, &range, start..end, true);
        done = end;
    }
    if pieces.is_empty() {
        return None;
    }
    push(&mut pieces, &range, done..range.end, false);
    Some(pieces)
}

fn push(pieces: &mut Vec<Piece>, within: &Range<u64>, range: Range<u64>, hole: bool) {
    if range.is_empty() {
        return;
    }
    let relative = |at: u64| usize::try_from(at - within.start).expect("inside a payload");
    pieces.push(Piece {
        range: relative(range.start)..relative(range.end),
        hole,
    });
}

fn status(terms: &Terms, order: &Order, first_only: bool) -> Result<Extents, Refused> {
    let range = order.at..order.at + order.len;
    let mut found = Extents::starting_at(range.start).with_cancel(Some(&terms.cancel));
    if first_only {
        found = found.first_only();
    }
    if !terms.disk.limits().extents {
        found.push(order.len, ExtentKind::DATA);
        return Ok(found);
    }
    answer_extents(&*terms.disk, range, &mut found).map_err(|errno| failure(errno, order))?;
    if found.end() <= order.at {
        return Err(failure(Errno::IO, order));
    }
    Ok(found)
}

/// Tell what was found: only the first if the client wants so, and no more than was asked then.
fn told(
    terms: &Terms,
    order: &Order,
    first_only: bool,
    found: &Extents,
    arrival: &Arrival,
    out: &mut Outbox,
) {
    let longest = match terms.shape {
        Shape::Extended => u64::MAX,
        Shape::Simple | Shape::Structured => LONGEST_SHORT,
    };
    let list = found.list();
    let mut count = match first_only {
        true => 1,
        false => list.len().min(MOST_EXTENTS),
    };
    // What follows an extent that was cut would be told as if it lay at the cut.
    if let Some(cut) = list[..count].iter().position(|extent| extent.len > longest) {
        count = cut + 1;
    }
    let asked = if first_only { order.len } else { u64::MAX };
    let words = list[..count]
        .iter()
        .map(|extent| (extent.len.min(longest).min(asked), extent.kind.bits()));
    let count = u32::try_from(count).expect("at most `MOST_EXTENTS`");
    out.status(arrival, count, words);
}
