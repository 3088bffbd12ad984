//! What a disk is sent when it lacks something, call by call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::disk::memory::{Builder, Call, Effect, Fault, Memory};
use crate::disk::{BlockSizes, Extent, ExtentKind, OpKind, Owner};
use crate::layers::Check;

const MIB: u64 = 1 << 20;

/// An emulated disk and the memory below it, with the checks that stand between in the product.
fn over(builder: Builder) -> (Emulate<Check<Arc<Memory>>>, Arc<Memory>) {
    let memory = Arc::new(builder.record().build());
    (Emulate::new(Check::new(Arc::clone(&memory))), memory)
}

fn blocks(minimum: u32, maximum: u32) -> impl FnOnce(&mut Limits) {
    move |limits| {
        limits.strict_blocks = true;
        limits.block = BlockSizes {
            minimum,
            preferred: minimum.max(512),
            maximum,
        };
    }
}

fn serve(disk: &dyn Disk, op: Op<'_>, at: u64, flags: Flags) -> Option<Errno> {
    let result = disk.serve(Request::new(op, at).with_flags(flags));
    result.err().map(|error| error.errno)
}

fn call(kind: OpKind, at: u64, len: u64, flags: Flags) -> Call {
    Call {
        kind,
        at,
        len,
        flags,
    }
}

const NONE: Flags = Flags::empty();

#[test]
fn fua_is_one_flush_after_the_operation_if_it_succeeded() {
    let (disk, memory) = over(Memory::builder(MIB).limits(|limits| limits.fua = Fua::Emulate));
    assert_eq!(disk.limits().fua, Fua::Emulate);
    assert_eq!(serve(&disk, Op::Write(b"abc"), 5, Flags::FUA), None);
    let flush = call(OpKind::Flush, 0, 0, NONE);
    assert_eq!(memory.calls(), [call(OpKind::Write, 5, 3, NONE), flush]);
    memory.crash();
    assert_eq!(memory.peek(5, 3), b"abc");
    serve(&disk, Op::Trim(4096), 0, Flags::FUA);
    serve(&disk, Op::Zero(4096), 0, Flags::FUA | Flags::MAY_TRIM);
    let expected = [
        call(OpKind::Trim, 0, 4096, NONE),
        flush,
        call(OpKind::Zero, 0, 4096, Flags::MAY_TRIM),
        flush,
    ];
    assert_eq!(memory.calls(), expected);
    memory.inject(Fault::fail(Errno::NOSPC).on(OpKind::Write));
    let failed = serve(&disk, Op::Write(b"abc"), 5, Flags::FUA);
    assert_eq!(failed, Some(Errno::NOSPC));
    assert_eq!(memory.calls().len(), 1, "no flush after a failure");
    memory.inject(Fault::fail(Errno::IO).on(OpKind::Flush));
    let failed = serve(&disk, Op::Write(b"abc"), 5, Flags::FUA);
    assert_eq!(failed, Some(Errno::IO), "the flush counts");
}

#[test]
fn native_fua_is_passed_on_and_not_flushed() {
    let (disk, memory) = over(Memory::builder(MIB));
    serve(&disk, Op::Write(b"abc"), 5, Flags::FUA);
    assert_eq!(memory.calls(), [call(OpKind::Write, 5, 3, Flags::FUA)]);
}

#[test]
fn fua_is_promised_as_below_and_flushed_for_even_if_flush_is_not_offered() {
    for (fua, flush) in [
        (Fua::Emulate, false),
        (Fua::None, true),
        (Fua::Native, false),
    ] {
        let (disk, _) = over(Memory::builder(MIB).limits(|limits| {
            limits.fua = fua;
            limits.flush = flush;
        }));
        assert_eq!((disk.limits().fua, disk.limits().flush), (fua, flush));
    }
    let (disk, memory) = over(Memory::builder(MIB).limits(|limits| {
        limits.fua = Fua::Emulate;
        limits.flush = false;
    }));
    assert_eq!(serve(&disk, Op::Write(b"abc"), 5, Flags::FUA), None);
    assert_eq!(
        memory.calls(),
        [
            call(OpKind::Write, 5, 3, NONE),
            call(OpKind::Flush, 0, 0, NONE)
        ]
    );
}

