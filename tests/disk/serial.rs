//! Lets one thread at a time into a disk that can take no more.

use std::ops::Range;

use parking_lot::Mutex;

use pydisk::disk::{Disk, Extents, Limits, Request, Result};

/// A disk behind a lock.
///
/// The lock guards the whole disk and is held across `serve`, because that is its purpose: a plugin
/// with a serialised thread model is promised that no two callbacks overlap. It is taken before
/// Python is entered, never after.
#[derive(Debug)]
pub(crate) struct Serial<D> {
    lock: Mutex<()>,
    disk: D,
    limits: Limits,
}

impl<D: Disk> Serial<D> {
    /// Wrap `disk`; the result may be called from any number of threads.
    pub(crate) fn new(disk: D) -> Self {
        let limits = Limits {
            parallel: true,
            ..disk.limits().clone()
        };
        Self {
            lock: Mutex::new(()),
            disk,
            limits,
        }
    }
}

impl<D: Disk> Disk for Serial<D> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let _alone = self.lock.lock();
        self.disk.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        let _alone = self.lock.lock();
        self.disk.extents(range, found)
    }
}

mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use pydisk::disk::memory::{Effect, Fault, Memory};
    use pydisk::disk::{Errno, Op, OpKind};

    /// Memory that fails a request which arrives while another one is being served.
    fn alone() -> Memory {
        Memory::builder(1 << 20)
            .limits(|limits| limits.parallel = false)
            .build()
    }

    #[test]
    fn no_two_requests_overlap() {
        let memory = Arc::new(alone());
        let slow = Fault::new(Effect::Delay(Duration::from_micros(200))).forever();
        memory.inject(slow.clone());
        let disk = Serial::new(Arc::clone(&memory));
        assert!(disk.limits().parallel);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let disk = &disk;
                scope.spawn(move || {
                    for _ in 0..25 {
                        disk.serve(Request::new(Op::Write(&[1]), thread)).unwrap();
                        disk.serve(Request::new(Op::Flush, 0)).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_lets_the_next_one_in() {
        let memory = alone();
        memory.inject(Fault::new(Effect::Panic).on(OpKind::Write));
        let disk = Serial::new(memory);
        let write = || disk.serve(Request::new(Op::Write(&[1]), 0));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_err();
        write().unwrap();
        let past = disk.serve(Request::new(Op::Write(&[1]), 1 << 20));
        assert_eq!(past.unwrap_err().errno, Errno::NOSPC);
    }
}
