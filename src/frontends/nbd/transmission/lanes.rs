//! The loop for a disk that several threads may call: whoever holds the reading side takes the next
//! request, lets go of that side, serves the request and sends its reply. No request changes threads.

use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::{self, Scope};

use parking_lot::Mutex;
use pydisk_kernel::pages::Slot;

use super::Terms;
use super::incoming::{Arrival, Incoming};
use super::outbox::Outbox;
use super::performing::perform;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;

/// A lane that lent more takes new memory for its next request.
const KEPT: usize = 1 << 20;

/// What the lanes of one connection share.
struct Shared<'a> {
    terms: &'a Terms,
    link: &'a Link,
    /// Held while a request is taken, which waits for the client.
    incoming: Mutex<Incoming<'a>>,
    /// Lanes that wait for the reading side.
    idle: AtomicU16,
    /// Lanes that were started.
    started: AtomicU16,
    /// Held while a reply is sent, which waits for the client; never together with `incoming`.
    writing: Mutex<()>,
    /// Why it is over, once it is; held only while looked at, also by who holds `incoming`.
    end: Mutex<Option<End>>,
}

/// Serve requests until there are no more.
pub(super) fn run(terms: &Terms, link: &Link) -> End {
    let shared = Shared {
        terms,
        link,
        incoming: Mutex::new(Incoming::new(link)),
        idle: AtomicU16::new(0),
        started: AtomicU16::new(1),
        writing: Mutex::new(()),
        end: Mutex::new(None),
    };
    thread::scope(|scope| shared.lane(scope));
    let end = shared.end.into_inner();
    end.expect("a lane that ends says why, or another one has")
}

impl Shared<'_> {
    fn lane<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        self.terms.disk.lane(&mut || self.serve(scope));
    }

    fn serve<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        let mut slot = Slot::new();
        let mut out = Outbox::new(self.terms.shape);
        while let Some(arrival) = self.take(scope, &mut slot) {
            perform(self.terms, &arrival, &mut slot, 0, &mut out);
            let sent = {
                let _alone = self.writing.lock();
                out.send(self.link, slice::from_ref(&slot))
            };
            if let Err(error) = sent {
                self.link.close();
                return self.over(error.into());
            }
            if slot.lent().len() > KEPT {
                slot = Slot::new();
            }
        }
    }

    /// Wait for the reading side, and there for a request; none when it is over.
    fn take<'s>(&'s self, scope: &'s Scope<'s, '_>, slot: &mut Slot) -> Option<Arrival> {
        self.idle.fetch_add(1, Ordering::AcqRel);
        let mut incoming = self.incoming.lock();
        self.idle.fetch_sub(1, Ordering::AcqRel);
        if self.end.lock().is_some() {
            return None;
        }
        match incoming.take(self.terms, slot) {
            Ok(arrival) => {
                drop(incoming);
                self.call_another(scope);
                Some(arrival)
            }
            Err(end) => {
                // Still with the reading side: nobody reads what follows.
                self.over(end);
                None
            }
        }
    }

    /// Start a lane for the requests that come meanwhile, if nobody waits for them.
    fn call_another<'s>(&'s self, scope: &'s Scope<'s, '_>) {
        if self.idle.load(Ordering::Acquire) > 0 {
            return;
        }
        let one_more = |started| (started < self.terms.lanes).then_some(started + 1);
        let counted = self
            .started
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        if counted.is_err() {
            return;
        }
        let thread = thread::Builder::new().name("nbd-lane".into());
        if let Err(error) = thread.spawn_scoped(scope, || self.lane(scope)) {
            // There is one lane at least, and it tries again with the next request.
            self.started.fetch_sub(1, Ordering::AcqRel);
            log::warn!("a thread for more requests: {error}");
        }
    }

    /// The first reason is the one.
    fn over(&self, end: End) {
        self.end.lock().get_or_insert(end);
    }
}
