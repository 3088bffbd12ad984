//! The table "From the kernel to the plugin" of `docs/semantics.md`, replayed: the kernel is told what a row
//! says, and the plugin must be called as the row says. What this file does not understand fails.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

use support::device::{Attached, Kind, Page, open_direct, run};
use support::on_each;
use support::semantics::{Asked, not_understood, promised, table, version_1};

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
";
const V1_FLUSH: &str = "
def flush(h): say('flush')
";

/// The plugins that a row can be about, each in both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    Native,
    Emulate,
    None,
    NoFlush,
}

impl Plugin {
    const ALL: [Self; 4] = [Self::Native, Self::Emulate, Self::None, Self::NoFlush];

    /// What stands behind the semicolon in the first column.
    fn of(condition: &str) -> &'static [Self] {
        match condition {
            // It has everything.
            "" | "`can_fua` NATIVE" => &[Self::Native],
            "EMULATE, or NONE with `flush`" => &[Self::Emulate, Self::None],
            "no `flush`" => &[Self::NoFlush],
            _ => not_understood(condition),
        }
    }

    fn script(self, version: u32) -> String {
        let (data, flush) = match version {
            1 => (V1, V1_FLUSH),
            _ => (V2, V2_FLUSH),
        };
        let can_fua = |level| format!("def can_fua(h): return nbdkit.FUA_{level}\n");
        let rest = match self {
            Self::Native => flush.to_owned() + &can_fua("NATIVE"),
            Self::Emulate => flush.to_owned() + &can_fua("EMULATE"),
            Self::None => flush.to_owned() + &can_fua("NONE"),
            Self::NoFlush => String::new(),
        };
        [RECORDER, data, &rest].concat()
    }
}

struct Recorded {
    disk: Attached,
    log: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Recorded {
    fn new(kind: Kind, version: u32, plugin: Plugin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let text = plugin.script(version);
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

/// What the kernel is told, on which range.
type Act = (fn(&str), Asked);

const fn range(len: u64, at: u64) -> Asked {
    Asked {
        len,
        at,
        data_len: len,
    }
}

const BLOCK: Asked = range(4096, 8192);
const BLOCKS: Asked = range(131_072, 65536);

/// Each request of the first column, and the front ends whose kernel cannot be told that.
const ACTS: [(&str, Act, &[Kind]); 7] = [
    ("write", (plain_write, BLOCK), &[]),
    ("write, FUA", (dsync_write, BLOCK), &[]),
    ("flush, fsync", (fsync, BLOCK), &[]),
    ("discard", (discard, BLOCKS), &[Kind::File]),
    (
        "write zeroes, may unmap (`PUNCH_HOLE`)",
        (punch_hole, BLOCKS),
        &[],
    ),
    (
        "write zeroes, no unmap (`ZERO_RANGE`)",
        (zero_range, BLOCKS),
        &[],
    ),
    (
        "write zeroes, no unmap (`BLKZEROOUT`)",
        (zero_out, BLOCKS),
        &[Kind::File],
    ),
];

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

fn fsync(device: &str) {
    open_direct(device).sync_all().unwrap();
}

fn plain_write(device: &str) {
    direct_write(device, ReadWriteFlags::empty());
}

/// A row of the table for one front end.
struct Row {
    request: String,
    plugins: &'static [Plugin],
    cells: [String; 2],
}

/// The rows about `kind`. Each request has some, unless its kernel cannot be told that.
fn rows(kind: Kind) -> Vec<Row> {
    let columns = [
        "the kernel says",
        "front end",
        "API version 2",
        "API version 1",
    ];
    let mut rows = Vec::new();
    for [says, front_ends, second, first] in table("From the kernel to the plugin", columns) {
        let (request, condition) = says.split_once("; ").unwrap_or((&says, ""));
        let act = ACTS.iter().find(|(name, ..)| *name == request);
        let (_, _, cannot) = act.unwrap_or_else(|| not_understood(request));
        // Read whether or not the row is about this one.
        let plugins = Plugin::of(condition);
        let first = version_1(&first, &second);
        if !kinds(&front_ends).contains(&kind) {
            continue;
        }
        assert!(!cannot.contains(&kind), "{says}: not on {}", kind.word());
        rows.push(Row {
            request: request.to_owned(),
            plugins,
            cells: [first, second],
        });
    }
    for (request, _, cannot) in ACTS {
        let said = rows.iter().any(|row| row.request == request);
        assert!(said || cannot.contains(&kind), "no row of `{request}`");
    }
    rows
}

fn kinds(cell: &str) -> Vec<Kind> {
    let kind = |word| match word {
        "ublk" => Kind::Ublk,
        "nbd" => Kind::Nbd,
        "loop" => Kind::Loop,
        "FUSE" => Kind::File,
        _ => not_understood(cell),
    };
    match cell {
        "all" => Kind::ALL.to_vec(),
        cell => cell.split(", ").map(kind).collect(),
    }
}

fn requests_arrive_as_the_document_says(kind: Kind) {
    let rows = rows(kind);
    let mut wrong = String::new();
    for (index, version) in [1, 2].into_iter().enumerate() {
        for plugin in Plugin::ALL {
            let disk = Recorded::new(kind, version, plugin);
            for row in rows.iter().filter(|row| row.plugins.contains(&plugin)) {
                let (_, (act, asked), _) = ACTS.iter().find(|act| act.0 == row.request).unwrap();
                let expected = promised(&row.cells[index], *asked);
                assert_eq!(expected.errno, None, "{}", row.cells[index]);
                let mut calls = disk.during(act);
                if row.cells[index].ends_with("FLAG_FUA)`") {
                    // Before 6.13 or so the kernel flushes as well, although the write was durable.
                    calls.truncate(1);
                }
                if calls != expected.calls {
                    let (request, promised) = (&row.request, &row.cells[index]);
                    wrong += &format!(
                        "{request}, {plugin:?}, version {version}: promised {promised}, called {calls:?}\n"
                    );
                }
            }
            disk.disk.detach();
        }
    }
    assert!(wrong.is_empty(), "{}:\n{wrong}", kind.word());
}

on_each!(requests_arrive_as_the_document_says);

#[test]
fn a_discarded_range_reads_as_zeroes_on_loop() {
    if !Kind::Loop.available() {
        return;
    }
    let disk = Recorded::new(Kind::Loop, 2, Plugin::Native);
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
