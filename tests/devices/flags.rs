//! The flag table of `docs/semantics.md`, row by row: what the kernel is told on one side, what the
//! plugin is called with on the other.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

use support::device::{Attached, Kind, Page, open_direct, run};

/// Writes every call but reads to the file that `log=` names.
const RECORDER: &str = "
import builtins, nbdkit
store = bytearray(16 << 20)
def config(key, value):
    assert key == 'log'
    global log
    log = builtins.open(value, 'a', buffering=1)
def say(*words): print(*words, file=log)
def open(readonly): return 0
def get_size(h): return len(store)
";

const V2: &str = "
API_VERSION = 2
def pread(h, buf, offset, flags): buf[:] = store[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags):
    say('pwrite', len(buf), offset, flags)
    store[offset:offset + len(buf)] = buf
def trim(h, count, offset, flags): say('trim', count, offset, flags)
def zero(h, count, offset, flags):
    say('zero', count, offset, flags)
    store[offset:offset + count] = bytes(count)
";
const V2_FLUSH: &str = "
def flush(h, flags): say('flush', flags)
";

const V1: &str = "
def pread(h, count, offset): return store[offset:offset + count]
def pwrite(h, buf, offset):
    say('pwrite', len(buf), offset)
    store[offset:offset + len(buf)] = buf
def trim(h, count, offset): say('trim', count, offset)
def zero(h, count, offset, may_trim):
    say('zero', count, offset, may_trim)
    store[offset:offset + count] = bytes(count)
def flush(h): say('flush')
";

fn fua(level: &str) -> String {
    format!("def can_fua(h): return nbdkit.FUA_{level}\n")
}

struct Recorded {
    disk: Attached,
    log: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Recorded {
    fn new(kind: Kind, parts: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = RECORDER.to_owned() + &parts.concat();
        let disk = Attached::with_script(kind, &text, &[&format!("log={}", log.display())]);
        Self {
            disk,
            log,
            _folder: folder,
        }
    }

    /// What the plugin was called with while `act` ran on the device. Several flushes in a row are
    /// one: some kernels send one for the write and one for the system call.
    fn during(&self, act: impl FnOnce(&str)) -> Vec<String> {
        std::fs::write(&self.log, "").unwrap();
        act(self.disk.device());
        let text = std::fs::read_to_string(&self.log).unwrap();
        let lines = text.trim_start_matches('\0').lines();
        let mut calls: Vec<_> = lines.map(str::to_owned).collect();
        calls.dedup_by(|next, call| next == call && call.starts_with("flush"));
        calls
    }
}

fn discard(device: &str) {
    run("blkdiscard", ["-o", "65536", "-l", "131072", device]);
}

fn zero_out(device: &str) {
    run("blkdiscard", ["-z", "-o", "65536", "-l", "131072", device]);
}

/// fallocate(2) alone; the program fallocate calls fsync as well.
fn fallocate(device: &str, flags: FallocateFlags) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .unwrap();
    rustix::fs::fallocate(&file, flags | FallocateFlags::KEEP_SIZE, 65536, 131_072).unwrap();
}

fn punch_hole(device: &str) {
    fallocate(device, FallocateFlags::PUNCH_HOLE);
}

fn zero_range(device: &str) {
    fallocate(device, FallocateFlags::ZERO_RANGE);
}

/// A 4 KiB write at 8192 past the page cache.
fn direct_write(device: &str, flags: ReadWriteFlags) -> File {
    let file = open_direct(device);
    let page = Page([b'x'; 4096]);
    let wrote = rustix::io::pwritev2(&file, &[IoSlice::new(&page.0)], 8192, flags);
    assert_eq!(wrote, Ok(4096));
    file
}

fn dsync_write(device: &str) {
    direct_write(device, ReadWriteFlags::DSYNC);
}

fn write_and_fsync(device: &str) {
    let file = direct_write(device, ReadWriteFlags::empty());
    file.sync_all().unwrap();
}

fn plain_write(device: &str) {
    direct_write(device, ReadWriteFlags::empty());
}

/// ublk and NBD send discard and write-zeroes as what they are.
fn discard_and_zeroing(kind: Kind) {
    if !kind.available() {
        return;
    }
    let v2 = Recorded::new(kind, &[V2, V2_FLUSH]);
    assert_eq!(v2.during(discard), ["trim 131072 65536 0"]);
    assert_eq!(v2.during(zero_out), ["zero 131072 65536 0"]);
    assert_eq!(v2.during(punch_hole), ["zero 131072 65536 1"]);
    assert_eq!(v2.during(zero_range), ["zero 131072 65536 0"]);
    let v1 = Recorded::new(kind, &[V1]);
    assert_eq!(v1.during(discard), ["trim 131072 65536"]);
    assert_eq!(v1.during(zero_out), ["zero 131072 65536 False"]);
    assert_eq!(v1.during(punch_hole), ["zero 131072 65536 True"]);
    assert_eq!(v1.during(zero_range), ["zero 131072 65536 False"]);
}

#[test]
fn discard_and_zeroing_on_ublk() {
    discard_and_zeroing(Kind::Ublk);
}

