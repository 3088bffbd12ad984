//! Any disk as one that a front end can serve.

use std::ops::Range;

use super::super::{Disk, Extents, Limits, OpenDisk, Request, Result};

/// A disk to whom batches and threads are nothing: a layer on a disk of the tests, where no
/// `layers::Stack` puts it there.
#[derive(Debug)]
pub struct Plain<D>(pub D);

impl<D: Disk> Disk for Plain<D> {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    fn serve(&self, request: Request<'_>) -> Result {
        self.0.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        self.0.extents(range, found)
    }
}

impl<D: Disk> OpenDisk for Plain<D> {}
