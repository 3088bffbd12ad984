//! What stands around a plugin's disk: the one place that says so, for devices, files and exports.
//!
//! ```text
//! Check → [WholeSectors →] [named layers, each with a Check below it →] Emulate → Check → the plugin's handle
//! ```
//! There is one [`Stack`] for an attachment, which knows what all its handles share; it wraps each handle that
//! is opened.

use std::ops::Range;
use std::sync::Arc;

use super::{Check, Emulate, Layer, Named, Parts, Sleep, WholeSectors};
use crate::Refusal;
use crate::disk::{Disk, Extents, Limits, OpenDisk, Request, Result as Served};

/// The layers of one attachment.
#[derive(Debug)]
pub struct Stack {
    kind: Kind,
    /// The outermost first.
    named: Vec<Box<dyn Layer>>,
    sleep: Arc<Sleep>,
}

/// For whom the disk is.
#[derive(Debug)]
enum Kind {
    /// A block device with blocks of so many bytes; none leaves that to the disk.
    Device(Option<u32>),
    File,
    /// Clients that have handles of their own. What one of them changes in a block, another one's change
    /// must not undo.
    Exports(Parts),
}

impl Stack {
    /// For a block device, of which the user may have said how many bytes a block has.
    #[must_use]
    pub fn for_device(block: Option<u32>) -> Self {
        Self::new(Kind::Device(block))
    }

    /// For a file, which has every byte of the disk.
    #[must_use]
    pub fn for_file() -> Self {
        Self::new(Kind::File)
    }

    /// For the exports of a server: any number of handles, with every byte of the disk.
    #[must_use]
    pub fn for_exports() -> Self {
        Self::new(Kind::Exports(Parts::default()))
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            named: Vec::new(),
            sleep: Arc::default(),
        }
    }

    /// With these layers too, the first one outermost.
    ///
    /// # Errors
    /// One sentence, if one of them cannot be made.
    pub fn with_layers(mut self, layers: &[Named]) -> Result<Self, Refusal> {
        for named in layers {
            self.named.push(named.make(&self.sleep)?);
        }
        Ok(self)
    }

    /// The attachment is about to end: no request sleeps in a layer any more.
    pub fn end_sleeps(&self) {
        self.sleep.end();
    }

    /// Put the layers around a handle.
    ///
    /// # Errors
    /// One sentence, if a device or a file cannot have the size of the disk.
    pub fn wrap(&self, handle: Arc<dyn OpenDisk>) -> Result<Arc<dyn OpenDisk>, Refusal> {
        let disk = Emulate::new(Check::new(Arc::clone(&handle)));
        let disk = match &self.kind {
            Kind::Exports(parts) => disk.sharing(parts),
            Kind::File | Kind::Device(_) => disk,
        };
        if self.named.is_empty() {
            let batches = !disk.may_wait();
            return self.for_users(disk, handle, batches);
        }
        let mut disk: Arc<dyn Disk> = Arc::new(Check::new(disk));
        for layer in self.named.iter().rev() {
            disk = Arc::new(Check::new(layer.wrap(disk)));
        }
        // Any of them may wait, so there are no batches.
        self.for_users(disk, handle, false)
    }

    fn for_users<D: Disk + 'static>(
        &self,
        disk: D,
        handle: Arc<dyn OpenDisk>,
        batches: bool,
    ) -> Result<Arc<dyn OpenDisk>, Refusal> {
        Ok(match &self.kind {
            Kind::Exports(_) => Stacked::open(disk, handle, batches),
            _ if disk.limits().size == 0 => {
                return Err(Refusal::new("the disk has a size of 0 bytes"));
            }
            Kind::File => Stacked::open(disk, handle, batches),
            Kind::Device(block) => Stacked::open(WholeSectors::new(disk, *block)?, handle, batches),
        })
    }
}

/// A handle in its layers. What a thread does around its requests is the handle's affair and passes the layers
/// by.
#[derive(Debug)]
struct Stacked<D> {
    /// The outermost layer.
    top: Check<D>,
    handle: Arc<dyn OpenDisk>,
    /// Whether requests are served in batches: no layer may wait.
    batches: bool,
}

impl<D: Disk + 'static> Stacked<D> {
    fn open(layers: D, handle: Arc<dyn OpenDisk>, batches: bool) -> Arc<dyn OpenDisk> {
        Arc::new(Self {
            top: Check::new(layers),
            handle,
            batches,
        })
    }
}

