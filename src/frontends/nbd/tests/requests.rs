//! Requests and their answers, one at a time.

use super::*;
use crate::disk::memory::{Effect, Fault};
use crate::disk::{Cache, ExtentKind, Extents, Flags, Fua, Limits, Op, OpKind, OpenDisk, Request};

const SIZE: u64 = 1 << 20;
const SHAPES: [Shape; 3] = [Shape::Simple, Shape::Structured, Shape::Extended];
const NONE: Asked = Asked::empty();

/// A client of a disk that it may look into.
fn with(limits: impl FnOnce(&mut Limits), shape: Shape) -> (Arc<Memory>, Caller) {
    let disk = Arc::new(Memory::builder(SIZE).limits(limits).record().build());
    let service = Arc::new(service(Arc::clone(&disk)));
    (disk, Caller::gone(&service, shape))
}

/// How a write announces its data.
fn write_flags(shape: Shape) -> Asked {
    match shape {
        Shape::Extended => Asked::PAYLOAD_LEN,
        _ => NONE,
    }
}

#[test]
fn what_was_written_is_read() {
    for shape in SHAPES {
        let (disk, mut caller) = with(|_| (), shape);
        let data: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert_eq!(
            caller.call(1, write_flags(shape), 77, &data, 300_000).error,
            0
        );
        assert_eq!(disk.peek(77, 300_000), data);
        let reply = caller.call(0, NONE, 76, b"", 300_002);
        assert_eq!(reply.bytes(76, 300_002)[1..300_001], data);
        assert_eq!(caller.call(3, NONE, 0, b"", 0).error, 0);
        caller.ask(2, NONE, 0, 0, 0);
        assert!(matches!(caller.end(), End::Disconnected));
    }
}

#[test]
fn flags_reach_the_disk() {
    let fua = Asked::FUA;
    for shape in SHAPES {
        let (disk, mut caller) = with(|_| (), shape);
        let mut seen = |command, asked, payload: &[u8], at| {
            assert_eq!(caller.call(command, asked, at, payload, 512).error, 0);
            let calls = disk.calls();
            assert_eq!(calls.len(), 1);
            assert_eq!((calls[0].at, calls[0].len), (at, 512));
            (calls[0].kind, calls[0].flags)
        };
        let data = [1; 512];
        let announced = write_flags(shape);
        assert_eq!(
            seen(1, announced, &data, 0),
            (OpKind::Write, Flags::empty())
        );
        assert_eq!(
            seen(1, announced | fua, &data, 1),
            (OpKind::Write, Flags::FUA)
        );
        assert_eq!(seen(0, fua, b"", 2), (OpKind::Read, Flags::empty()));
        assert_eq!(seen(4, NONE, b"", 3), (OpKind::Trim, Flags::empty()));
        assert_eq!(seen(4, fua, b"", 4), (OpKind::Trim, Flags::FUA));
        assert_eq!(seen(5, fua, b"", 5), (OpKind::Cache, Flags::empty()));
        assert_eq!(seen(6, NONE, b"", 6), (OpKind::Zero, Flags::MAY_TRIM));
        assert_eq!(
            seen(6, Asked::NO_HOLE, b"", 7),
            (OpKind::Zero, Flags::empty())
        );
        let all = Asked::NO_HOLE | Asked::FAST_ZERO | fua;
        assert_eq!(
            seen(6, all, b"", 8),
            (OpKind::Zero, Flags::FAST_ZERO | Flags::FUA)
        );
    }
}

