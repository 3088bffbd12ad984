//! The fuzz target `ublk`: requests as the driver may describe them, on a disk whose content is known.

use std::sync::Arc;

use parking_lot::Mutex;
use pydisk_kernel::ublk::fuzzing::Tag;
use pydisk_kernel::ublk::{Handler, Io, Owner};

use super::Served;
use crate::disk::memory::Memory;
use crate::disk::memory::Plain;
use crate::disk::{Disk, Errno, Op, OpenDisk, Request};
use crate::fuzzing::Script;
use crate::layers::Check;

/// Bytes of the disk.
const SIZE: u64 = 32 << 10;
/// Bytes of a tag's memory.
const MEMORY: usize = 8 << 10;
/// No more requests are made of one script.
const MOST: usize = 64;

/// Let the driver describe requests as `script` says.
///
/// # Panics
/// If an answer is none that the driver takes, or a read brings something else than was written.
pub fn ublk_requests(script: &[u8]) {
    let mut script = Script(script);
    let what = script.u8();
    let memory = Memory::builder(SIZE).limits(|limits| {
        limits.read_only = what & 7 == 7;
        limits.trim = what & 8 == 0;
        limits.zero = what & 16 == 0;
    });
    let disk: Arc<dyn OpenDisk> = Arc::new(Plain(Check::new(memory.build())));
    let keeper = Keeper {
        served: Served {
            disk: Arc::clone(&disk),
        },
        kept: Mutex::default(),
    };
    let mut bench = Bench {
        tag: Tag::new(MEMORY).expect("there is memory"),
        content: vec![0; usize::try_from(SIZE).expect("a small disk")],
        keeper,
    };
    let mut requests = 0;
    while !script.is_empty() && requests < MOST {
        bench.request(&mut script, disk.limits().read_only);
        requests += 1;
    }
    let mut found = vec![0; bench.content.len()];
    let read = disk.serve(Request::new(Op::Read(&mut found), 0));
    assert!(
        read.is_ok() && found == bench.content,
        "a write went astray"
    );
}

/// Keeps the memory of a request, where that is wanted, as a plugin may.
struct Keeper {
    served: Served,
    kept: Mutex<Option<Option<Owner>>>,
}

impl Handler for Keeper {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        if let Some(kept) = &mut *self.kept.lock() {
            *kept = Some(Arc::clone(io.owner));
        }
        self.served.serve(io)
    }
}

struct Bench {
    tag: Tag,
    /// What the disk holds.
    content: Vec<u8>,
    keeper: Keeper,
}

impl Bench {
    fn request(&mut self, script: &mut Script<'_>, read_only: bool) {
        let kind = script.u8();
        let operation = match kind {
            0..32 => u32::from(script.u8()),
            // Those that are known are 0 to 3 and 5.
            _ => [0, 1, 1, 2, 3, 5, 5, 0][usize::from(kind & 7)],
        };
        let flags = script.u32() & !0xff;
        let sector = match script.u8() {
            few @ 0..128 => u64::from(few),
            128..192 => u64::MAX - script.u64(1),
            _ => script.number(SIZE),
        };
        let sectors = match script.u8() {
            few @ 0..64 => u32::from(few),
            64..224 => 1,
            _ => script.u32(),
        };
        let fill = script.u8();
        self.tag.memory().fill(fill);
        let before = self.tag.address();
        *self.keeper.kept.lock() = (fill & 1 == 1).then_some(None);
        let (result, carry) = self
            .tag
            .answer(&self.keeper, operation | flags, (sector, sectors))
            .expect("there is memory");
        if let Some(Some(_kept)) = self.keeper.kept.lock().take() {
            assert_ne!(
                self.tag.address(),
                before,
                "memory that is kept is lent again"
            );
        }

        let at = sector.saturating_mul(512);
        let len = u64::from(sectors) * 512;
        let fits = len > 0 && at.checked_add(len).is_some_and(|end| end <= SIZE);
        let memory_has = usize::try_from(len).is_ok_and(|len| len <= MEMORY);
        let expected = match operation {
            0 | 1 if fits && memory_has => Some(i32::try_from(len).expect("it fits")),
            2 | 3 | 5 => Some(0),
            _ => None,
        };
        if result < 0 {
            assert!(result >= -4095 && carry == 0, "no errno: {result}");
            // A flush needs no range and no right; a trim and a zeroing may lack their operation.
            let must = operation == 2 || fits && memory_has && [0, 1].contains(&operation);
            assert!(
                !must || read_only && operation == 1,
                "{result} for {operation}"
            );
            return;
        }
        assert_eq!(Some(result), expected, "operation {operation}");
        assert_eq!(
            carry,
            if operation == 0 {
                usize::try_from(len).expect("it fits")
            } else {
                0
            }
        );
        if operation == 2 {
            return;
        }
        assert!(fits, "past the end");
        assert!(operation == 0 || !read_only, "a disk is read-only");
        let from = usize::try_from(at).expect("it fits");
        let range = from..from + usize::try_from(len).expect("it fits");
        match operation {
            0 => assert_eq!(self.tag.memory()[..carry], self.content[range]),
            1 => self.content[range].fill(fill),
            // What a trim leaves is for the disk to choose.
            3 => {
                let disk = &self.keeper.served.disk;
                let read = disk.serve(Request::new(Op::Read(&mut self.content[range]), at));
                assert!(read.is_ok());
            }
            _ => self.content[range].fill(0),
        }
    }
}
