//! What a worker has to offer: one disk for a guest that stays, or exports for clients.

use std::sync::Arc;

use super::served::Layered;
use crate::attachment::{Served, Step};
use crate::disk::{Exports, Limits, Op, OpenDisk, Request, Resident};
use crate::frontends::{Endpoint, Row};
use crate::{Cause, Refusal};

/// What is offered, and what is known of it before anybody asks.
pub(super) struct Offer {
    exports: Arc<dyn Exports>,
    /// The disk of the guest that stays. Clients open their own.
    resident: Option<Arc<dyn OpenDisk>>,
    read_only: bool,
    parallel: bool,
}

impl Offer {
    /// A disk that is open.
    pub(super) fn of_disk(disk: Arc<dyn OpenDisk>) -> Self {
        Self {
            exports: Arc::new(Resident::new(Arc::clone(&disk))),
            read_only: disk.limits().read_only,
            parallel: disk.limits().parallel,
            resident: Some(disk),
        }
    }

    /// Disks that clients open; whether they were asked for to be read only, and whether each serves several
    /// requests at the same time.
    pub(super) fn of_exports(exports: Layered, read_only: bool, parallel: bool) -> Self {
        Self {
            exports: Arc::new(exports),
            resident: None,
            read_only,
            parallel,
        }
    }

    /// For a front end.
    pub(super) fn exports(&self) -> &Arc<dyn Exports> {
        &self.exports
    }

    /// Those of the disk of a guest that stays.
    pub(super) fn limits(&self) -> Option<&Limits> {
        self.resident.as_ref().map(|disk| disk.limits())
    }

    /// What others are told of it once it is reachable at `at`, where up to `lanes` requests can be served at the same
    /// time.
    pub(super) fn served(&self, at: Endpoint, row: &Row, lanes: u16) -> Served {
        let limits = self.limits();
        Served {
            at,
            front_end: row.name.to_owned(),
            size: limits.map(|limits| limits.size),
            // The disks of clients may be read-only all the same.
            read_only: limits.map_or(self.read_only.then_some(true), |_| Some(self.read_only)),
            parallel: self.parallel,
            lanes: if self.parallel { lanes } else { 1 },
        }
    }

    /// Store what is not stored yet and close the disk, once nobody can reach it any more. Clients close their own.
    /// `doing` is told what may take long.
    ///
    /// # Errors
    /// One sentence, if it is not stored.
    pub(super) fn close(self, doing: impl Fn(Step)) -> Result<(), Refusal> {
        drop(self.exports);
        let Some(disk) = self.resident else {
            return Ok(());
        };
        doing(Step::Flush);
        let limits = disk.limits();
        let stored = if limits.flush && !limits.read_only {
            disk.serve(Request::new(Op::Flush, 0))
        } else {
            Ok(())
        };
        let stored = stored.map_err(|error| {
            let refusal = Refusal::caused("the last flush failed", Cause::of(&*error.cause));
            log::error!("{refusal}");
            refusal
        });
        if Arc::strong_count(&disk) > 1 {
            log::debug!("something still holds the disk: it is not closed");
        }
        doing(Step::Close);
        drop(disk);
        stored
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::disk::memory::{Fault, Memory};
    use crate::disk::{Errno, OpKind};
    use crate::frontends::ALL;
    use crate::layers::Stack;

    fn offered(memory: &Arc<Memory>) -> Offer {
        Offer::of_disk(Arc::clone(memory) as Arc<dyn OpenDisk>)
    }

    #[test]
    fn a_disk_is_told_as_it_is_and_flushed_before_it_is_closed() {
        let memory = Arc::new(Memory::builder(1 << 20).record().build());
        let offer = offered(&memory);
        let served = offer.served(Endpoint::Device("/dev/x".into()), ALL[0], 16);
        assert_eq!(
            (served.size, served.read_only),
            (Some(1 << 20), Some(false))
        );
        assert_eq!((&*served.front_end, served.lanes), ("ublk", 16));
        drop(offer.exports().resident().unwrap());
        let (tell, told) = channel();
        let doing = |step| {
            let flushed = memory.calls().iter().any(|call| call.kind == OpKind::Flush);
            tell.send((step, flushed)).unwrap();
        };
        offer.close(doing).unwrap();
        let told: Vec<_> = told.try_iter().collect();
        assert_eq!(told, [(Step::Flush, false), (Step::Close, true)]);
        assert_eq!(Arc::strong_count(&memory), 1, "it is closed");
    }

    #[test]
    fn a_last_flush_that_fails_is_told_and_the_disk_is_closed_all_the_same() {
        let memory = Arc::new(Memory::new(1 << 20));
        memory.inject(Fault::fail(Errno::IO).on(OpKind::Flush));
        let refusal = offered(&memory).close(drop).unwrap_err().to_string();
        assert!(refusal.starts_with("the last flush failed: "), "{refusal}");
        assert_eq!(Arc::strong_count(&memory), 1, "it is closed");
    }

    #[test]
    fn of_disks_that_clients_open_only_what_was_asked_for_is_known() {
        let nobody = || {
            let exports = Arc::new(Resident::new(Arc::new(Memory::new(512))));
            Layered::new(exports, Arc::new(Stack::for_exports()))
        };
        for (read_only, parallel, told, lanes) in
            [(true, true, Some(true), 7), (false, false, None, 1)]
        {
            let offer = Offer::of_exports(nobody(), read_only, parallel);
            let served = offer.served(Endpoint::Device("/dev/x".into()), ALL[0], 7);
            assert_eq!((served.size, served.read_only), (None, told));
            assert_eq!((served.parallel, served.lanes), (parallel, lanes));
            assert!(offer.limits().is_none() && offer.exports().resident().is_err());
            offer
                .close(|step| panic!("{step:?} is not for the worker"))
                .unwrap();
        }
    }
}