#[test]
fn requests_outside_the_disk_are_refused_and_the_next_one_is_served() {
    for shape in SHAPES {
        let (disk, mut caller) = with(|_| (), shape);
        let announced = write_flags(shape);
        for at in [SIZE - 511, SIZE, u64::MAX - 511, u64::MAX, 1 << 63] {
            assert_eq!(caller.call(0, NONE, at, b"", 512).error, 22);
            assert_eq!(caller.call(1, announced, at, &[1; 512], 512).error, 28);
            assert_eq!(caller.call(4, NONE, at, b"", 512).error, 22);
            assert_eq!(caller.call(5, NONE, at, b"", 512).error, 22);
            assert_eq!(caller.call(6, NONE, at, b"", 512).error, 28);
            assert_eq!(caller.call(7, NONE, at, b"", 512).error, 22);
            assert_eq!(caller.call(4, NONE, at, b"", u32::MAX.into()).error, 22);
        }
        assert_eq!(caller.call(4, NONE, 0, b"", u32::MAX.into()).error, 22);
        assert_eq!(caller.call(6, NONE, 0, b"", u32::MAX.into()).error, 28);
        for command in [0, 1, 4, 5, 6, 7] {
            let asked = if command == 1 { announced } else { NONE };
            let error = if matches!(command, 1 | 6) { 28 } else { 22 };
            assert_eq!(
                caller.call(command, asked, 0, b"", 0).error,
                error,
                "{command}"
            );
        }
        assert_eq!(caller.call(3, NONE, 1, b"", 0).error, 22);
        assert_eq!(caller.call(3, NONE, 0, b"", 1).error, 22);
        for command in [8, 9, 255, 0xffff] {
            assert_eq!(caller.call(command, NONE, 0, b"", 512).error, 22);
        }
        assert!(disk.calls().is_empty());
        assert_eq!(caller.call(0, NONE, SIZE - 512, b"", 512).error, 0);
        assert!(matches!(caller.end(), End::Vanished));
    }
}

#[test]
fn flags_that_do_not_belong_are_refused() {
    for shape in SHAPES {
        let (_, mut caller) = with(|_| (), shape);
        let announced = write_flags(shape);
        for (command, own) in [
            (
                0,
                if shape == Shape::Simple {
                    NONE
                } else {
                    Asked::DF
                },
            ),
            (1, announced),
            (3, NONE),
            (4, NONE),
            (5, NONE),
            (6, Asked::NO_HOLE | Asked::FAST_ZERO),
            (7, Asked::REQ_ONE),
        ] {
            for bit in (0..16).map(|shift| Asked::from_bits_retain(1 << shift)) {
                let mut asked = bit;
                let mut payload = &[7; 512][..];
                match command {
                    1 => asked |= announced,
                    _ if shape == Shape::Extended && bit == Asked::PAYLOAD_LEN => (),
                    _ => payload = b"",
                }
                let len = if command == 3 && payload.is_empty() {
                    0
                } else {
                    512
                };
                let no_context = command == 7 && shape == Shape::Simple;
                let allowed = (own | Asked::FUA).contains(bit) && !no_context;
                let reply = caller.call(command, asked, 0, payload, len);
                assert_eq!(reply.error == 0, allowed, "{command} {bit:?} {reply:?}");
            }
        }
    }
}

#[test]
fn what_is_wrong_in_several_ways_gets_the_first_error() {
    for shape in SHAPES {
        let odd = Asked::DF | Asked::FAST_ZERO;
        let (_, mut caller) = with(|limits| limits.read_only = true, shape);
        assert_eq!(caller.call(6, odd, SIZE, b"", 512).error, 1, "read-only");
        let (_, mut caller) = with(|_| (), shape);
        assert_eq!(
            caller.call(6, odd, SIZE, b"", 512).error,
            28,
            "past the end"
        );
        assert_eq!(caller.call(6, odd, 0, b"", 512).error, 22, "an odd flag");
        assert_eq!(caller.call(3, odd, 0, b"", 0).error, 22, "an odd flag");
    }
}

#[test]
fn a_write_with_extended_headers_announces_its_payload() {
    let (disk, mut caller) = with(|_| (), Shape::Extended);
    assert_eq!(caller.call(1, NONE, 0, &[1; 512], 512).error, 22);
    assert!(disk.calls().is_empty());
    assert_eq!(
        caller.call(1, Asked::PAYLOAD_LEN, 0, &[1; 512], 512).error,
        0
    );
}

