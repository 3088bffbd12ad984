//! Takes requests off the connection, as many at a time as it brings.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use pydisk_kernel::pages::Slot;

use super::Terms;
use super::admission::{Order, Refused, What, admit};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::frontends::nbd::wire::request::Head;
use crate::frontends::nbd::wire::{Failure, command};
use crate::frontends::vigil::Vigil;

/// Bytes that are asked of the connection at a time: many small requests, or the start of a large one.
const READ_AHEAD: usize = 128 << 10;

/// A payload that is too large is read and dropped up to so many times the limit; whoever sends more
/// is disconnected.
const PATIENCE: u64 = 4;

/// The reading side of a connection. Only the transmission phase reads ahead.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    link: &'a Link,
    buffer: Box<[u8]>,
    /// Where in `buffer` lies what has come and was not taken.
    here: Range<usize>,
    vigil: Vigil,
    /// Requests that were taken since there was a wait for bytes.
    taken: u32,
}

/// A request that was taken off the connection, with its payload, if it is to be served, in the slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) cookie: u64,
    /// As the client wrote it; extended replies repeat it.
    pub(super) at: u64,
    pub(super) verdict: Result<Order, Refused>,
}

impl Arrival {
    /// Bytes of data that it carries or asks for.
    pub(super) fn memory(&self) -> u64 {
        match self.verdict {
            Ok(order) if order.what.carries_data() => order.len,
            _ => 0,
        }
    }
}

impl<'a> Incoming<'a> {
    pub(super) fn new(link: &'a Link) -> Self {
        Self {
            link,
            buffer: vec![0; READ_AHEAD].into_boxed_slice(),
            here: 0..0,
            vigil: Vigil::default(),
            taken: 0,
        }
    }

    /// Whether the next request lies here to its last byte: taking it will not wait.
    pub(super) fn is_ready(&self, terms: &Terms) -> bool {
        let here = &self.buffer[self.here.clone()];
        let size = Head::size(terms.shape);
        if here.len() < size {
            return false;
        }
        // What cannot be followed ends the conversation, which does not wait either.
        Head::decode(terms.shape, here)
            .is_none_or(|head| head.payload(terms.shape) <= (here.len() - size) as u64)
    }

    /// Whether the next request has begun to come, so that taking it waits for its payload at most.
    /// Takes what the connection has brought, and waits for nothing.
    pub(super) fn look(&mut self, terms: &Terms) -> Result<bool, End> {
        let size = Head::size(terms.shape);
        if self.here.len() < size {
            self.make_room();
            match self.link.read_now(&mut self.buffer[self.here.end..])? {
                Some(0) => return Err(End::Vanished),
                came => self.here.end += came.unwrap_or(0),
            }
        }
        Ok(self.here.len() >= size)
    }

    /// Wait until the next request begins to come, but not for longer than this; whether it does.
    pub(super) fn begins_within(&mut self, terms: &Terms, time: Duration) -> Result<bool, End> {
        if self.look(terms)? {
            return Ok(true);
        }
        self.link.set_deadline(Some(Instant::now() + time))?;
        let waited = self.wait_for(Head::size(terms.shape));
        self.link.set_deadline(None)?;
        match waited {
            Err(End::Failed(error)) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            waited => waited.map(|()| true),
        }
    }

    /// Wait for the next request. Its payload goes to `slot`.
    pub(super) fn take(&mut self, terms: &Terms, slot: &mut Slot) -> Result<Arrival, End> {
        let size = Head::size(terms.shape);
        self.wait_for(size)?;
        let head = Head::decode(terms.shape, &self.buffer[self.here.clone()])
            .ok_or(End::Broken("a request does not begin as it must"))?;
        self.here.start += size;
        self.taken = self.taken.saturating_add(1);
        if head.command == command::DISC {
            return Err(End::Disconnected);
        }
        let mut verdict = admit(terms, &head);
        let payload = head.payload(terms.shape);
        if payload > 0 {
            verdict = self.payload(terms, verdict, payload, slot)?;
        }
        Ok(Arrival {
            cookie: head.cookie,
            at: head.at,
            verdict,
        })
    }

    /// Put the payload where it belongs: in the slot if it will be written, else nowhere.
    fn payload(
        &mut self,
        terms: &Terms,
        verdict: Result<Order, Refused>,
        len: u64,
        slot: &mut Slot,
    ) -> Result<Result<Order, Refused>, End> {
        if !matches!(
            verdict,
            Ok(Order {
                what: What::Write,
                ..
            })
        ) {
            self.skip(terms, len)?;
            return Ok(verdict);
        }
        let lent = usize::try_from(len)
            .ok()
            .and_then(|len| slot.lend(len).ok());
        let Some((bytes, _owner)) = lent else {
            self.skip(terms, len)?;
            return Ok(Err(Refused {
                failure: Failure::NoMem,
                why: "the server has no memory for the data",
            }));
        };
        let here = self.here.len().min(bytes.len());
        let (first, rest) = bytes.split_at_mut(here);
        first.copy_from_slice(&self.buffer[self.here.start..][..here]);
        self.here.start += here;
        self.link.read_exact(rest)?;
        Ok(verdict)
    }

    /// Drop so many bytes of payload.
    fn skip(&mut self, terms: &Terms, len: u64) -> Result<(), End> {
        if len > PATIENCE * u64::from(terms.payload) {
            return Err(End::Broken("a payload that is far too long to be skipped"));
        }
        let mut left = len;
        loop {
            let here =
                usize::try_from(left).map_or(self.here.len(), |left| left.min(self.here.len()));
            self.here.start += here;
            left -= here as u64;
            if left == 0 {
                return Ok(());
            }
            self.more()?;
        }
    }

    /// Wait until `len` bytes are here.
    fn wait_for(&mut self, len: usize) -> Result<(), End> {
        while self.here.len() < len {
            self.more()?;
        }
        Ok(())
    }

    /// Wait for more bytes.
    fn more(&mut self) -> Result<(), End> {
        self.make_room();
        let (room, link) = (&mut self.buffer[self.here.end..], self.link);
        // Where several come together, the time that it takes to be woken lets more of them come.
        let came = match std::mem::take(&mut self.taken) {
            0 | 1 => self.vigil.keep(
                room,
                |room| link.read_now(room).transpose(),
                |room| link.read(room),
            )?,
            _ => link.read(room)?,
        };
        if came == 0 {
            return Err(End::Vanished);
        }
        self.here.end += came;
        Ok(())
    }

    fn make_room(&mut self) {
        if self.here.is_empty() {
            self.here = 0..0;
        }
        if self.here.start > 0 && self.here.end == self.buffer.len() {
            self.buffer.copy_within(self.here.clone(), 0);
            self.here = 0..self.here.len();
        }
    }
}
