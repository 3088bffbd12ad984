//! What stands around a plugin's disk: the one place that says so, for devices, files and exports.
//!
//! ```text
//! Check → [WholeSectors →] Emulate → Check → the plugin's handle
//! ```
//! There is one [`Stack`] for an attachment, which knows what all its handles share; it wraps each handle that
//! is opened.

use std::sync::Arc;

use super::{Check, Emulate, Parts, WholeSectors};
use crate::Refusal;
use crate::disk::Disk;

/// The layers of one attachment.
#[derive(Debug)]
pub struct Stack {
    kind: Kind,
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
        Self {
            kind: Kind::Device(block),
        }
    }

    /// For a file, which has every byte of the disk.
    #[must_use]
    pub fn for_file() -> Self {
        Self { kind: Kind::File }
    }

    /// For the exports of a server: any number of handles, with every byte of the disk.
    #[must_use]
    pub fn for_exports() -> Self {
        Self {
            kind: Kind::Exports(Parts::default()),
        }
    }

    /// Put the layers around a handle.
    ///
    /// # Errors
    /// One sentence, if a device or a file cannot have the size of the disk.
    pub fn wrap(&self, handle: Arc<dyn Disk>) -> Result<Arc<dyn Disk>, Refusal> {
        let disk = Emulate::new(Check::new(handle));
        let block = match &self.kind {
            Kind::Exports(parts) => return Ok(Arc::new(Check::new(disk.sharing(parts)))),
            _ if disk.limits().size == 0 => {
                return Err(Refusal::new("the disk has a size of 0 bytes"));
            }
            Kind::File => return Ok(Arc::new(Check::new(disk))),
            Kind::Device(block) => *block,
        };
        Ok(Arc::new(Check::new(WholeSectors::new(disk, block)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::memory::Memory;
    use crate::disk::{Op, Request};

    fn wrapped(stack: &Stack, size: u64) -> Result<Arc<dyn Disk>, Refusal> {
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
}