#[test]
fn a_read_only_export_can_be_read_only() {
    for shape in SHAPES {
        let (disk, mut caller) = with(|limits| limits.read_only = true, shape);
        let announced = write_flags(shape);
        for asked in [NONE, Asked::FUA] {
            assert_eq!(
                caller.call(1, asked | announced, 0, &[1; 512], 512).error,
                1
            );
            assert_eq!(caller.call(4, asked, 0, b"", 512).error, 1);
            assert_eq!(caller.call(6, asked, 0, b"", 512).error, 1);
        }
        assert!(disk.calls().is_empty());
        assert_eq!(caller.call(0, NONE, 0, b"", 512).error, 0);
        assert_eq!(caller.call(3, NONE, 0, b"", 0).error, 0);
    }
}

#[test]
fn what_an_export_does_not_offer_is_refused() {
    let poor = |limits: &mut Limits| {
        limits.flush = false;
        limits.fua = Fua::None;
        limits.trim = false;
        limits.cache = Cache::None;
        limits.fast_zero = false;
    };
    for shape in SHAPES {
        let (disk, mut caller) = with(poor, shape);
        assert_eq!(caller.call(3, NONE, 0, b"", 0).error, 22);
        assert_eq!(caller.call(4, NONE, 0, b"", 512).error, 22);
        assert_eq!(caller.call(5, NONE, 0, b"", 512).error, 22);
        assert_eq!(caller.call(6, Asked::FAST_ZERO, 0, b"", 512).error, 22);
        let fua = Asked::FUA | write_flags(shape);
        assert_eq!(caller.call(1, fua, 0, &[1; 512], 512).error, 22);
        assert!(disk.calls().is_empty());
        let (_, mut caller) = with(|limits| limits.zero = false, shape);
        assert_eq!(caller.call(6, NONE, 0, b"", 512).error, 22);
    }
}

#[test]
fn blocks_are_held_to_where_they_are_strict() {
    let strict = |limits: &mut Limits| {
        limits.strict_blocks = true;
        limits.block.minimum = 512;
        limits.block.maximum = 4096;
    };
    for shape in SHAPES {
        let (disk, mut caller) = with(strict, shape);
        let announced = write_flags(shape);
        assert_eq!(caller.call(0, NONE, 1, b"", 512).error, 22);
        assert_eq!(caller.call(1, announced, 0, &[1; 511], 511).error, 22);
        assert_eq!(caller.call(0, NONE, 0, b"", 4608).error, 22);
        assert_eq!(caller.call(4, NONE, 0, b"", 511).error, 22);
        assert!(disk.calls().is_empty());
        assert_eq!(caller.call(0, NONE, 512, b"", 4096).error, 0);
        assert_eq!(caller.call(6, NONE, 512, b"", 8192).error, 0, "no data");
    }
}

#[test]
fn too_much_data_is_refused_and_far_too_much_not_even_read() {
    for shape in SHAPES {
        let mut service = service(memory(SIZE, false));
        service.bounds.payload = 4096;
        let service = Arc::new(service);
        let announced = write_flags(shape);
        let mut caller = Caller::gone(&service, shape);
        assert_eq!(caller.call(0, NONE, 0, b"", 4097).error, 12);
        if shape >= Shape::Structured {
            assert_eq!(caller.call(0, Asked::DF, 0, b"", 4097).error, 75);
        }
        assert_eq!(caller.call(1, announced, 0, &[1; 4097], 4097).error, 12);
        assert_eq!(caller.call(1, announced, 0, &[1; 16384], 16384).error, 12);
        assert_eq!(caller.call(0, NONE, 0, b"", 4096).bytes(0, 4096), [0; 4096]);
        assert_eq!(caller.call(6, NONE, 0, b"", SIZE).error, 0, "no data");
        caller.ask(1, announced, 0, 16385, 0);
        assert!(matches!(caller.end(), End::Broken(_)));
    }
}

#[test]
fn lengths_of_64_bits_come_with_extended_headers() {
    let disk = Memory::builder(1 << 40).build();
    let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Extended);
    let (at, long) = (1 << 33, 1 << 34);
    assert_eq!(caller.call(6, NONE, at, b"", long).error, 0);
    let reply = caller.call(4, NONE, at, b"", long);
    assert_eq!((reply.error, reply.at), (0, at));
    let reply = caller.call(7, NONE, 0, b"", 1 << 40);
    assert_eq!(reply.extents, [(1 << 40, 3)]);
    for len in [(1 << 40) + 1, 1 << 63, u64::MAX] {
        for (command, error) in [(0, 22), (3, 22), (4, 22), (6, 28), (99, 22)] {
            let reply = caller.call(command, NONE, 0, b"", len);
            assert_eq!(reply.error, error, "{command} {len}");
        }
    }
    caller.ask(1, Asked::PAYLOAD_LEN, 0, u64::MAX, 0);
    assert!(matches!(caller.end(), End::Broken(_)));
}

