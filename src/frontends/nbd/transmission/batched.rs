//! The loop for a disk that one thread calls at a time: take all requests that have come, have them
//! served in one batch, send all replies in one call.
//!
//! The disk is called by the connection's own thread only, as nbdkit does it, since some of what a
//! plugin opens may be used by the thread that opened it and by no other. Where data is large, a
//! second thread [aside](super::aside) carries it meanwhile: it sends the replies of the batch before
//! and takes the batch after.

use std::io;
use std::mem;
use std::time::Duration;

use pydisk_kernel::pages::Slot;

use super::Terms;
use super::aside::{Aside, Errand};
use super::batch::Batch;
use super::incoming::Incoming;
use super::outbox::Outbox;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::frontends::vigil::Vigil;
use crate::sync::thread::{self, Scope};

/// A client that says nothing for so long may say nothing for hours.
const QUIET: Duration = Duration::from_secs(1);

/// Serve requests until there are no more.
pub(super) fn run(terms: &Terms, link: &Link) -> End {
    let aside = Aside::new(terms, link);
    thread::scope(|scope| {
        let _leave = aside.until_dropped();
        let mut conversation = Conversation {
            terms,
            link,
            aside: &aside,
            vigil: Vigil::default(),
        };
        conversation.hold(scope).unwrap_or_else(|error| {
            link.close();
            error.into()
        })
    })
}

struct Conversation<'s, 'a> {
    terms: &'a Terms,
    link: &'a Link,
    aside: &'s Aside<'a>,
    /// Over the thread aside.
    vigil: Vigil,
}

impl<'s, 'a> Conversation<'s, 'a> {
    fn hold(&mut self, scope: &'s Scope<'s, '_>) -> io::Result<End> {
        let empty = || Batch::new(self.terms.shape);
        let mut batch = empty();
        let mut errand = Box::new(Errand {
            before: empty(),
            incoming: Incoming::new(self.link),
            next: empty(),
        });
        loop {
            if let Err(end) = self.rest(&mut batch, &mut errand) {
                return Ok(end);
            }
            let mut end = batch.gather(self.terms, &mut errand.incoming);
            if end.is_none() && batch.is_large() {
                (batch, errand, end) = self.serve_large(scope, batch, errand)?;
            }
            let send = |out: &mut Outbox, slots: &[Slot]| out.send(self.link, slots);
            batch.serve(self.terms, send)?;
            batch.send(self.link)?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Wait for the next request, and hold no memory for large ones meanwhile if it does not come soon.
    fn rest(&self, batch: &mut Batch, errand: &mut Errand<'a>) -> Result<(), End> {
        let Errand {
            before,
            incoming,
            next,
        } = errand;
        let mut batches = [batch, before, next];
        if !batches.iter().any(|batch| batch.holds_much())
            || incoming.begins_within(self.terms, QUIET)?
        {
            return Ok(());
        }
        batches.iter_mut().for_each(|batch| batch.give_back());
        Ok(())
    }

    /// Serve large batches for as long as one follows the other, and give back what came then, with
    /// the reason if nothing more comes.
    fn serve_large(
        &mut self,
        scope: &'s Scope<'s, '_>,
        mut batch: Batch,
        mut errand: Box<Errand<'a>>,
    ) -> io::Result<(Batch, Box<Errand<'a>>, Option<End>)> {
        loop {
            if let Err(mut errand) = self.aside.send(scope, errand) {
                errand.before.send(self.link)?;
                return Ok((batch, errand, None));
            }
            let (aside, vigil) = (self.aside, &mut self.vigil);
            batch.serve(self.terms, |out, slots| {
                aside.let_it_reply(vigil);
                out.send(self.link, slots)
            })?;
            if !aside.let_it_reply(vigil) {
                // What comes next may take long to come, or wait for this.
                batch.send(self.link)?;
            }
            let done = self.aside.finish(&mut self.vigil)?;
            let end = done.outcome?;
            errand = done.errand;
            if end.is_some() || !errand.next.is_large() {
                batch.send(self.link)?;
                mem::swap(&mut batch, &mut errand.next);
                return Ok((batch, errand, end));
            }
            mem::swap(&mut batch, &mut errand.before);
            mem::swap(&mut batch, &mut errand.next);
        }
    }
}