impl<D: Disk> Disk for Stacked<D> {
    fn limits(&self) -> &Limits {
        self.top.limits()
    }

    fn serve(&self, request: Request<'_>) -> Served {
        self.top.serve(request)
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Served {
        self.top.extents(range, found)
    }
}

impl<D: Disk> OpenDisk for Stacked<D> {
    /// Where a layer may wait, each request enters the handle by itself, below the layers.
    fn batch(&self, work: &mut dyn FnMut()) {
        if self.batches {
            return self.handle.batch(work);
        }
        work();
    }

    /// A lane is the thread of the handle and holds nothing between two requests, so layers may wait in it.
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        self.handle.lane(work);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::disk::Op;
    use crate::disk::memory::Memory;

    fn wrapped(stack: &Stack, size: u64) -> Result<Arc<dyn OpenDisk>, Refusal> {
        stack.wrap(Arc::new(Memory::new(size)))
    }

    #[test]
    fn devices_have_whole_sectors_and_others_every_byte() {
        for (stack, size) in [
            (Stack::for_device(None), 1536),
            (Stack::for_device(Some(1024)), 1024),
            (Stack::for_file(), 2000),
            (Stack::for_exports(), 2000),
        ] {
            assert_eq!(wrapped(&stack, 2000).unwrap().limits().size, size);
        }
    }

    #[test]
    fn only_exports_may_be_empty() {
        for stack in [Stack::for_device(None), Stack::for_file()] {
            let refusal = wrapped(&stack, 0).unwrap_err().to_string();
            assert_eq!(refusal, "the disk has a size of 0 bytes");
        }
        assert_eq!(wrapped(&Stack::for_exports(), 0).unwrap().limits().size, 0);
    }

    /// Half a block each, again and again: a change that is read, changed and written back by one handle must
    /// not undo the other one's.
    #[test]
    fn handles_of_one_stack_share_the_blocks() {
        let memory = Arc::new(
            Memory::builder(4096)
                .limits(|limits| {
                    limits.block.minimum = 4096;
                    limits.strict_blocks = true;
                })
                .build(),
        );
        let stack = Stack::for_exports();
        let handles = [(), ()].map(|()| stack.wrap(Arc::clone(&memory) as _).unwrap());
        std::thread::scope(|scope| {
            for (disk, at) in handles.iter().zip([0, 2048]) {
                scope.spawn(move || {
                    for round in 1..=200 {
                        let half = [round; 2048];
                        disk.serve(Request::new(Op::Write(&half), at)).unwrap();
                        let mut seen = [0; 2048];
                        disk.serve(Request::new(Op::Read(&mut seen), at)).unwrap();
                        assert_eq!(seen, half);
                    }
                });
            }
        });
    }

    /// A disk that tells whether it was asked for a batch.
    #[derive(Debug)]
    struct Batched(Limits, AtomicBool);

    impl Disk for Batched {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: Request<'_>) -> Served {
            Ok(())
        }
    }

    impl OpenDisk for Batched {
        fn batch(&self, work: &mut dyn FnMut()) {
            self.1.store(true, Ordering::Relaxed);
            work();
        }
    }

    fn reaches(stack: &Stack, minimum: u32, parallel: bool) -> bool {
        let mut limits = Memory::new(1 << 20).limits().clone();
        limits.block.minimum = minimum;
        limits.strict_blocks = true;
        limits.parallel = parallel;
        let handle = Arc::new(Batched(limits, AtomicBool::new(false)));
        let disk = stack.wrap(Arc::clone(&handle) as _).unwrap();
        let mut done = 0;
        disk.batch(&mut || done += 1);
        assert_eq!(done, 1);
        handle.1.load(Ordering::Relaxed)
    }

    #[test]
    fn a_batch_reaches_the_handle_only_where_no_layer_may_wait_in_it() {
        for (stack, shares) in [
            (Stack::for_file(), false),
            (Stack::for_device(None), false),
            (Stack::for_exports(), true),
        ] {
            assert!(reaches(&stack, 1, true));
            assert!(reaches(&stack, 1, false));
            assert!(!reaches(&stack, 4096, true));
            assert_eq!(reaches(&stack, 4096, false), !shares);
            let stack = stack.with_layers(&["delay:read=0".parse().unwrap()]);
            assert!(!reaches(&stack.unwrap(), 1, false));
        }
    }
}