#[test]
fn extents_of_more_than_32_bits_are_cut_without_extended_headers() {
    let disk = Memory::builder(1 << 40).build();
    let mut caller = Caller::gone(&Arc::new(service(disk)), Shape::Structured);
    let reply = caller.call(7, NONE, 0, b"", u32::MAX.into());
    assert_eq!(reply.extents, [(0xffff_0000, 3)]);
}

#[test]
fn a_read_with_a_hole_in_it_comes_in_chunks() {
    for shape in [Shape::Structured, Shape::Extended] {
        let (_, mut caller) = with(|_| (), shape);
        caller.call(1, write_flags(shape), 0, &[1; 8192], 8192);
        caller.call(1, write_flags(shape), 100_000, &[2; 10], 10);
        let reply = caller.call(0, NONE, 10, b"", 200_000);
        assert_eq!(reply.holes.len(), 2, "{:?}", reply.holes);
        assert_eq!(reply.holes[0].0, 8192);
        let mut expected = vec![0; 200_000];
        expected[..8182].fill(1);
        expected[99_990..100_000].fill(2);
        assert_eq!(reply.bytes(10, 200_000), expected);
        let whole = caller.call(0, Asked::DF, 10, b"", 200_000);
        assert_eq!((whole.data.len(), whole.holes.len()), (1, 0));
        assert_eq!(whole.bytes(10, 200_000), expected);
        let small = caller.call(0, NONE, 20_000, b"", 4096);
        assert_eq!((small.data.len(), small.holes.len()), (1, 0));
        let nothing = caller.call(0, NONE, 500_000, b"", 100_000);
        assert_eq!((nothing.data.len(), nothing.holes.len()), (0, 1));
    }
}

#[test]
fn extents_are_told_in_order_and_one_if_one_was_asked_for() {
    for shape in [Shape::Structured, Shape::Extended] {
        let (_, mut caller) = with(|_| (), shape);
        caller.call(1, write_flags(shape), 65536, &[1; 4096], 4096);
        let reply = caller.call(7, NONE, 0, b"", SIZE);
        assert_eq!(reply.extents, [(65536, 3), (4096, 0), (SIZE - 69632, 3)]);
        let reply = caller.call(7, Asked::REQ_ONE, 0, b"", 4096);
        assert_eq!(reply.extents, [(4096, 3)]);
        let (_, mut caller) = with(|limits| limits.extents = false, shape);
        let reply = caller.call(7, NONE, 0, b"", 4096);
        assert_eq!(reply.extents, [(4096, 0)]);
    }
}

#[test]
fn failures_are_told_in_the_numbers_of_the_protocol() {
    for shape in SHAPES {
        let (disk, mut caller) = with(|_| (), shape);
        for (errno, told) in [
            (Errno::PERM, 1),
            (Errno::ROFS, 1),
            (Errno::IO, 5),
            (Errno::NOMEM, 12),
            (Errno::NOSPC, 28),
            (Errno::DQUOT, 28),
            (Errno::FBIG, 28),
            (Errno::SHUTDOWN, 108),
            (Errno::INVAL, 22),
            (Errno::ACCESS, 22),
            (Errno::OPNOTSUPP, 22),
            (Errno::OVERFLOW, 22),
        ] {
            disk.inject(Fault::fail(errno));
            let reply = caller.call(0, NONE, 0, b"", 512);
            assert_eq!((reply.error, reply.data.len()), (told, 0), "{errno}");
        }
        disk.inject(Fault::fail(Errno::OPNOTSUPP));
        assert_eq!(caller.call(6, Asked::FAST_ZERO, 0, b"", 512).error, 95);
        disk.inject(Fault::new(Effect::Panic));
        assert_eq!(caller.call(3, NONE, 0, b"", 0).error, 5);
        if shape != Shape::Simple {
            disk.inject(Fault::fail(Errno::OVERFLOW));
            assert_eq!(caller.call(0, Asked::DF, 0, b"", 512).error, 75);
        }
        assert_eq!(caller.call(0, NONE, 0, b"", 512).error, 0);
    }
}