#[test]
fn fast_zero_is_promised_as_below() {
    for (zero, fast_zero) in [(true, true), (true, false), (false, true), (false, false)] {
        let (disk, _) = over(Memory::builder(MIB).limits(|limits| {
            limits.zero = zero;
            limits.fast_zero = fast_zero;
        }));
        let limits = disk.limits();
        assert_eq!((limits.zero, limits.fast_zero), (true, fast_zero), "{zero}");
    }
}

/// Succeeds, remembers nothing but the calls, and can refuse to zero.
#[derive(Debug)]
struct Sink {
    limits: Limits,
    calls: Mutex<Vec<Call>>,
    declines: bool,
}

impl Disk for Sink {
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn serve(&self, request: Request<'_>) -> Result {
        if let Op::Write(data) = &request.op {
            assert!(data.iter().all(|&byte| byte == 0));
        }
        self.calls.lock().push(call(
            request.op.kind(),
            request.at,
            request.op.len(),
            request.flags,
        ));
        if self.declines && matches!(request.op, Op::Zero(_)) {
            return Err(crate::disk::Error::new(Errno::OPNOTSUPP, "not here"));
        }
        Ok(())
    }
}

/// A disk of 1 TiB for calls of which only the sizes matter.
fn sink(declines: bool, change: impl FnOnce(&mut Limits)) -> Emulate<Sink> {
    let mut limits = Memory::new(1 << 40).limits().clone();
    change(&mut limits);
    Emulate::new(Sink {
        limits,
        calls: Mutex::default(),
        declines,
    })
}

#[test]
fn zeroes_are_written_in_steps_at_advancing_offsets() {
    for (declines, fua) in [(true, Fua::Native), (false, Fua::Emulate)] {
        let disk = sink(declines, |limits| {
            limits.zero = declines;
            limits.fua = fua;
        });
        assert!(disk.limits().zero);
        let flags = Flags::FUA | Flags::MAY_TRIM;
        assert_eq!(serve(&disk, Op::Zero(200 * MIB), 7, flags), None);
        let mut calls = std::mem::take(&mut *disk.disk.calls.lock());
        let each = if fua == Fua::Native {
            assert_eq!(calls.remove(0), call(OpKind::Zero, 7, 200 * MIB, flags));
            Flags::FUA
        } else {
            assert_eq!(calls.pop(), Some(call(OpKind::Flush, 0, 0, NONE)));
            NONE
        };
        let expected = [
            call(OpKind::Write, 7, 64 * MIB, each),
            call(OpKind::Write, 7 + 64 * MIB, 64 * MIB, each),
            call(OpKind::Write, 7 + 128 * MIB, 64 * MIB, each),
            call(OpKind::Write, 7 + 192 * MIB, 8 * MIB, each),
        ];
        assert_eq!(calls, expected);
    }
}

#[test]
fn fast_zero_fails_at_once_where_zeroes_would_be_written() {
    for declines in [true, false] {
        let disk = sink(declines, |limits| limits.zero = declines);
        assert!(disk.limits().fast_zero);
        let failed = serve(&disk, Op::Zero(4096), 0, Flags::FAST_ZERO);
        assert_eq!(failed, Some(Errno::NOTSUP));
        let calls = disk.disk.calls.lock();
        assert!(calls.iter().all(|call| call.kind == OpKind::Zero));
    }
    let disk = sink(false, |limits| limits.fast_zero = false);
    assert!(!disk.limits().fast_zero, "nbdkit: zero, but no fast zero");
    let disk = sink(false, blocks(4096, 1 << 20));
    let failed = serve(&disk, Op::Zero(1000), 0, Flags::FAST_ZERO);
    assert_eq!(failed, Some(Errno::NOTSUP), "part of a block");
    assert!(disk.disk.calls.lock().is_empty());
}

#[test]
fn other_failures_to_zero_are_not_made_up_for() {
    let (disk, memory) = over(Memory::builder(MIB));
    memory.inject(Fault::fail(Errno::IO).on(OpKind::Zero));
    assert_eq!(serve(&disk, Op::Zero(4096), 0, NONE), Some(Errno::IO));
    assert_eq!(memory.calls().len(), 1);
}

#[test]
fn not_supported_from_the_write_of_zeroes_is_einval() {
    let (disk, memory) = over(Memory::builder(MIB));
    memory.inject(Fault::fail(Errno::OPNOTSUPP).forever());
    assert_eq!(serve(&disk, Op::Zero(4096), 0, NONE), Some(Errno::INVAL));
    assert_eq!(memory.calls().len(), 2, "one zero, one write, no loop");
}

