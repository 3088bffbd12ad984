//! An open disk: what a front end holds, and what a thread does around the requests that it sends.

use std::sync::Arc;

use super::Disk;

/// A disk as a plugin's `open` gives it, and as front ends serve it.
///
/// Layers are no such disks: [`crate::disk::Disk`] is all that the author of one writes. What stands here passes
/// them by, and so none of them can run inside of a batch what may wait.
pub trait OpenDisk: Disk {
    /// Run `work`, which will call [`Disk::serve`] any number of times on this thread and will not
    /// wait for anything else. A disk with a cost per entry (attaching to Python) pays it once here. In a batch
    /// the disk may hold a lock throughout.
    fn batch(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Run `work` once: all that a thread does which will call this disk again and again, with its
    /// waits in between. A disk with a cost per thread (Python's thread state) pays it once here, and one
    /// that only one thread may call runs `work` on that thread. Whatever belongs to the thread is
    /// therefore made inside `work`. Such a disk serves nobody else until `work` is done.
    ///
    /// Several threads may be in it at a time.
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

impl<D: OpenDisk + ?Sized> OpenDisk for Arc<D> {
    fn batch(&self, work: &mut dyn FnMut()) {
        (**self).batch(work);
    }
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        (**self).lane(work);
    }
}
