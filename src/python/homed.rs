//! A disk with a thread of its own: opened, called and closed by that thread alone, as nbdkit does it
//! with each handle of a serialised plugin. What `open` makes (an SQLite connection) may be of use in no
//! other thread.
//!
//! [`super::Plugin::open`] puts it around the handle of a serialised plugin. A lane of a front end
//! runs on this thread, and calls the disk without a hop; whatever else is asked, such as the last flush,
//! waits until the thread is free. Asked for inside Python, it would wait for ever.

use std::ops::Range;

use pydisk_kernel::single_thread::SingleThread;
use pyo3::prelude::*;

use crate::disk::{Disk, Extents, Limits, OpenDisk, Request, Result};
use crate::{Refusal, ResultExt};

/// A disk and its thread.
#[derive(Debug)]
pub(super) struct Homed<D: OpenDisk> {
    /// None once it is being closed.
    disk: Option<D>,
    limits: Limits,
    thread: SingleThread,
}

impl<D: OpenDisk> Homed<D> {
    /// Start the thread, and open the disk on it.
    ///
    /// # Errors
    /// Whatever `open` says, or that there is no thread.
    pub(super) fn open(
        open: impl FnOnce() -> std::result::Result<D, Refusal> + Send,
    ) -> std::result::Result<Self, Refusal> {
        let thread = SingleThread::start("handle", in_python).refuse("a thread for the plugin")?;
        let disk = thread.run(open)?;
        Ok(Self {
            limits: disk.limits().clone(),
            disk: Some(disk),
            thread,
        })
    }

    fn disk(&self) -> &D {
        self.disk.as_ref().expect("only dropping this closes it")
    }
}

/// Keep one Python thread state from `open` to `close`: the thread is one thread to Python, too.
fn in_python(work: &mut (dyn FnMut() + Send)) {
    Python::attach(|py| py.detach(work));
}

impl<D: OpenDisk> Disk for Homed<D> {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        self.thread.run(|| self.disk().serve(request))
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        self.thread.run(|| self.disk().extents(range, found))
    }
}

impl<D: OpenDisk> OpenDisk for Homed<D> {
    /// On another thread nothing is entered, for what is served meanwhile enters it on its own.
    fn batch(&self, work: &mut dyn FnMut()) {
        if self.thread.is_current() {
            self.disk().batch(work);
        } else {
            work();
        }
    }

    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        self.thread.run(|| self.disk().lane(work));
    }
}

impl<D: OpenDisk> Drop for Homed<D> {
    fn drop(&mut self) {
        let disk = self.disk.take();
        self.thread.run(|| drop(disk));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::{self, ThreadId};

    use parking_lot::Mutex;

    use super::*;
    use crate::disk::{ExtentKind, Op};

    /// Who called what.
    type Calls = Arc<Mutex<Vec<(&'static str, ThreadId)>>>;

    /// A disk that notes its callers.
    #[derive(Debug)]
    struct Noting(Limits, Calls);

    impl Noting {
        fn open(calls: &Calls) -> Self {
            let this = Self(Limits::read_only(4096), Arc::clone(calls));
            this.note("open");
            this
        }

        fn note(&self, what: &'static str) {
            self.1.lock().push((what, thread::current().id()));
        }
    }

    impl Disk for Noting {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: Request<'_>) -> Result {
            self.note("serve");
            Ok(())
        }
        fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
            self.note("extents");
            found.push(range.end, ExtentKind::ZERO);
            Ok(())
        }
    }

    impl OpenDisk for Noting {
        fn batch(&self, work: &mut dyn FnMut()) {
            self.note("batch");
            work();
        }
        fn lane(&self, work: &mut (dyn FnMut() + Send)) {
            self.note("lane");
            work();
        }
    }

    impl Drop for Noting {
        fn drop(&mut self) {
            self.note("close");
        }
    }

    fn flush(disk: &Homed<Noting>) {
        disk.serve(Request::new(Op::Flush, 0)).unwrap();
    }

    fn opened() -> (Homed<Noting>, Calls) {
        Python::initialize();
        let calls = Calls::default();
        let disk = Homed::open(|| Ok(Noting::open(&calls))).unwrap();
        (disk, calls)
    }

    #[test]
    fn one_thread_opens_serves_and_closes_the_disk() {
        let (disk, calls) = opened();
        flush(&disk);
        disk.extents(0..4096, &mut Extents::starting_at(0)).unwrap();
        disk.batch(&mut || flush(&disk));
        thread::scope(|scope| {
            let lane = || {
                disk.lane(&mut || {
                    flush(&disk);
                    disk.batch(&mut || flush(&disk));
                });
            };
            scope.spawn(lane).join().unwrap();
            scope.spawn(|| flush(&disk));
        });
        drop(disk);
        let calls = calls.lock();
        let (names, threads): (Vec<_>, Vec<_>) = calls.iter().copied().unzip();
        assert_eq!(
            names.join(" "),
            "open serve extents serve lane serve batch serve serve close"
        );
        assert!(threads.iter().all(|thread| *thread == threads[0]));
        assert_ne!(threads[0], thread::current().id());
    }

    #[test]
    fn a_disk_that_cannot_be_opened_leaves_no_thread() {
        Python::initialize();
        let refused = Homed::<Noting>::open(|| Err(Refusal::new("no")));
        assert_eq!(refused.unwrap_err().to_string(), "no");
    }

    #[test]
    fn a_panic_in_a_lane_leaves_the_disk_usable() {
        let (disk, calls) = opened();
        let lane = || disk.lane(&mut || panic!("the test wants this"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(lane)).unwrap_err();
        flush(&disk);
        drop(disk);
        assert_eq!(calls.lock().last().unwrap().0, "close");
    }
}
