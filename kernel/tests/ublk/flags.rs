//! What reaches the handler for each thing that can be asked of a block device.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use pydisk_kernel::ublk::{Handler, Io, Op, Params, Running};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::support::{Memory, Page, Way, available, everything, open_direct};

/// Writes down what is not a read.
struct Recorder {
    disk: Arc<Memory>,
    seen: Mutex<Vec<String>>,
}

impl Handler for Recorder {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        let line = match &io.op {
            Op::Read(_) => None,
            Op::Write { data, fua } => Some(format!("write {}+{} fua={fua}", io.at, data.len())),
            Op::Flush => Some("flush".into()),
            Op::Discard { len } => Some(format!("discard {}+{len}", io.at)),
            Op::WriteZeroes { len, may_unmap } => {
                Some(format!("zero {}+{len} may_unmap={may_unmap}", io.at))
            }
        };
        self.seen.lock().unwrap().extend(line);
        self.disk.serve(io)
    }
}

struct Bench {
    recorder: Arc<Recorder>,
    running: Running,
    file: File,
}

impl Bench {
    fn new(params: &Params) -> Self {
        let size = usize::try_from(params.size_bytes).unwrap();
        let recorder = Arc::new(Recorder {
            disk: Memory::new(size),
            seen: Mutex::default(),
        });
        let running = Way::Serial.start(params, Arc::clone(&recorder) as Arc<dyn Handler>);
        let file = open_direct(running.device_path());
        Self {
            recorder,
            running,
            file,
        }
    }

    fn sees(&self, act: impl FnOnce(&File)) -> Vec<String> {
        self.recorder.seen.lock().unwrap().clear();
        act(&self.file);
        std::mem::take(&mut self.recorder.seen.lock().unwrap())
    }

    fn end(self) {
        drop(self.file);
        self.running.stop().unwrap();
    }
}

const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;

fn range_ioctl(file: &File, code: libc::c_ulong, range: [u64; 2]) {
    // SAFETY: both take two numbers.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), code, &range) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn durable_write(file: &File) {
    let page = Page([1; 4096]);
    let written = pwritev2(file, &[IoSlice::new(&page.0)], 8192, ReadWriteFlags::DSYNC);
    assert_eq!(written, Ok(4096));
}

#[test]
fn each_request_of_the_block_layer_arrives_with_its_flags() {
    if !available() {
        return;
    }
    let bench = Bench::new(&everything(1 << 20));
    let plain = bench.sees(|mut file| file.write_all(&Page([1; 4096]).0).unwrap());
    assert_eq!(plain, ["write 0+4096 fua=false"]);
    assert_eq!(bench.sees(|file| file.sync_all().unwrap()), ["flush"]);
    // The file's own synchronisation flushes once more after that.
    assert_eq!(bench.sees(durable_write)[0], "write 8192+4096 fua=true");
    assert_eq!(
        bench.sees(|file| range_ioctl(file, BLKDISCARD, [4096, 8192])),
        ["discard 4096+8192"]
    );
    assert_eq!(
        bench.sees(|file| range_ioctl(file, BLKZEROOUT, [4096, 8192])),
        ["zero 4096+8192 may_unmap=false"]
    );
    let keep = FallocateFlags::KEEP_SIZE;
    let hole = FallocateFlags::PUNCH_HOLE | keep;
    assert_eq!(
        bench.sees(|file| fallocate(file, hole, 4096, 8192).unwrap()),
        ["zero 4096+8192 may_unmap=true"]
    );
    let zero = FallocateFlags::ZERO_RANGE | keep;
    assert_eq!(
        bench.sees(|file| fallocate(file, zero, 4096, 8192).unwrap()),
        ["zero 4096+8192 may_unmap=false"]
    );
    bench.end();
}

#[test]
fn without_fua_the_kernel_flushes_after_the_write() {
    if !available() {
        return;
    }
    let bench = Bench::new(&Params {
        fua: false,
        ..everything(1 << 20)
    });
    assert_eq!(
        bench.sees(durable_write)[..2],
        ["write 8192+4096 fua=false", "flush"]
    );
    bench.end();
}

#[test]
fn without_a_cache_nothing_is_flushed() {
    if !available() {
        return;
    }
    let bench = Bench::new(&Params::new(1 << 20));
    assert_eq!(bench.sees(durable_write), ["write 8192+4096 fua=false"]);
    assert!(bench.sees(|file| file.sync_all().unwrap()).is_empty());
    bench.end();
}

#[test]
fn without_limits_the_kernel_zeroes_by_writing_and_discards_nothing() {
    if !available() {
        return;
    }
    let bench = Bench::new(&Params::new(1 << 20));
    assert_eq!(
        bench.sees(|file| range_ioctl(file, BLKZEROOUT, [4096, 8192])),
        ["write 4096+8192 fua=false"]
    );
    // SAFETY: takes two numbers.
    let discarded = unsafe { libc::ioctl(bench.file.as_raw_fd(), BLKDISCARD, &[4096_u64, 4096]) };
    assert_eq!(discarded, -1);
    assert_eq!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EOPNOTSUPP)
    );
    bench.end();
}

#[test]
fn the_device_has_the_parameters_that_were_asked_for() {
    if !available() {
        return;
    }
    let params = Params {
        logical_block: 4096,
        io_opt: 1 << 16,
        max_io_bytes: 1 << 18,
        rotational: true,
        read_only: true,
        ..everything(1 << 20)
    };
    let running = Way::Serial.start(&params, Memory::new(1 << 20));
    let folder = format!("/sys/block/ublkb{}", running.id());
    for (name, value) in [
        ("size", "2048"),
        ("ro", "1"),
        ("queue/logical_block_size", "4096"),
        ("queue/physical_block_size", "4096"),
        ("queue/optimal_io_size", "65536"),
        ("queue/max_hw_sectors_kb", "256"),
        ("queue/rotational", "1"),
        ("queue/fua", "1"),
        ("queue/write_cache", "write back"),
        ("queue/discard_granularity", "4096"),
        ("queue/discard_max_hw_bytes", "1073741824"),
        ("queue/write_zeroes_max_bytes", "67108864"),
    ] {
        let found = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        assert_eq!(found.trim(), value, "{name}");
    }
    running.stop().unwrap();
}
