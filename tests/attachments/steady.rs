//! Memory and log stay what they are, however many requests are served and fail.
//!
//! `PYDISK_TEST_SCALE=34` makes it a million requests and a hundred thousand exceptions of each kind.

mod client;
mod watched;

use std::fs::File;
use std::os::unix::fs::FileExt;

use client::Client;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate};
use support::device::{Attached, Kind, pydisk};
use support::nbd::raw::{cmd, export, opt};
use support::nbd::{Home, KIB, Server, clients};
use watched::Watched;

/// Requests of each kind that succeed, and that fail.
const REQUESTS: u32 = 30_000;
const FAILURES: u32 = 3_000;

/// Options that a client may ask for before it has to open something.
const OPTIONS: u32 = 20;

/// The block at N * 4096, read, fails by the Nth of these; the other operations fail by the first one.
const KINDS: [&str; 19] = [
    "plain",
    "oserror",
    "set_error",
    "big_local",
    "chained",
    "circle",
    "group",
    "surrogates",
    "long",
    "no_text",
    "recursion",
    "system_exit",
    "wrong_type",
    "not_callable",
    "kept_error",
    "kept_buffer",
    "with_lines",
    "native",
    "thread",
];

const SCRIPT: &str = r"
import errno, nbdkit, threading
API_VERSION = 2
PYDISK_ERRNO = 'native'
data = bytearray(1 << 20)
failing = False

def plain(buf): raise ValueError('plain')
def oserror(buf): raise OSError(errno.ENOSPC, 'full')
def set_error(buf):
    nbdkit.set_error(errno.ENOSPC)
    raise RuntimeError('chosen')
def big_local(buf):
    local = bytearray(65536)
    raise ValueError('with 64 KiB')
def chained(buf):
    local = bytearray(65536)
    try: plain(buf)
    except ValueError as error: raise OSError(errno.EROFS, 'chained') from error
def circle(buf):
    one, two = ValueError('one'), ValueError('two')
    one.__context__, two.__context__ = two, one
    raise one
def group(buf): raise ExceptionGroup('group', [ValueError(1), OSError(2, 'x')])
def surrogates(buf): raise ValueError('a\udc80\0\x1b')
def long(buf): raise ValueError('x' * 100000)
class NoText(Exception):
    def __str__(self): raise ValueError('no text')
def no_text(buf): raise NoText
def recursion(buf, depth=0): recursion(buf, depth + 1)
def system_exit(buf): raise SystemExit(1)
def wrong_type(buf): return (_ for _ in 'ab')
def not_callable(buf): None(buf)
class Kept(Exception): pass
KEPT = Kept('the same one each time')
def kept_error(buf):
    local = bytearray(65536)
    raise KEPT
last = None
def kept_buffer(buf):
    global last
    last = buf[1:]
    raise ValueError('kept')
def with_lines(buf): raise ValueError('\n'.join('line %d' % n for n in range(50)))
def native(buf): open_file('/no/such/file')
def thread(buf):
    thread = threading.Thread(target=nbdkit.set_error, args=[28])
    thread.start()
    thread.join()
    raise ValueError('another thread')

import builtins
open_file = builtins.open
KINDS = [globals()[name] for name in '@KINDS@'.split()]

def open(readonly):
    if nbdkit.export_name() == 'bad':
        local = bytearray(65536)
        raise ValueError('not this one')
    return 1
def list_exports(readonly, is_tls):
    local = bytearray(65536)
    yield 'one'
    raise ValueError('midway')
def get_size(h): return len(data)
def pread(h, buf, offset, flags):
    if offset // 4096 < len(KINDS): return KINDS[offset // 4096](buf)
    buf[:] = data[offset:offset + len(buf)]
def check(offset):
    if offset == 0:
        local = bytearray(65536)
        raise OSError(errno.ENOSPC, 'full')
def pwrite(h, buf, offset, flags):
    global failing
    check(offset)
    if offset == 512: failing = buf[0] == 1
    data[offset:offset + len(buf)] = buf
def zero(h, count, offset, flags):
    check(offset)
    data[offset:offset + count] = bytes(count)