#[test]
fn a_read_that_fails_behind_a_hole_sends_no_data() {
    for shape in [Shape::Structured, Shape::Extended] {
        let (disk, mut caller) = with(|_| (), shape);
        caller.call(1, write_flags(shape), 0, &[1; 4096], 4096);
        caller.call(1, write_flags(shape), 131_072, &[1; 4096], 4096);
        disk.inject(
            Fault::fail(Errno::IO)
                .on(OpKind::Read)
                .within(131_072..131_073),
        );
        let reply = caller.call(0, NONE, 0, b"", 200_000);
        let error = Reply {
            error: 5,
            ..Reply::default()
        };
        assert_eq!(reply, error);
    }
}

#[test]
fn a_request_without_its_magic_ends_the_conversation() {
    for shape in SHAPES {
        let compact: u32 = 0x2560_9513;
        let extended: u32 = 0x21e4_1c71;
        let others = if shape == Shape::Extended {
            compact
        } else {
            extended
        };
        for magic in [0, 0x2525_2525, 0x6744_6698, others, u32::MAX] {
            let (_, mut caller) = with(|_| (), shape);
            caller.send(&[&magic.to_be_bytes()[..], &[0; 28]].concat());
            assert!(matches!(caller.end(), End::Broken(_)), "{magic:x}");
        }
    }
}

#[test]
fn requests_are_answered_although_their_client_says_nothing_more() {
    for shape in SHAPES {
        let (disk, mut caller) = with(|_| (), shape);
        let data = vec![3; 100_000];
        for cookie in 0..5 {
            caller.ask(1, write_flags(shape), cookie * 100_000, 100_000, cookie);
            caller.send(&data);
        }
        // Half a request.
        caller.ask(1, write_flags(shape), 0, 4096, 9);
        caller.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answered: Vec<u64> = (0..5).map(|_| caller.reply(|_| 0).0).collect();
        answered.sort_unstable();
        assert_eq!(answered, [0, 1, 2, 3, 4]);
        assert!(matches!(caller.end(), End::Vanished));
        assert_eq!(disk.peek(0, 500_000), vec![3; 500_000]);
    }
}

/// Finds out whether the mark for a single extent arrives.
#[derive(Debug)]
struct Marked(Limits, parking_lot::Mutex<Vec<bool>>);

impl Disk for Marked {
    fn limits(&self) -> &Limits {
        &self.0
    }
    fn serve(&self, request: Request<'_>) -> Result {
        if let Op::Read(bytes) = request.op {
            bytes.fill(9);
        }
        Ok(())
    }
    fn extents(&self, range: std::ops::Range<u64>, found: &mut Extents) -> Result {
        self.1.lock().push(found.is_first_only());
        found.push(4096, ExtentKind::HOLE);
        found.push(range.end - range.start - 4096, ExtentKind::DATA);
        Ok(())
    }
}

impl OpenDisk for Marked {}

#[test]
fn the_disk_learns_that_one_extent_is_enough_and_holes_need_not_be_zeroes() {
    let mut limits = Limits::read_only(SIZE);
    limits.extents = true;
    let disk = Arc::new(Marked(limits, parking_lot::Mutex::default()));
    let mut caller = Caller::gone(&Arc::new(service(Arc::clone(&disk))), Shape::Structured);
    assert_eq!(caller.call(7, NONE, 0, b"", SIZE).extents.len(), 2);
    assert_eq!(
        caller.call(7, Asked::REQ_ONE, 0, b"", SIZE).extents.len(),
        1
    );
    assert_eq!(*disk.1.lock(), [false, true]);
    assert_eq!(
        caller.call(0, NONE, 0, b"", 65536).bytes(0, 65536),
        [9; 65536]
    );
}
