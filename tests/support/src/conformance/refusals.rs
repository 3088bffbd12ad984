//! How a disk says no: with the right errno, and without having done anything.

use std::sync::Arc;

use pydisk::disk::{Cache, Disk, Errno, Flags, Fua, Op, OpKind, Request};

use super::{Bench, Subject, pattern};

const NONE: Flags = Flags::empty();

/// Every operation that the disk offers, on `len` bytes.
fn offered(disk: &Bench) -> Vec<OpKind> {
    let limits = disk.limits();
    [
        (OpKind::Read, true),
        (OpKind::Write, !limits.read_only),
        (OpKind::Zero, limits.zero),
        (OpKind::Trim, limits.trim),
        (OpKind::Cache, limits.cache != Cache::None),
    ]
    .into_iter()
    .filter_map(|(kind, offered)| offered.then_some(kind))
    .collect()
}

/// The errno of an operation on `buf.len()` bytes of rubbish.
fn errno_of(disk: &Bench, kind: OpKind, buf: &mut [u8], at: u64, flags: Flags) -> Option<Errno> {
    let len = buf.len() as u64;
    let op = match kind {
        OpKind::Read => Op::Read(buf),
        OpKind::Write => Op::Write(buf),
        OpKind::Zero => Op::Zero(len),
        OpKind::Trim => Op::Trim(len),
        OpKind::Cache => Op::Cache(len),
        OpKind::Flush => Op::Flush,
    };
    disk.errno(op, at, flags)
}

pub(super) fn past_the_end(subject: &Subject<'_>) {
    let disk = subject.open();
    let step = disk.step() as u64;
    let size = disk.limits().size / step * step;
    let last = size - step;
    let before = disk.read(last, disk.step());
    let mut buf = vec![0x55; 2 * disk.step()];
    for kind in offered(&disk) {
        let expected = if kind.modifies() {
            Errno::NOSPC
        } else {
            Errno::INVAL
        };
        for at in [
            last,
            disk.limits().size.next_multiple_of(step),
            u64::MAX / step * step,
        ] {
            let errno = errno_of(&disk, kind, &mut buf, at, NONE);
            assert_eq!(errno, Some(expected), "{kind:?} at {at}");
        }
    }
    disk.assert_holds(last, &before);
}

pub(super) fn empty(subject: &Subject<'_>) {
    let disk = subject.open();
    for kind in offered(&disk) {
        let errno = errno_of(&disk, kind, &mut [], 0, NONE);
        assert_eq!(errno, Some(Errno::INVAL), "{kind:?}");
    }
}

pub(super) fn read_only(subject: &Subject<'_>) {
    let disk = subject.open();
    if disk.writable() {
        return;
    }
    let before = disk.read(0, disk.step());
    let mut buf = pattern(1, disk.step());
    for kind in [OpKind::Write, OpKind::Zero, OpKind::Trim] {
        let errno = errno_of(&disk, kind, &mut buf, 0, NONE);
        assert_eq!(errno, Some(Errno::ROFS), "{kind:?}");
    }
    disk.assert_holds(0, &before);
    let limits = disk.limits();
    assert!(!limits.zero && !limits.fast_zero && !limits.trim);
}

pub(super) fn flags(subject: &Subject<'_>) {
    let disk = subject.open();
    let before = disk.read(0, disk.step());
    let mut buf = vec![0x55; disk.step()];
    for kind in offered(&disk) {
        let mut foreign = vec![4, 16, 1 << 31];
        if kind != OpKind::Zero {
            foreign.extend([Flags::MAY_TRIM.bits(), Flags::FAST_ZERO.bits()]);
        }
        if !kind.modifies() {
            foreign.push(Flags::FUA.bits());
        }
        for bits in foreign {
            let flags = Flags::from_bits_retain(bits);
            let errno = errno_of(&disk, kind, &mut buf, 0, flags);
            assert_eq!(errno, Some(Errno::INVAL), "{kind:?} {flags:?}");
        }
    }
    disk.assert_holds(0, &before);
}

pub(super) fn not_offered(subject: &Subject<'_>) {
    let disk = subject.open();
    let limits = disk.limits();
    let len = disk.step() as u64;
    if !limits.flush {
        assert_eq!(disk.errno(Op::Flush, 0, NONE), Some(Errno::INVAL));
    }
    if limits.cache == Cache::None {
        assert_eq!(disk.errno(Op::Cache(len), 0, NONE), Some(Errno::INVAL));
    }
    if limits.read_only {
        return;
    }
    let before = disk.read(0, disk.step());
    if !limits.trim {
        assert_eq!(disk.errno(Op::Trim(len), 0, NONE), Some(Errno::INVAL));
    }
    if limits.fua == Fua::None {
        let bytes = vec![0x55; disk.step()];
        let errno = disk.errno(Op::Write(&bytes), 0, Flags::FUA);
        assert_eq!(errno, Some(Errno::INVAL));
    }
    if limits.zero && !limits.fast_zero {
        let errno = disk.errno(Op::Zero(len), 0, Flags::FAST_ZERO);
        assert_eq!(errno, Some(Errno::NOTSUP));
    }
    disk.assert_holds(0, &before);
}

pub(super) fn errno(subject: &Subject<'_>) {
    let Some(failing) = subject.failing else {
        return;
    };
    for errno in [Errno::IO, Errno::NOSPC, Errno::PERM, Errno::TIMEDOUT] {
        for kind in offered(&subject.open()) {
            let disk = failing(kind, errno);
            let mut buf = vec![1; 65536];
            let found = errno_of(&Bench(Arc::clone(&disk)), kind, &mut buf, 0, NONE);
            assert_eq!(found, Some(errno), "{kind:?}");
        }
    }
    if subject.open().limits().flush {
        let disk = failing(OpKind::Flush, Errno::NOSPC);
        let error = disk.serve(Request::new(Op::Flush, 0)).unwrap_err();
        assert_eq!(error.errno, Errno::NOSPC);
        assert!(!error.to_string().is_empty(), "a cause in words");
    }
}