def trim(h, count, offset, flags): check(offset)
def cache(h, count, offset, flags): check(offset)
def flush(h, flags):
    if failing: check(0)
def extents(h, count, offset, flags):
    if offset == 0: return midway()
    if offset == 512: return [(0, 1, 2), 'wrong']
    if offset == 1024: return 5
    return [(offset, count, 0)]
def midway():
    local = bytearray(65536)
    yield 0, 100, 0
    raise ValueError('midway')
";

/// Never so few that growth would not show.
fn scaled(count: u32) -> u32 {
    support::scale(count).max(1000)
}

/// What is asked: a name, the command, where, how often, and whether it succeeds.
fn work() -> Vec<(String, u16, u64, u32, bool)> {
    let commands = [
        ("read", cmd::READ),
        ("write", cmd::WRITE),
        ("zero", cmd::WRITE_ZEROES),
        ("trim", cmd::TRIM),
        ("cache", cmd::CACHE),
        ("flush", cmd::FLUSH),
        ("extents", cmd::BLOCK_STATUS),
    ];
    let mut work = Vec::new();
    for (name, command) in commands {
        work.push((name.to_owned(), command, 512 * KIB, scaled(REQUESTS), true));
    }
    for (number, kind) in KINDS.iter().enumerate() {
        let at = 4096 * u64::try_from(number).unwrap();
        // A thousand frames, or 100 KB of text, take their time.
        let count = match *kind {
            "recursion" | "long" => scaled(FAILURES) / 10,
            _ => scaled(FAILURES),
        };
        work.push((format!("read fails: {kind}"), cmd::READ, at, count, false));
    }
    for (name, command) in &commands[1..5] {
        let name = format!("{name} fails");
        work.push((name, *command, 0, scaled(FAILURES), false));
    }
    for (at, what) in [
        (0, "midway"),
        (512, "with a wrong entry"),
        (1024, "with a wrong type"),
    ] {
        let name = format!("extents fail {what}");
        work.push((name, cmd::BLOCK_STATUS, at, scaled(FAILURES), false));
    }
    work
}

fn script() -> String {
    SCRIPT.replace("@KINDS@", &KINDS.join(" "))
}

#[test]
fn memory_and_log_are_flat_over_requests_and_failures() {
    let server = Server::of_script(&script(), &[]);
    let log = server.home.state("disk").join("log");
    let mut watched = Watched::new(server.worker(), log);
    let mut client = Client::connect(&server);
    for (name, command, at, count, succeeds) in work() {
        watched.during(&name, count, |count| {
            client.ask(count, command, at, succeeds)
        });
    }
    client.fail_flushes(&[1; 512]);
    watched.during("flush fails", scaled(FAILURES), |count| {
        client.ask(count, cmd::FLUSH, 0, false)
    });
    client.fail_flushes(&[0; 512]);
    // Before there is a handle: `open`, and a generator that gives exports.
    let refused = |option, data: &[u8], count: u32| {
        for _ in 0..count.div_ceil(OPTIONS) {
            let mut guest = server.raw();
            guest.greet();
            for _ in 0..OPTIONS {
                assert!(guest.option(option, data).last().unwrap().is_error());
            }
        }
    };
    let count = scaled(FAILURES);
    watched.during("open fails", count, |count| {
        refused(opt::GO, &export(b"bad", &[]), count)
    });
    watched.during("list_exports fails", count, |count| {
        refused(opt::LIST, &[], count)
    });
    watched.all_is_flat();
    // What was left out is counted.
    assert!(server.log().contains("were not logged"));
    // Ten of a kind a second, and no more: these took a second at least.
    let opened = server.log().matches("export `bad`").count();
    assert!(
        opened < usize::try_from(count).unwrap() / 2,
        "{opened} of {count}"
    );
    drop(client);
    server.detach();
}

/// What coroutines do, by block; the last one succeeds.
const COROUTINES: [&str; 7] = [
    "raises",
    "raises_later",
    "chosen",
    "cancelled",
    "gathered",
    "late",
    "succeeds",
];

const ASYNC_SCRIPT: &str = r"
import asyncio, errno, nbdkit
API_VERSION = 2
async def raises(buf):
    local = bytearray(65536)
    raise ValueError('at once')
