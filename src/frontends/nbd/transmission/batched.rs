//! The loop for a disk that one thread calls at a time: take all requests that have come, have them
//! served in one batch, send all replies in one call.

use std::time::{Duration, Instant};

use pydisk_kernel::pages::Slot;

use super::Terms;
use super::incoming::{Arrival, Incoming};
use super::outbox::Outbox;
use super::performing::perform;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;

/// Requests in a batch.
const REQUESTS: usize = 32;
/// Bytes in a batch, not counting its last request.
const BYTES: u64 = 1 << 20;
/// The replies that are there are sent after so long, although the batch is not done.
const PATIENCE: Duration = Duration::from_micros(500);
/// A slot that lent more takes new memory the next time, so that a client that once sent large
/// requests does not keep memory for all of them.
const KEPT: usize = 256 << 10;
/// The same for the first slot, which most large requests go through.
const KEPT_BY_FIRST: usize = 4 << 20;

/// Requests on their way through the loop.
struct Batch {
    arrivals: Vec<Arrival>,
    /// The memory of each.
    slots: Vec<Slot>,
    out: Outbox,
}

/// Serve requests until there are no more.
pub(super) fn run(terms: &Terms, link: &Link) -> End {
    let mut incoming = Incoming::new(link);
    let mut batch = Batch {
        arrivals: Vec::with_capacity(REQUESTS),
        slots: Vec::with_capacity(REQUESTS),
        out: Outbox::new(terms.shape),
    };
    loop {
        let end = batch.gather(terms, &mut incoming);
        if let Err(error) = batch.serve(terms, link) {
            link.close();
            return error.into();
        }
        if let Some(end) = end {
            return end;
        }
    }
}

impl Batch {
    /// Wait for a request and take what has come with it.
    fn gather(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Option<End> {
        self.arrivals.clear();
        let mut bytes = 0;
        while self.arrivals.is_empty()
            || self.arrivals.len() < REQUESTS && bytes < BYTES && incoming.is_ready(terms)
        {
            let index = self.arrivals.len();
            if index == self.slots.len() {
                self.slots.push(Slot::new());
            }
            match incoming.take(terms, &mut self.slots[index]) {
                Ok(arrival) => {
                    bytes += arrival.memory();
                    self.arrivals.push(arrival);
                }
                Err(end) => return Some(end),
            }
        }
        None
    }

    fn serve(&mut self, terms: &Terms, link: &Link) -> std::io::Result<()> {
        let Self {
            arrivals,
            slots,
            out,
        } = self;
        let mut done = 0;
        while done < arrivals.len() {
            terms.disk.batch(&mut || {
                let start = Instant::now();
                while done < arrivals.len() {
                    perform(terms, &arrivals[done], &mut slots[done], done, out);
                    done += 1;
                    if start.elapsed() > PATIENCE {
                        break;
                    }
                }
            });
            out.send(link, slots)?;
        }
        for (index, slot) in slots.iter_mut().enumerate() {
            let kept = if index == 0 { KEPT_BY_FIRST } else { KEPT };
            if slot.lent().len() > kept {
                *slot = Slot::new();
            }
        }
        Ok(())
    }
}
