//! A second thread of a connection, which carries data while the first one has the disk serve.
//!
//! It exists only where batches are [large](super::batch::Batch::is_large), and leaves when there were
//! none for a while. It never calls the disk. What it works with is handed to it and back whole, so
//! that at each moment one thread has it; only the link is shared, where one sends and one receives.

use std::io;
use std::time::Duration;

use super::Terms;
use super::batch::Batch;
use super::incoming::Incoming;
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::link::Link;
use crate::frontends::vigil::Vigil;
use crate::sync::thread::{self, Scope};
use crate::sync::{Condvar, Mutex};

/// How long the thread waits for its next errand before it leaves.
const REST: Duration = Duration::from_secs(1);

/// What both threads know.
pub(super) struct Aside<'a> {
    terms: &'a Terms,
    link: &'a Link,
    /// Held only while it is looked at or changed.
    stage: Mutex<Stage<'a>>,
    changed: Condvar,
}

/// What the thread is to do: send the replies of one batch, then take what has come into another.
/// Between errands both are empty.
pub(super) struct Errand<'a> {
    pub(super) before: Batch,
    pub(super) incoming: Incoming<'a>,
    pub(super) next: Batch,
}

/// An errand that is done, and why nothing follows, if so.
pub(super) struct Done<'a> {
    pub(super) errand: Box<Errand<'a>>,
    pub(super) outcome: io::Result<Option<End>>,
}

enum Stage<'a> {
    /// There is no thread.
    Absent,
    Waiting,
    Sent(Box<Errand<'a>>),
    Replying,
    Taking,
    Done(Done<'a>),
    /// The thread shall leave.
    Over,
}

impl<'a> Aside<'a> {
    pub(super) fn new(terms: &'a Terms, link: &'a Link) -> Self {
        Self {
            terms,
            link,
            stage: Mutex::new(Stage::Absent),
            changed: Condvar::new(),
        }
    }

    /// Send the thread on an errand; it is given back if there cannot be a thread. No errand is under
    /// way.
    pub(super) fn send<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        errand: Box<Errand<'a>>,
    ) -> Result<(), Box<Errand<'a>>> {
        let mut stage = self.stage.lock();
        let absent = matches!(*stage, Stage::Absent);
        *stage = Stage::Sent(errand);
        drop(stage);
        if !absent {
            self.changed.notify_one();
            return Ok(());
        }
        let thread = thread::Builder::new().name("nbd-aside".into());
        let Err(error) = thread.spawn_scoped(scope, || self.run()) else {
            return Ok(());
        };
        log::warn!("a thread for large requests: {error}");
        match std::mem::replace(&mut *self.stage.lock(), Stage::Absent) {
            Stage::Sent(errand) => Err(errand),
            _ => unreachable!("nobody was there to take it"),
        }
    }

    /// Wait until the thread sends nothing more; false if it still takes what comes.
    pub(super) fn let_it_reply(&self, vigil: &mut Vigil) -> bool {
        self.wait(vigil, |stage| match stage {
            Stage::Sent(_) | Stage::Replying => None,
            Stage::Taking => Some(false),
            _ => Some(true),
        })
    }

    /// Wait for the end of the errand.
    pub(super) fn finish(&self, vigil: &mut Vigil) -> io::Result<Done<'a>> {
        self.wait(vigil, |stage| match stage {
            Stage::Sent(_) | Stage::Replying | Stage::Taking => None,
            Stage::Done(_) => match std::mem::replace(stage, Stage::Waiting) {
                Stage::Done(done) => Some(Ok(done)),
                _ => unreachable!("it was looked at above"),
            },
            _ => Some(Err(io::Error::other("the thread for large requests died"))),
        })
    }

    /// What makes the thread leave when it is dropped.
    pub(super) fn until_dropped(&self) -> impl Drop {
        Leave(self)
    }

    fn wait<T>(&self, vigil: &mut Vigil, mut look: impl FnMut(&mut Stage<'a>) -> Option<T>) -> T {
        vigil.keep(
            &mut look,
            |look| look(&mut self.stage.lock()),
            |look| {
                let mut stage = self.stage.lock();
                loop {
                    if let Some(found) = look(&mut stage) {
                        return found;
                    }
                    self.changed.wait(&mut stage);
                }
            },
        )
    }

    fn run(&self) {
        let _gone = Gone(self);
        let mut vigil = Vigil::default();
        while let Some(mut errand) = self.next(&mut vigil) {
            let sent = errand.before.send(self.link);
            if !self.enter(Stage::Taking) {
                return;
            }
            let outcome = sent.map(|()| errand.next.gather_here(self.terms, &mut errand.incoming));
            if !self.enter(Stage::Done(Done { errand, outcome })) {
                return;
            }
        }
    }

    /// The next errand; none if the thread shall leave, or there was none for a while.
    fn next(&self, vigil: &mut Vigil) -> Option<Box<Errand<'a>>> {
        let take = |stage: &mut Stage<'a>| match stage {
            Stage::Sent(_) => match std::mem::replace(stage, Stage::Replying) {
                Stage::Sent(errand) => Some(Some(errand)),
                _ => unreachable!("it was looked at above"),
            },
            Stage::Over => Some(None),
            _ => None,
        };
        vigil.keep(
            &mut (),
            |()| take(&mut self.stage.lock()),
            |()| {
                let mut stage = self.stage.lock();
                loop {
                    if let Some(found) = take(&mut stage) {
                        return found;
                    }
                    let late = self.changed.wait_for(&mut stage, REST).timed_out();
                    if late && matches!(*stage, Stage::Waiting) {
                        *stage = Stage::Absent;
                        return None;
                    }
                }
            },
        )
    }

    /// Go on to `next`, unless it is over.
    fn enter(&self, next: Stage<'a>) -> bool {
        let mut stage = self.stage.lock();
        if matches!(*stage, Stage::Over) {
            return false;
        }
        *stage = next;
        drop(stage);
        self.changed.notify_one();
        true
    }
}

/// Makes the thread leave. Nobody is waited for who waits for the client.
struct Leave<'s, 'a>(&'s Aside<'a>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.link.close();
        }
        let left = std::mem::replace(&mut *self.0.stage.lock(), Stage::Over);
        self.0.changed.notify_all();
        drop(left);
    }
}

/// Tells that the thread is gone if it panics. Where it leaves in peace it has said so under the lock,
/// and another one may have come since.
struct Gone<'s, 'a>(&'s Aside<'a>);

impl Drop for Gone<'_, '_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let mut stage = self.0.stage.lock();
        if !matches!(*stage, Stage::Over) {
            *stage = Stage::Absent;
        }
        drop(stage);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontends::nbd::testing::tcp_pair;

    #[test]
    fn who_leaves_after_a_rest_does_not_forget_the_errand_of_a_successor() {
        let (server, _client) = tcp_pair();
        let link = Link::new(server);
        let terms = Terms::of(&link);
        let aside = Aside::new(&terms, &link);
        *aside.stage.lock() = Stage::Waiting;
        let gone = Gone(&aside);
        assert!(aside.next(&mut Vigil::default()).is_none());
        assert!(matches!(*aside.stage.lock(), Stage::Absent));
        // The connection sends the next thread before this one is quite gone.
        *aside.stage.lock() = Stage::Sent(Box::new(Errand {
            before: Batch::new(terms.shape),
            incoming: Incoming::new(&link),
            next: Batch::new(terms.shape),
        }));
        drop(gone);
        assert!(matches!(*aside.stage.lock(), Stage::Sent(_)));
    }
}
