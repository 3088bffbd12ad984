//! The loop for a disk that several threads may call: the lane whose [turn](Turns) it is takes the
//! next request, gives the turn up, serves the request and sends its reply. No request changes
//! threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pydisk_kernel::pages::Slot;
use pydisk_kernel::threads;

use super::Terms;
use super::incoming::{Arrival, Incoming};
use super::outbox::{Outbox, Pending};
use super::performing::perform;
use super::turns::Turns;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::sync::thread::{self, Scope};
use crate::sync::{AtomicU16, Instant, Mutex};

/// A lane that lent more takes new memory for its next request.
const KEPT: usize = 1 << 20;
/// A request that takes longer than it takes to wake another lane many times.
const SLOW: Duration = Duration::from_micros(500);

/// What the lanes of one connection share.
struct Shared<'a> {
    terms: &'a Terms,
    link: &'a Link,
    turns: Turns,
    /// Held by the lane whose turn it is, so nobody ever waits for it. Taken before `writing`.
    incoming: Mutex<Incoming<'a>>,
    /// Lanes that were started.
    started: AtomicU16,
    /// Replies that wait for more. Held while they are sent, which waits for the client.
    writing: Mutex<Pending>,
    /// Why it is over, once it is; held only while looked at, also by who holds `incoming`.
    end: Mutex<Option<End>>,
}

/// Serve requests until there are no more.
pub(super) fn run(terms: &Terms, link: &Link) -> End {
    let shared = Shared {
        terms,
        link,
        turns: Turns::default(),
        incoming: Mutex::new(Incoming::new(link)),
        started: AtomicU16::new(1),
        writing: Mutex::default(),
        end: Mutex::new(None),
    };
    thread::scope(|scope| shared.lane(scope));
    let end = shared.end.into_inner();
    end.expect("a lane that ends says why, or another one has")
}

/// A lane: its memory, and what it owes.
struct Lane {
    slot: Slot,
    out: Outbox,
    /// The request that it served last was slow.
    slow: bool,
    /// Its last reply waits for the next one. It goes out at the latest when this lane has to wait
    /// itself, or somebody else gets the turn, who does if this lane is stuck.
    owes: bool,
}

/// A request that a lane has taken.
struct Taken {
    arrival: Arrival,
    /// Another one lies there already, and somebody watches.
    more: bool,
}

impl Shared<'_> {
    fn lane<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            self.terms.disk.lane(&mut || self.live(scope));
        }));
        if lived.is_err() {
            // What it had taken is not answered any more, and the turn may have been its.
            self.link.close();
            self.over(End::Panicked);
        }
    }

    fn live<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let mut lane = Lane {
            slot: Slot::new(),
            out: Outbox::new(self.terms.shape),
            slow: false,
            owes: false,
        };
        let served = self.serve(scope, &mut lane);
        let sent = served.and_then(|()| self.send(&mut lane));
        if let Err(error) = sent {
            self.link.close();
            self.over(error.into());
        }
    }

    fn serve<'s>(&'s self, scope: &'s Scope<'s, '_>, lane: &mut Lane) -> io::Result<()> {
        while let Some(taken) = self.take(scope, lane)? {
            let Lane { slot, out, .. } = lane;
            let start = Instant::now();
            perform(self.terms, &taken.arrival, slot, 0, out);
            lane.slow = start.elapsed() > SLOW;
            let mut pending = self.writing.lock();
            let slots = slice::from_ref(&*slot);
            lane.owes = taken.more && !lane.slow && pending.add(out, slots);
            if !lane.owes {
                pending.send_with(out, self.link, slots)?;
            }
            drop(pending);
            if slot.lent().len() > KEPT {
                *slot = Slot::new();
            }
        }
        Ok(())
    }

    /// Send the replies that wait, this lane's and those of others.
    fn send(&self, lane: &mut Lane) -> io::Result<()> {
        lane.owes = false;
        self.writing.lock().send(self.link)
    }

    /// Wait for the turn, and then for a request; none when it is over.
    fn take<'s>(&'s self, scope: &'s Scope<'s, '_>, lane: &mut Lane) -> io::Result<Option<Taken>> {
        if !self.turns.begin(lane.slow) {
            if lane.owes {
                self.send(lane)?;
            }
            if !self.turns.wait() {
                return Ok(None);
            }
        }
        let mut incoming = self.incoming.lock();
        if !lane.owes || !incoming.is_ready(self.terms) {
            self.send(lane)?;
        }
        let taken = incoming.take(self.terms, &mut lane.slot);
        let ready = incoming.is_ready(self.terms);
        drop(incoming);
        let arrival = match taken {
            Ok(arrival) => arrival,
            Err(end) => {
                // It still has the turn: nobody reads what follows.
                self.over(end);
                return Ok(None);
            }
        };
        let after = self.turns.pass();
        if after.alone {
            self.start_another(scope);
            if lane.owes {
                self.send(lane)?;
            }
        }
        Ok(Some(Taken {
            arrival,
            more: ready && after.quick && !after.alone,
        }))
    }

    /// Start a lane that waits for its turn, if there may be one more.
    fn start_another<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let one_more = |started| (started < self.terms.lanes).then_some(started + 1);
        let counted = self
            .started
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        if counted.is_err() {
            return;
        }
        let thread = threads::deep("nbd-lane");
        if let Err(error) = thread.spawn_scoped(scope, || self.lane(scope)) {
            // There is one lane at least, and it tries again with the next request.
            self.started.fetch_sub(1, Ordering::AcqRel);
            log::warn!("a thread for more requests: {error}");
        }
    }

    /// The first reason is the one.
    fn over(&self, end: End) {
        self.end.lock().get_or_insert(end);
        self.turns.end();
    }
}
