//! Requests that are taken, served and answered together.

use std::io;
use std::time::{Duration, Instant};

use pydisk_kernel::pages::Slot;

use super::Terms;
use super::incoming::{Arrival, Incoming};
use super::outbox::Outbox;
use super::performing::perform;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::frontends::nbd::wire::Shape;

/// Requests in a batch.
const REQUESTS: usize = 32;
/// Bytes in a batch, not counting its last request: memory for more would have left the processor's
/// caches when it is sent.
const BYTES: u64 = 128 << 10;
/// A request of so many bytes makes a batch a large one.
const LARGE: u64 = 64 << 10;
/// The replies that are there are sent after so long, although the batch is not done.
const PATIENCE: Duration = Duration::from_micros(500);
/// A slot that lent more takes new memory the next time, so that a client that once sent large
/// requests does not keep memory for all of them.
const KEPT: usize = 128 << 10;
/// The same for the first slot, which most large requests go through.
const KEPT_BY_FIRST: usize = 4 << 20;

/// Requests on their way through the loop.
#[derive(Debug)]
pub(super) struct Batch {
    arrivals: Vec<Arrival>,
    /// The memory of each.
    slots: Vec<Slot>,
    out: Outbox,
}

impl Batch {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            arrivals: Vec::with_capacity(REQUESTS),
            slots: Vec::with_capacity(REQUESTS),
            out: Outbox::new(shape),
        }
    }

    /// Whether it takes longer to carry the data than to have another thread do it.
    pub(super) fn is_large(&self) -> bool {
        self.arrivals
            .iter()
            .any(|arrival| arrival.memory() >= LARGE)
    }

    /// Wait for a request, and take what has come with it.
    pub(super) fn gather(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Option<End> {
        self.clear();
        self.add(terms, incoming)
            .and_then(|()| self.gather_ready(terms, incoming))
            .err()
    }

    /// Take what has come, if anything has.
    pub(super) fn gather_here(
        &mut self,
        terms: &Terms,
        incoming: &mut Incoming<'_>,
    ) -> Option<End> {
        self.clear();
        match incoming.look(terms) {
            Ok(false) => None,
            Ok(true) => self
                .add(terms, incoming)
                .and_then(|()| self.gather_ready(terms, incoming))
                .err(),
            Err(end) => Some(end),
        }
    }

    fn gather_ready(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Result<(), End> {
        let mut bytes = self.arrivals[0].memory();
        while self.arrivals.len() < REQUESTS && bytes < BYTES && incoming.is_ready(terms) {
            self.add(terms, incoming)?;
            bytes += self.arrivals.last().map_or(0, Arrival::memory);
        }
        Ok(())
    }

    fn add(&mut self, terms: &Terms, incoming: &mut Incoming<'_>) -> Result<(), End> {
        let index = self.arrivals.len();
        if index == self.slots.len() {
            self.slots.push(Slot::new());
        }
        let arrival = incoming.take(terms, &mut self.slots[index])?;
        self.arrivals.push(arrival);
        Ok(())
    }

    /// Have all of it served. The replies are there then, but for those which `send` was given in
    /// between, because the rest takes long.
    pub(super) fn serve(
        &mut self,
        terms: &Terms,
        mut send: impl FnMut(&mut Outbox, &[Slot]) -> io::Result<()>,
    ) -> io::Result<()> {
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
            if done < arrivals.len() {
                send(out, slots)?;
            }
        }
        Ok(())
    }

    /// Send the replies that are there, and be empty.
    pub(super) fn send(&mut self, link: &Link) -> io::Result<()> {
        self.out.send(link, &self.slots)?;
        self.clear();
        Ok(())
    }

    /// Whether it holds memory for large requests.
    pub(super) fn holds_much(&self) -> bool {
        self.slots.iter().any(|slot| slot.size() > KEPT)
    }

    /// Hold no memory for requests any more. It is empty.
    pub(super) fn give_back(&mut self) {
        self.slots.clear();
    }

    fn clear(&mut self) {
        self.arrivals.clear();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let kept = if index == 0 { KEPT_BY_FIRST } else { KEPT };
            if slot.lent().len() > kept {
                *slot = Slot::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::frontends::nbd::wire::request::Head;
    use crate::frontends::nbd::wire::{Asked, command};

    #[test]
    fn what_comes_together_is_served_together_up_to_a_limit() {
        let (server, mut client) = UnixStream::pair().unwrap();
        let link = Link::new(server.into());
        let terms = Terms::of(&link);
        let mut incoming = Incoming::new(&link);
        let mut batch = Batch::new(terms.shape);
        let said: Vec<u8> = (0..REQUESTS as u64 + 2)
            .flat_map(|cookie| {
                let head = Head {
                    asked: Asked::empty(),
                    command: command::READ,
                    cookie,
                    at: 0,
                    len: 512,
                };
                head.encode(terms.shape)
            })
            .collect();
        client.write_all(&said).unwrap();
        for expected in [REQUESTS, 2] {
            assert!(batch.gather(&terms, &mut incoming).is_none());
            assert_eq!(batch.arrivals.len(), expected);
        }
    }
}