#[test]
fn parts_of_blocks_are_read_changed_and_written_back() {
    let (disk, memory) = over(Memory::builder(MIB).limits(blocks(4096, 8192)));
    let old: Vec<u8> = (0..=250).cycle().take(64 << 10).collect();
    assert_eq!(serve(&disk, Op::Write(&old), 0, NONE), None);
    assert_eq!(memory.calls().len(), 8, "split by the maximum");
    let new = vec![0xff; 20000];
    assert_eq!(serve(&disk, Op::Write(&new), 5000, Flags::FUA), None);
    let expected = [
        call(OpKind::Read, 4096, 4096, NONE),
        call(OpKind::Write, 4096, 4096, Flags::FUA),
        call(OpKind::Write, 8192, 8192, Flags::FUA),
        call(OpKind::Write, 16384, 8192, Flags::FUA),
        call(OpKind::Read, 24576, 4096, NONE),
        call(OpKind::Write, 24576, 4096, Flags::FUA),
    ];
    assert_eq!(memory.calls(), expected);
    let mut model = old;
    model[5000..25000].copy_from_slice(&new);
    assert_eq!(memory.peek(0, model.len()), model);
    let mut back = vec![0; 30000];
    assert_eq!(serve(&disk, Op::Read(&mut back), 4999, NONE), None);
    assert_eq!(back, model[4999..34999]);
}

#[test]
fn writes_to_parts_of_one_block_do_not_undo_each_other() {
    let (disk, memory) = over(Memory::builder(MIB).limits(blocks(4096, u32::MAX)));
    let pause = Effect::Delay(std::time::Duration::from_millis(2));
    memory.inject(Fault::new(pause).on(OpKind::Write).forever());
    std::thread::scope(|scope| {
        for part in 0..8 {
            let disk = &disk;
            scope.spawn(move || {
                let at = part * 512;
                match part {
                    0 => serve(disk, Op::Zero(512), at, NONE),
                    _ => serve(disk, Op::Write(&[0xff; 512]), at, NONE),
                }
            });
        }
    });
    assert_eq!(memory.peek(0, 512), [0; 512]);
    assert_eq!(memory.peek(512, 3584), [0xff; 3584]);
}

#[test]
fn zero_in_parts_of_blocks_spares_the_neighbours() {
    for zero in [true, false] {
        let (disk, memory) = over(
            Memory::builder(MIB)
                .limits(blocks(4096, 8192))
                .limits(|limits| limits.zero = zero),
        );
        serve(&disk, Op::Write(&[1; 64 << 10]), 0, NONE);
        for range in [1..2, 4095..4097, 100..9000, 12288..40000, 50000..53248] {
            let len = range.end - range.start;
            let flags = Flags::MAY_TRIM;
            assert_eq!(serve(&disk, Op::Zero(len), range.start, flags), None);
            let before = usize::try_from(range.start).unwrap();
            let after = usize::try_from(range.end).unwrap();
            let bytes = memory.peek(0, 64 << 10);
            assert!(bytes[before..after].iter().all(|&byte| byte == 0));
            assert_eq!((bytes[before.max(1) - 1], bytes[after]), (1, 1));
            serve(&disk, Op::Write(&[1; 64 << 10]), 0, NONE);
        }
    }
}

#[test]
fn a_trim_shrinks_to_whole_blocks() {
    let (disk, memory) = over(Memory::builder(MIB).limits(blocks(4096, u32::MAX)));
    assert_eq!(serve(&disk, Op::Trim(20000), 1, NONE), None);
    assert_eq!(serve(&disk, Op::Trim(5000), 1, NONE), None, "holds none");
    assert_eq!(memory.calls(), [call(OpKind::Trim, 4096, 12288, NONE)]);
}

#[test]
fn long_ranges_are_split_where_32_bits_end() {
    let disk = sink(false, |_| ());
    serve(&disk, Op::Trim(0xffff_f000), 4096, NONE);
    serve(&disk, Op::Zero((4 << 30) + 512), 512, Flags::MAY_TRIM);
    let expected = [
        call(OpKind::Trim, 4096, 0xffff_f000, NONE),
        call(OpKind::Zero, 512, 2 << 30, Flags::MAY_TRIM),
        call(OpKind::Zero, 512 + (2 << 30), 2 << 30, Flags::MAY_TRIM),
        call(OpKind::Zero, 512 + (4 << 30), 512, Flags::MAY_TRIM),
    ];
    assert_eq!(*disk.disk.calls.lock(), expected);
}

