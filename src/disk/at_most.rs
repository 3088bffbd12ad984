//! Lets so many threads at a time into a disk that could take more.

use std::ops::Range;

use parking_lot::{Condvar, Mutex};

use super::{Disk, Extents, Limits, Request, Result};

/// A disk with a number of places.
///
/// A place is waited for in `serve`, so a batch is not passed on: the disk below might hold something
/// throughout that whoever has a place waits for.
#[derive(Debug)]
pub struct AtMost<D> {
    disk: D,
    /// Places that are free; held only while looked at.
    free: Mutex<u16>,
    left: Condvar,
}

/// The right to call the disk, given back when it is dropped.
struct Place<'a> {
    free: &'a Mutex<u16>,
    left: &'a Condvar,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.free.lock() += 1;
        self.left.notify_one();
    }
}

impl<D: Disk> AtMost<D> {
    /// Wrap `disk`, which is called by so many threads at a time; by 1 at least.
    pub fn new(disk: D, places: u16) -> Self {
        Self {
            disk,
            free: Mutex::new(places.max(1)),
            left: Condvar::new(),
        }
    }

    fn place(&self) -> Place<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.left.wait(&mut free);
        }
        *free -= 1;
        Place {
            free: &self.free,
            left: &self.left,
        }
    }
}

impl<D: Disk> Disk for AtMost<D> {
    fn limits(&self) -> &Limits {
        self.disk.limits()
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let _place = self.place();
        self.disk.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        let _place = self.place();
        self.disk.extents(range, found)
    }

    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        self.disk.lane(work);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::super::memory::{Effect, Fault, Memory};
    use super::super::{Op, OpKind};
    use super::*;

    /// Counts who is inside, and lets nobody go before there are as many as there are places.
    #[derive(Debug)]
    struct Counting {
        limits: Limits,
        inside: AtomicU16,
        together: Barrier,
    }

    impl Disk for Counting {
        fn limits(&self) -> &Limits {
            &self.limits
        }
        fn serve(&self, _: Request<'_>) -> Result {
            let before = self.inside.fetch_add(1, Ordering::SeqCst);
            assert!(before < 3, "{before} were inside");
            self.together.wait();
            self.inside.fetch_sub(1, Ordering::SeqCst);
            // Those who met here leave before others come in.
            self.together.wait();
            Ok(())
        }
    }

    #[test]
    fn as_many_are_inside_as_there_are_places_and_no_more() {
        let counting = Counting {
            limits: Limits::read_only(512),
            inside: AtomicU16::new(0),
            together: Barrier::new(3),
        };
        let disk = AtMost::new(counting, 3);
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| disk.serve(Request::new(Op::Flush, 0)).unwrap());
            }
        });
    }

    #[test]
    fn a_panic_gives_its_place_back() {
        let memory = Memory::builder(1 << 20).build();
        memory.inject(Fault::new(Effect::Panic).on(OpKind::Write));
        let disk = AtMost::new(memory, 1);
        let write = || disk.serve(Request::new(Op::Write(&[1]), 0));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_err();
        write().unwrap();
        disk.extents(0..512, &mut Extents::starting_at(0)).unwrap();
    }
}
