//! One suite of promises that every disk keeps, whatever it is made of: the reference disk, layers,
//! a plugin's handle. Each case gets a fresh disk and adapts to what the limits of that disk say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pydisk::disk::{Disk, Errno, Flags, Limits, Op, OpKind, OpenDisk, Request};

mod content;
mod refusals;
mod together;

/// Smaller disks leave no room for the cases.
pub const SMALLEST: u64 = 1 << 20;

/// Makes a disk that shall fail every request of that kind with that errno.
pub type Failing<'a> = &'a dyn Fn(OpKind, Errno) -> Arc<dyn Disk>;

/// The disks under test.
pub struct Subject<'a> {
    name: &'a str,
    make: &'a dyn Fn() -> Arc<dyn Disk>,
    failing: Option<Failing<'a>>,
}

impl<'a> Subject<'a> {
    /// Disks that `make` opens: at least [`SMALLEST`] bytes, the same each time.
    pub fn new(name: &'a str, make: &'a dyn Fn() -> Arc<dyn Disk>) -> Self {
        Self {
            name,
            make,
            failing: None,
        }
    }

    /// Try also how failures arrive.
    pub fn failing(self, failing: Failing<'a>) -> Self {
        Self {
            failing: Some(failing),
            ..self
        }
    }

    /// A fresh disk.
    fn open(&self) -> Bench {
        let disk = (self.make)();
        assert!(disk.limits().size >= SMALLEST, "too small for the suite");
        Bench(disk)
    }
}

/// Open disks that `make` opens: the suite, and what a front end may do around requests.
///
/// # Panics
/// As [`suite`].
pub fn suite_of_open(
    name: &str,
    make: &dyn Fn() -> Arc<dyn OpenDisk>,
    failing: Option<Failing<'_>>,
) {
    suite(&Subject {
        name,
        make: &|| make(),
        failing,
    });
    together::batch(&make());
}

type Case = fn(&Subject<'_>);

/// Each case with its name.
const CASES: &[(&str, Case)] = &[
    ("a fresh disk reads the same twice", content::fresh),
    (
        "what is written is read back at block edges",
        content::edges,
    ),
    ("parts of blocks can be written", content::parts_of_blocks),
    ("the last write wins where writes overlap", content::overlap),
    ("zeroed bytes read as zeroes", content::zero),
    ("trim spares its neighbours", content::trim),
    ("flush, cache and FUA are served", content::hints),
    ("the longest request is served", content::longest),
    ("extents cover what is asked", content::extents),
    ("zero extents read as zeroes", content::zero_extents),
    ("past the end", refusals::past_the_end),
    ("no byte at all", refusals::empty),
    ("read-only", refusals::read_only),
    ("unknown flags", refusals::flags),
    ("what is not offered", refusals::not_offered),
    ("a failure keeps its errno", refusals::errno),
    ("threads in ranges of their own", together::neighbours),
    ("threads in one range", together::same_range),
];

/// Run every case on disks of their own.
///
/// # Panics
/// With the names of the cases that failed.
pub fn suite(subject: &Subject<'_>) {
    let failed: Vec<&str> = CASES
        .iter()
        .filter(|(_, case)| catch_unwind(AssertUnwindSafe(|| case(subject))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "{}: failed: {failed:?}", subject.name);
}

/// A disk with words for the usual requests.
struct Bench(Arc<dyn Disk>);

impl Bench {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    /// Where requests may begin and end.
    fn step(&self) -> usize {
        if self.limits().strict_blocks {
            return self.limits().block.minimum as usize;
        }
        1
    }

    fn writable(&self) -> bool {
        !self.limits().read_only
    }

    /// The errno of a request, `None` if it was served.
    fn errno(&self, op: Op<'_>, at: u64, flags: Flags) -> Option<Errno> {
        let request = Request::new(op, at).with_flags(flags);
        self.0.serve(request).err().map(|error| error.errno)
    }

    fn serve(&self, op: Op<'_>, at: u64, flags: Flags) {
        let text = format!("{} at {at}+{} {flags:?}", op.kind().word(), op.len());
        let request = Request::new(op, at).with_flags(flags);
        if let Err(error) = self.0.serve(request) {
            panic!("{text}: {error} ({})", error.errno);
        }
    }

    /// The longest read or write that the disk takes.
    fn longest(&self) -> usize {
        if self.limits().strict_blocks {
            return self.limits().block.maximum as usize;
        }
        64 << 20
    }

    /// Reads are made where there is rubbish, so that a byte that is not filled shows.
    fn read(&self, mut at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        for part in bytes.chunks_mut(self.longest()) {
            let len = part.len() as u64;
            self.serve(Op::Read(part), at, Flags::empty());
            at += len;
        }
        bytes
    }

    fn write(&self, mut at: u64, bytes: &[u8]) {
        for part in bytes.chunks(self.longest()) {
            self.serve(Op::Write(part), at, Flags::empty());
            at += part.len() as u64;
        }
    }

    #[track_caller]
    fn assert_holds(&self, at: u64, expected: &[u8]) {
        let found = self.read(at, expected.len());
        if let Some(index) = (0..found.len()).find(|&index| found[index] != expected[index]) {
            panic!(
                "byte {} is {:#x}, not {:#x}",
                at + index as u64,
                found[index],
                expected[index]
            );
        }
    }
}

/// Bytes of which no two neighbours, and no two such ranges, are alike.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    // None is zero, so that it cannot be mistaken for a byte that was not written.
    for byte in &mut bytes {
        *byte = (*byte).max(1);
    }
    bytes
}
