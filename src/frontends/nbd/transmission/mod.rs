//! The second phase of a conversation: requests come, replies go, until one side ends it.
//!
//! `incoming` takes requests off the connection, `admission` judges them, `performing` has the disk
//! serve them, `outbox` sends the replies. Two loops join them: `batched` for a disk that one thread
//! calls at a time, `lanes` for one that takes several.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::ending::End;
use super::link::Link;
use super::wire::{Shape, Transmission};
use crate::disk::{Cache, Cancel, Client, Disk, Fua, Limits, OpenDisk};

mod admission;
mod aside;
mod batch;
mod batched;
mod incoming;
mod lanes;
mod outbox;
mod performing;
mod turns;

/// What client and server agreed upon.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) disk: Arc<dyn OpenDisk>,
    /// Whose requests are refused once the plugin has sent it away; none for the kernel.
    pub(super) client: Option<Arc<Client>>,
    /// Tells whether an answer may still reach the client.
    pub(super) cancel: Cancel,
    pub(super) shape: Shape,
    /// The client may ask for `base:allocation`.
    pub(super) allocation: bool,
    /// Bytes of the longest read or write.
    pub(super) payload: u32,
    /// Requests that are served at the same time, where the disk takes several.
    pub(super) lanes: u16,
}

/// Serve requests until there are no more. Every request that was taken is answered, unless the
/// connection breaks: which it does, too, when something panics, so that nobody waits for an answer.
pub(super) fn serve(terms: &Terms, link: &Link) -> End {
    let end = catch_unwind(AssertUnwindSafe(|| run(terms, link)));
    end.unwrap_or_else(|_panic| {
        link.close();
        End::Panicked
    })
}

fn run(terms: &Terms, link: &Link) -> End {
    if terms.disk.limits().parallel && terms.lanes > 1 {
        return lanes::run(terms, link);
    }
    let mut end = None;
    terms.disk.lane(&mut || {
        end = Some(batched::run(terms, link));
    });
    end.expect("a disk runs what it is given to run")
}

/// What an export with these limits can do, in the words of the protocol.
pub(super) fn flags(limits: &Limits, shape: Shape) -> Transmission {
    let writable = !limits.read_only;
    let mut flags = Transmission::HAS_FLAGS;
    flags.set(Transmission::READ_ONLY, limits.read_only);
    flags.set(Transmission::SEND_FLUSH, limits.flush);
    flags.set(Transmission::SEND_FUA, writable && limits.fua != Fua::None);
    flags.set(Transmission::ROTATIONAL, limits.rotational);
    flags.set(Transmission::SEND_TRIM, writable && limits.trim);
    flags.set(Transmission::SEND_WRITE_ZEROES, writable && limits.zero);
    let fast_zero = writable && limits.zero && limits.fast_zero;
    flags.set(Transmission::SEND_FAST_ZERO, fast_zero);
    flags.set(Transmission::SEND_DF, shape >= Shape::Structured);
    flags.set(Transmission::CAN_MULTI_CONN, limits.multi_conn);
    flags.set(Transmission::SEND_CACHE, limits.cache != Cache::None);
    flags
}

#[cfg(test)]
impl Terms {
    /// Those of a client of a small disk, at the other end of `link`, that asked for nothing special.
    fn of(link: &Link) -> Self {
        Self {
            disk: Arc::new(crate::disk::memory::Memory::builder(4096).build()),
            client: None,
            cancel: link.cancel().clone(),
            shape: Shape::Simple,
            allocation: false,
            payload: 4096,
            lanes: 1,
        }
    }
}