#[test]
fn discard_and_zeroing_on_nbd() {
    discard_and_zeroing(Kind::Nbd);
}

/// loop sends the same request for discard and for write-zeroes that may unmap, so both are zeroed.
#[test]
fn discard_and_zeroing_on_loop() {
    if !Kind::Loop.available() {
        return;
    }
    let v2 = Recorded::new(Kind::Loop, &[V2, V2_FLUSH]);
    assert_eq!(v2.during(discard), ["zero 131072 65536 1"]);
    assert_eq!(v2.during(zero_out), ["zero 131072 65536 0"]);
    assert_eq!(v2.during(punch_hole), ["zero 131072 65536 1"]);
    assert_eq!(v2.during(zero_range), ["zero 131072 65536 0"]);
    let v1 = Recorded::new(Kind::Loop, &[V1]);
    assert_eq!(v1.during(discard), ["zero 131072 65536 True"]);
    assert_eq!(v1.during(zero_out), ["zero 131072 65536 False"]);
}

#[test]
fn hole_punching_and_zeroing_on_a_fuse_file() {
    if !Kind::File.available() {
        return;
    }
    let v2 = Recorded::new(Kind::File, &[V2, V2_FLUSH]);
    assert_eq!(v2.during(punch_hole), ["zero 131072 65536 1"]);
    assert_eq!(v2.during(zero_range), ["zero 131072 65536 0"]);
    let v1 = Recorded::new(Kind::File, &[V1]);
    assert_eq!(v1.during(punch_hole), ["zero 131072 65536 True"]);
    assert_eq!(v1.during(zero_range), ["zero 131072 65536 False"]);
}

/// Synchronous writes, for every answer of `can_fua`: (parts of the script, dsync, fsync).
fn durable_writes(kind: Kind, rows: &[(&[&str], &[&str], &[&str])]) {
    if !kind.available() {
        return;
    }
    for (parts, dsync, fsync) in rows {
        let disk = Recorded::new(kind, parts);
        let mut calls = disk.during(dsync_write);
        if *dsync == [WRITE_FUA] {
            // Before 6.13 or so the kernel flushes as well, although the write was durable.
            calls.truncate(1);
        }
        assert_eq!(calls, *dsync, "dsync: {parts:?}");
        assert_eq!(disk.during(write_and_fsync), *fsync, "fsync: {parts:?}");
        let plain = disk.during(plain_write);
        assert_eq!(plain, [fsync[0]], "plain: {parts:?}");
    }
}

const WRITE: &str = "pwrite 4096 8192 0";
const WRITE_FUA: &str = "pwrite 4096 8192 2";
const WRITE_V1: &str = "pwrite 4096 8192";

fn durable_writes_with_native_fua(kind: Kind) {
    let (none, emulate, native) = (fua("NONE"), fua("EMULATE"), fua("NATIVE"));
    durable_writes(
        kind,
        &[
            (
                &[V2, V2_FLUSH, &none],
                &[WRITE, "flush 0"],
                &[WRITE, "flush 0"],
            ),
            (
                &[V2, V2_FLUSH, &emulate],
                &[WRITE, "flush 0"],
                &[WRITE, "flush 0"],
            ),
            (&[V2, V2_FLUSH, &native], &[WRITE_FUA], &[WRITE, "flush 0"]),
            (&[V2], &[WRITE], &[WRITE]),
            (&[V1, &none], &[WRITE_V1, "flush"], &[WRITE_V1, "flush"]),
            (&[V1, &emulate], &[WRITE_V1, "flush"], &[WRITE_V1, "flush"]),
            (&[V1, &native], &[WRITE_V1, "flush"], &[WRITE_V1, "flush"]),
        ],
    );
}

#[test]
fn durable_writes_on_ublk() {
    durable_writes_with_native_fua(Kind::Ublk);
}

#[test]
fn durable_writes_on_nbd() {
    durable_writes_with_native_fua(Kind::Nbd);
}

/// loop has no FUA of its own: the kernel flushes.
#[test]
fn durable_writes_on_loop() {
    let native = fua("NATIVE");
    durable_writes(
        Kind::Loop,
        &[
            (&[V2, V2_FLUSH], &[WRITE, "flush 0"], &[WRITE, "flush 0"]),
            (
                &[V2, V2_FLUSH, &native],
                &[WRITE, "flush 0"],
                &[WRITE, "flush 0"],
            ),
            (&[V1], &[WRITE_V1, "flush"], &[WRITE_V1, "flush"]),
        ],
    );
}

#[test]
fn a_discarded_range_reads_as_zeroes_on_loop() {
    if !Kind::Loop.available() {
        return;
    }
    let disk = Recorded::new(Kind::Loop, &[V2, V2_FLUSH]);
    let device = disk.disk.device();
    run(
        "dd",
        [
            "if=/dev/urandom",
            &format!("of={device}"),
            "bs=1M",
            "count=1",
            "oflag=direct",
        ],
    );
    discard(device);
    let data = std::fs::read(Path::new(device)).unwrap();
    assert!(data[65536..65536 + 131072].iter().all(|byte| *byte == 0));
    assert!(data[..65536].iter().any(|byte| *byte != 0));
}