#[test]
fn a_cache_request_is_read_and_dropped() {
    let (disk, memory) = over(
        Memory::builder(256 * MIB)
            .limits(blocks(4096, u32::MAX))
            .limits(|limits| limits.cache = Cache::Emulate),
    );
    assert_eq!(serve(&disk, Op::Cache(130 * MIB + 5), 4095, NONE), None);
    // As long as those of nbdkit.
    let expected = [
        call(OpKind::Read, 0, 64 * MIB, NONE),
        call(OpKind::Read, 64 * MIB, 64 * MIB, NONE),
        call(OpKind::Read, 128 * MIB, 2 * MIB + 8192, NONE),
    ];
    assert_eq!(memory.calls(), expected);
    let (disk, memory) = over(Memory::builder(MIB).limits(blocks(4096, u32::MAX)));
    assert_eq!(serve(&disk, Op::Cache(1), 4095, NONE), None);
    assert_eq!(memory.calls(), [call(OpKind::Cache, 0, 4096, NONE)]);
}

#[test]
fn the_size_is_rounded_down_to_whole_blocks() {
    let (disk, _) = over(Memory::builder(10_000).limits(blocks(4096, u32::MAX)));
    assert_eq!(disk.limits().size, 8192);
    assert!(!disk.limits().strict_blocks);
    assert_eq!(disk.limits().block.minimum, 4096, "stays as advice");
}

#[test]
fn extents_of_parts_of_blocks_are_clipped() {
    let (disk, _) = over(Memory::builder(MIB).limits(blocks(4096, u32::MAX)));
    serve(&disk, Op::Write(&[1; 4096]), 8192, NONE);
    let mut found = Extents::starting_at(5000);
    disk.extents(5000..9000, &mut found).unwrap();
    let hole = ExtentKind::HOLE | ExtentKind::ZERO;
    let expected = [(5000, 3192, hole), (8192, 808, ExtentKind::DATA)];
    let expected = expected.map(|(at, len, kind)| Extent { at, len, kind });
    assert_eq!(found.list(), expected);
}

#[test]
fn extents_that_come_in_small_pieces_still_reach_the_range() {
    #[derive(Debug)]
    struct Crumbs(Limits);
    impl Disk for Crumbs {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: Request<'_>) -> Result {
            Ok(())
        }
        fn extents(&self, _: Range<u64>, found: &mut Extents) -> Result {
            found.push(10, ExtentKind::ZERO);
            Ok(())
        }
    }
    let mut limits = Memory::new(MIB).limits().clone();
    blocks(512, u32::MAX)(&mut limits);
    let disk = Check::new(Emulate::new(Check::new(Crumbs(limits))));
    let mut found = Extents::starting_at(601);
    disk.extents(601..900, &mut found).unwrap();
    let extent = Extent {
        at: 601,
        len: 1,
        kind: ExtentKind::ZERO,
    };
    assert_eq!(found.list(), [extent]);
}

#[test]
fn the_owner_goes_down_with_the_memory_that_it_owns_only() {
    #[derive(Debug)]
    struct Owned(Limits, AtomicBool);
    impl Disk for Owned {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, request: Request<'_>) -> Result {
            let whole = request.at != 0;
            if request.owner.is_some() != whole {
                self.1.store(true, Ordering::Relaxed);
            }
            Ok(())
        }
    }
    let mut limits = Memory::new(MIB).limits().clone();
    blocks(4096, 8192)(&mut limits);
    let disk = Emulate::new(Owned(limits, AtomicBool::new(false)));
    let owner: Owner = Arc::new(vec![0; 20000]);
    let mut buf = [0; 19480];
    for op in [Op::Write(&[0; 19480]), Op::Read(&mut buf)] {
        let request = Request {
            op,
            at: 1000,
            flags: NONE,
            owner: Some(&owner),
            cancel: None,
        };
        disk.serve(request).unwrap();
    }
    assert!(!disk.disk.1.load(Ordering::Relaxed), "block 0 is a bounce");
}

#[test]
fn a_panic_below_leaves_no_lock_behind() {
    let (disk, memory) = over(Memory::builder(MIB).limits(blocks(4096, u32::MAX)));
    memory.inject(Fault::new(Effect::Panic).on(OpKind::Write));
    let write = || serve(&disk, Op::Write(&[1]), 1, NONE);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_err();
    assert_eq!(write(), None);
}
