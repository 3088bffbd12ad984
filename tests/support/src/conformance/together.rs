//! Several requests at once.

use std::sync::Arc;

use pydisk::disk::{Flags, Op, OpenDisk, Request};

use super::{Bench, Subject, pattern};

/// A batch serves what is sent in it.
pub(super) fn batch(open: &Arc<dyn OpenDisk>) {
    let disk = Bench(Arc::clone(open) as _);
    let step = disk.step();
    let mut runs = 0;
    open.batch(&mut || {
        runs += 1;
        for number in 0..10 {
            let mut buf = vec![0; step];
            let at = number * step as u64;
            disk.0.serve(Request::new(Op::Read(&mut buf), at)).unwrap();
        }
        if disk.writable() {
            disk.write(0, &pattern(1, step));
            disk.assert_holds(0, &pattern(1, step));
        }
    });
    assert_eq!(runs, 1);
}

/// Threads write stripes that share blocks; none may undo what another one wrote.
pub(super) fn neighbours(subject: &Subject<'_>) {
    const THREADS: usize = 8;
    let disk = subject.open();
    if !disk.limits().parallel || !disk.writable() {
        return;
    }
    let stripe = if disk.limits().strict_blocks {
        disk.step()
    } else {
        // Some 10 to a page, and none that ends with it.
        411
    };
    let rounds = 30;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..rounds {
                    let at = ((round * THREADS + thread) * stripe) as u64;
                    disk.write(at, &pattern(at + 1, stripe));
                    if disk.limits().flush && round % 10 == 0 {
                        disk.serve(Op::Flush, 0, Flags::empty());
                    }
                    disk.write(at, &pattern(at, stripe));
                    disk.assert_holds(at, &pattern(at, stripe));
                }
            });
        }
    });
    for at in (0..rounds * THREADS).map(|number| (number * stripe) as u64) {
        disk.assert_holds(at, &pattern(at, stripe));
    }
}

/// What threads write to one range is in the end what one of them wrote, byte by byte.
pub(super) fn same_range(subject: &Subject<'_>) {
    let disk = subject.open();
    if !disk.limits().parallel || !disk.writable() {
        return;
    }
    let len = disk.step() * 16;
    std::thread::scope(|scope| {
        for value in 1..=8 {
            let disk = &disk;
            scope.spawn(move || {
                for _ in 0..20 {
                    disk.write(0, &vec![value; len]);
                    let seen = disk.read(0, len);
                    assert!(seen.iter().all(|byte| (1..=8).contains(byte)));
                }
            });
        }
    });
    assert!(disk.read(0, len).iter().all(|byte| (1..=8).contains(byte)));
}
