//! The reference disk keeps its own promises: sparseness, faults, crashes.

use super::super::{Extent, ExtentKind};
use super::*;

fn write(disk: &Memory, at: u64, data: &[u8], flags: Flags) {
    disk.serve(Request::new(Op::Write(data), at).with_flags(flags))
        .unwrap();
}

fn serve(disk: &Memory, op: Op<'_>, at: u64) -> Result {
    disk.serve(Request::new(op, at))
}

#[test]
fn a_disk_of_many_tebibytes_costs_nothing_until_written() {
    let size = 1 << 62;
    let disk = Memory::new(size);
    write(&disk, size - 5000, &[7; 5000], Flags::empty());
    disk.serve(Request::new(Op::Zero(size - 4000), 0).with_flags(Flags::MAY_TRIM))
        .unwrap();
    assert_eq!(disk.peek(size - 4001, 2), [0, 7]);
    let mut found = Extents::starting_at(0);
    disk.extents(0..size, &mut found).unwrap();
    let hole = Extent {
        at: 0,
        len: size - 4096,
        kind: ExtentKind::HOLE | ExtentKind::ZERO,
    };
    assert_eq!(found.list()[0], hole);
    assert_eq!(found.end(), size);
}

#[test]
fn a_crash_loses_what_was_neither_flushed_nor_fua() {
    let disk = Memory::new(1 << 16);
    write(&disk, 0, b"flushed", Flags::empty());
    serve(&disk, Op::Flush, 0).unwrap();
    write(&disk, 2, b"LOST", Flags::empty());
    write(&disk, 100, b"fua", Flags::FUA);
    write(&disk, 200, b"lost", Flags::empty());
    assert_eq!(disk.peek(0, 7), b"flLOSTd");
    disk.crash();
    assert_eq!(disk.peek(0, 7), b"flushed");
    assert_eq!(disk.peek(100, 3), b"fua");
    assert_eq!(disk.peek(200, 4), [0; 4]);
    serve(&disk, Op::Flush, 0).unwrap();
    disk.crash();
    assert_eq!(disk.peek(0, 7), b"flushed");
}

#[test]
fn a_crash_undoes_zeroes_and_trims_that_were_not_flushed() {
    let disk = Memory::new(1 << 16);
    write(&disk, 0, &[5; 8192], Flags::FUA);
    serve(&disk, Op::Trim(4096), 0).unwrap();
    serve(&disk, Op::Zero(4096), 4096).unwrap();
    assert_eq!(disk.peek(0, 8192), [0; 8192]);
    disk.crash();
    assert_eq!(disk.peek(0, 8192), [5; 8192]);
    serve(&disk, Op::Trim(4096), 0).unwrap();
    serve(&disk, Op::Flush, 0).unwrap();
    disk.crash();
    assert_eq!(disk.peek(4000, 192), [[0; 96], [5; 96]].concat());
}

#[test]
fn a_disk_without_a_cache_loses_nothing() {
    let disk = Memory::builder(4096)
        .limits(|limits| limits.flush = false)
        .build();
    write(&disk, 0, b"kept", Flags::empty());
    disk.crash();
    assert_eq!(disk.peek(0, 4), b"kept");
}

#[test]
fn faults_strike_the_requests_they_are_for() {
    let disk = Memory::new(8192);
    disk.inject(
        Fault::fail(Errno::NOSPC)
            .on(OpKind::Write)
            .within(4096..8192)
            .after(1),
    );
    let errno = |op: Op<'_>, at| serve(&disk, op, at).err().map(|error| error.errno);
    assert_eq!(errno(Op::Write(&[1]), 0), None);
    assert_eq!(errno(Op::Write(&[1]), 4096), None, "the one to skip");
    assert_eq!(errno(Op::Read(&mut [0]), 4096), None);
    assert_eq!(errno(Op::Write(&[2; 2]), 4095), Some(Errno::NOSPC));
    assert_eq!(disk.peek(4095, 2), [0, 1], "nothing was written");
    assert_eq!(errno(Op::Write(&[2; 2]), 4095), None, "struck once");
    disk.inject(Fault::new(Effect::Tear(Errno::IO)));
    assert_eq!(errno(Op::Write(&[9; 4]), 0), Some(Errno::IO));
    assert_eq!(disk.peek(0, 4), [9, 9, 0, 0]);
    disk.inject(Fault::fail(Errno::IO).forever());
    assert_eq!(errno(Op::Flush, 0), Some(Errno::IO));
    assert_eq!(errno(Op::Trim(1), 0), Some(Errno::IO));
    disk.heal();
    assert_eq!(errno(Op::Flush, 0), None);
}

#[test]
fn a_second_thread_is_noticed_where_one_is_promised() {
    let disk = Memory::builder(4096)
        .limits(|limits| limits.parallel = false)
        .build();
    let guard = disk.alone.lock();
    let error = serve(&disk, Op::Flush, 0).unwrap_err();
    assert_eq!(error.errno, Errno::IO);
    drop(guard);
    serve(&disk, Op::Flush, 0).unwrap();
}

#[test]
fn trimmed_bytes_can_read_as_rubbish() {
    let disk = Memory::builder(8192).trim_fill(0xa5).record().build();
    write(&disk, 0, &[1; 4096], Flags::empty());
    serve(&disk, Op::Trim(8192), 0).unwrap();
    assert_eq!(disk.peek(4095, 2), [0xa5, 0]);
    let calls = disk.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!((calls[1].kind, calls[1].len), (OpKind::Trim, 8192));
}
