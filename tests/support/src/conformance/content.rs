//! What is on the disk after requests that succeed.

use pydisk::disk::{Cache, Errno, ExtentKind, Extents, Flags, Fua, Op};

use super::{Bench, Subject, pattern};

const NONE: Flags = Flags::empty();

pub(super) fn fresh(subject: &Subject<'_>) {
    let disk = subject.open();
    let size = disk.limits().size;
    for at in [0, 64 << 10, size - (64 << 10)] {
        // At the end of an odd size only an aligned range is inside.
        let at = at / disk.step() as u64 * disk.step() as u64;
        let bytes = disk.read(at, 64 << 10);
        disk.assert_holds(at, &bytes);
    }
}

/// The offsets around which things go wrong: the ends of the disk, blocks and pages.
fn edges_of(disk: &Bench) -> Vec<u64> {
    let block = u64::from(disk.limits().block.minimum);
    let size = disk.limits().size / block * block;
    let mut edges: Vec<u64> = [512, 4096, 65536, 512 << 10, block, 7 * block, size]
        .into_iter()
        .filter(|edge| *edge <= size && edge.is_multiple_of(block))
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

pub(super) fn edges(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.writable() {
        return;
    }
    let step = disk.step();
    for (seed, edge) in edges_of(&disk).into_iter().enumerate() {
        for blocks in [1, 2, 3] {
            let bytes = pattern(seed as u64, blocks * step);
            let before = edge - step as u64;
            for at in [before, edge] {
                if at + bytes.len() as u64 <= disk.limits().size {
                    disk.write(at, &bytes);
                    disk.assert_holds(at, &bytes);
                }
            }
        }
    }
}

pub(super) fn parts_of_blocks(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.writable() || disk.limits().strict_blocks {
        return;
    }
    let mut model = pattern(1, 256 << 10);
    disk.write(0, &model);
    for (seed, at, len) in [
        (2, 1, 1),
        (3, 511, 2),
        (4, 513, 4096),
        (5, 4095, 70_000),
        (6, 100_001, 99_999),
    ] {
        let bytes = pattern(seed, len);
        disk.write(at as u64, &bytes);
        model[at..at + len].copy_from_slice(&bytes);
        disk.assert_holds(at as u64, &bytes);
        disk.assert_holds(0, &model);
        disk.assert_holds(at as u64 + 1, &model[at + 1..at + len + 777]);
    }
}

pub(super) fn overlap(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.writable() {
        return;
    }
    let step = disk.step().max(512);
    let mut model = pattern(1, 16 * step);
    disk.write(0, &model);
    for (seed, first, count) in [(2, 3, 5), (3, 0, 4), (4, 7, 9), (5, 7, 1), (6, 6, 3)] {
        let bytes = pattern(seed, count * step);
        disk.write((first * step) as u64, &bytes);
        model[first * step..(first + count) * step].copy_from_slice(&bytes);
    }
    disk.assert_holds(0, &model);
}

pub(super) fn zero(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.limits().zero {
        return;
    }
    let step = disk.step();
    let mut flags = vec![NONE, Flags::MAY_TRIM];
    if disk.limits().fua == Fua::Native {
        flags.extend([Flags::FUA, Flags::FUA | Flags::MAY_TRIM]);
    }
    for flags in flags {
        for (at, len) in [(step, step), (8192, 65536), (65536 - step, 65536 + step)] {
            let mut model = pattern(len as u64, 256 << 10);
            disk.write(0, &model);
            disk.serve(Op::Zero(len as u64), at as u64, flags);
            model[at..at + len].fill(0);
            disk.assert_holds(0, &model);
        }
    }
    if disk.limits().fast_zero {
        fast_zero(&disk);
    }
}

/// Either all of it or nothing.
fn fast_zero(disk: &Bench) {
    let old = pattern(9, 64 << 10);
    disk.write(0, &old);
    match disk.errno(Op::Zero(old.len() as u64), 0, Flags::FAST_ZERO) {
        None => disk.assert_holds(0, &vec![0; old.len()]),
        Some(errno) => {
            assert_eq!(errno, Errno::NOTSUP);
            disk.assert_holds(0, &old);
        }
    }
}

pub(super) fn trim(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.limits().trim {
        return;
    }
    let step = disk.step();
    for (at, len) in [(step, step), (8192, 65536), (65536 - step, 65536 + step)] {
        let old = pattern(3, 256 << 10);
        disk.write(0, &old);
        disk.serve(Op::Trim(len as u64), at as u64, NONE);
        disk.assert_holds(0, &old[..at]);
        disk.assert_holds((at + len) as u64, &old[at + len..]);
        let new = pattern(4, len);
        disk.write(at as u64, &new);
        disk.assert_holds(at as u64, &new);
    }
}

pub(super) fn hints(subject: &Subject<'_>) {
    let disk = subject.open();
    let limits = disk.limits();
    let len = disk.step().max(4096);
    if limits.flush {
        disk.serve(Op::Flush, 0, NONE);
    }
    if limits.cache != Cache::None {
        disk.serve(Op::Cache(len as u64), len as u64, NONE);
        disk.serve(Op::Cache(limits.size), 0, NONE);
    }
    if !disk.writable() || limits.fua == Fua::None {
        return;
    }
    let bytes = pattern(1, len);
    let errno = disk.errno(Op::Write(&bytes), len as u64, Flags::FUA);
    if limits.fua == Fua::Emulate && errno == Some(Errno::INVAL) {
        // A bare disk that leaves the flush to others is not sent the flag.
        return;
    }
    assert_eq!(errno, None);
    disk.assert_holds(len as u64, &bytes);
    if limits.trim {
        disk.serve(Op::Trim(len as u64), 0, Flags::FUA);
    }
    disk.assert_holds(len as u64, &bytes);
}

pub(super) fn longest(subject: &Subject<'_>) {
    let disk = subject.open();
    let size = usize::try_from(disk.limits().size).unwrap();
    let len = size.min(disk.longest()) / disk.step() * disk.step();
    let mut bytes = vec![0xee; len];
    disk.serve(Op::Read(&mut bytes), 0, NONE);
    disk.assert_holds(0, &bytes);
    if disk.writable() {
        let bytes = pattern(7, len);
        disk.serve(Op::Write(&bytes), 0, NONE);
        disk.assert_holds(0, &bytes);
    }
}

pub(super) fn extents(subject: &Subject<'_>) {
    let disk = subject.open();
    let step = disk.step() as u64;
    if disk.writable() {
        disk.write(128 << 10, &pattern(1, 64 << 10));
    }
    let size = disk.limits().size / step * step;
    for range in [0..size, step..2 * step, 100 * step..size, size - step..size] {
        let mut at = range.start;
        while at < range.end {
            let mut found = Extents::starting_at(at);
            disk.0.extents(at..range.end, &mut found).unwrap();
            assert!(found.end() > at, "something is described");
            assert!(
                found.end() <= disk.limits().size,
                "and nothing past the end"
            );
            at = found.end();
        }
    }
}

pub(super) fn zero_extents(subject: &Subject<'_>) {
    let disk = subject.open();
    let step = disk.step() as u64;
    if disk.writable() {
        disk.write(0, &pattern(1, 512 << 10));
        disk.write(768 << 10, &pattern(2, 64 << 10));
        if disk.limits().zero {
            disk.serve(Op::Zero(128 << 10), 64 << 10, Flags::MAY_TRIM);
            disk.serve(Op::Zero(64 << 10), (256 << 10) + step, NONE);
        }
        if disk.limits().trim {
            disk.serve(Op::Trim(64 << 10), 384 << 10, NONE);
        }
    }
    let mut found = Extents::starting_at(0);
    disk.0.extents(0..1 << 20, &mut found).unwrap();
    for extent in found.list() {
        if extent.kind.contains(ExtentKind::ZERO) {
            let len = usize::try_from(extent.len.min((1 << 20) - extent.at)).unwrap();
            disk.assert_holds(extent.at, &vec![0; len]);
        }
    }
}