async def raises_later(buf):
    local = bytearray(65536)
    await asyncio.sleep(0)
    raise ValueError('later')
async def chosen(buf):
    await asyncio.sleep(0)
    nbdkit.set_error(errno.ENOSPC)
    raise ValueError('chosen')
async def cancelled(buf):
    local = bytearray(65536)
    asyncio.current_task().cancel()
    await asyncio.sleep(0)
async def gathered(buf): await asyncio.gather(raises_later(buf), raises(buf), succeeds(buf))
async def late(buf):
    async with asyncio.timeout(0): await asyncio.sleep(3600)
async def succeeds(buf):
    await asyncio.sleep(0)
    buf[:1] = b's'
KINDS = [globals()[name] for name in '@KINDS@'.split()]
def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): return KINDS[offset // 4096](buf)
";

#[test]
fn memory_is_flat_over_coroutines() {
    let server = Server::of_script(&ASYNC_SCRIPT.replace("@KINDS@", &COROUTINES.join(" ")), &[]);
    let log = server.home.state("disk").join("log");
    let mut watched = Watched::new(server.worker(), log);
    let mut client = Client::connect(&server);
    for (number, kind) in COROUTINES.iter().enumerate() {
        let at = 4096 * u64::try_from(number).unwrap();
        let count = scaled(FAILURES);
        watched.during(kind, count, |count| {
            client.ask(count, cmd::READ, at, *kind == "succeeds")
        });
    }
    watched.all_is_flat();
    drop(client);
    server.detach();
}

#[test]
fn memory_is_flat_over_what_a_file_is_asked() {
    if !Kind::File.available() {
        return;
    }
    let disk = Attached::with_script(Kind::File, &script(), &[]);
    let shown = pydisk(["show", "--json", disk.device()]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let worker = i32::try_from(shown["worker_pid"].as_i64().unwrap()).unwrap();
    let mut watched = Watched::new(worker, shown["log"].as_str().unwrap().into());
    let file = File::options()
        .read(true)
        .write(true)
        .open(&disk.path)
        .unwrap();
    let far = 512 * KIB;
    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let zero = |at| fallocate(&file, flags, at, 512).is_ok();
    let seek = |at| rustix::fs::seek(&file, SeekFrom::Data(at)).is_ok();
    let mut page = [0; 512];
    type Asked<'a> = (&'a str, &'a mut dyn FnMut(u64) -> bool);
    let mut read = |at| file.read_at(&mut page, at).is_ok();
    let kinds: [Asked<'_>; 4] = [
        ("read", &mut read),
        ("write", &mut |at| file.write_at(&[0; 512], at).is_ok()),
        ("zero", &mut |at| zero(at)),
        ("seek", &mut |at| seek(at)),
    ];
    for (name, ask) in kinds {
        for (at, count) in [(far, scaled(REQUESTS) / 2), (0, scaled(FAILURES))] {
            watched.during(&format!("{name} at {at}"), count, |count| {
                for _ in 0..count {
                    assert_eq!(ask(at), at == far, "{name} at {at}");
                }
            });
        }
    }
    watched.all_is_flat();
    drop(file);
    disk.detach();
}

#[test]
fn failures_that_were_not_logged_are_counted_at_the_end() {
    if !clients(&["libnbd"]) {
        return;
    }
    let home = Home::new();
    let script = home.script("plugin.py", &script());
    let target = format!("nbd+unix:///?socket={}", home.path("socket").display());
    let client = "/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for _ in range(500):
    try: h.pread(512, 0)
    except nbd.Error: pass
' \"$uri\"";
    let words = ["attach", "--run", client, script.to_str().unwrap(), &target];
    let said = home.run(words);
    assert_eq!(said.code, 0, "{said:?}");
    let shown = said.stderr.matches("pread: ValueError: plain").count();
    let counts = said.stderr.lines().filter_map(|line| {
        let (count, _) = line.split_once(" more failures with")?;
        count.rsplit(' ').next()?.parse::<usize>().ok()
    });
    assert_eq!(shown + counts.sum::<usize>(), 500, "{said:?}");
    assert!(shown < 500);
}
