//! Plugins whose callbacks are coroutines, without any front end.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pydisk::disk::{
    Client, Disk, Errno, Export, ExtentKind, Extents, Flags, Op, OpenDisk, Owner, Peer, Request,
};
use pydisk::python::{Plugin, ThreadModel};
use support::script;

/// The least that a plugin needs, and `together(n)`, which returns when `n` coroutines wait in it.
const BASE: &str = "
import asyncio, contextlib, functools, os, sys, threading, time
import nbdkit
API_VERSION = 2
data = bytearray(1 << 20)
waiting = []
async def together(count):
    me = asyncio.get_running_loop().create_future()
    waiting.append(me)
    if len(waiting) == count:
        for each in waiting: each.set_result(None)
        waiting.clear()
    await asyncio.wait_for(me, 60)
def open(readonly): return 'H'
def get_size(h): return len(data)
";

const PREAD: &str = "
async def pread(h, buf, offset, flags):
    await asyncio.sleep(0)
    buf[:] = data[offset:offset + len(buf)]
";

fn load(text: &str) -> Arc<Plugin> {
    let (folder, path) = script(&format!("{BASE}{text}"));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    drop(folder);
    plugin
}

fn open(text: &str) -> Arc<dyn OpenDisk> {
    load(text).open(false).unwrap()
}

fn read(disk: &dyn Disk, at: u64) -> Result<[u8; 512], (Errno, String)> {
    let mut page = [1; 512];
    let read = disk.serve(Request::new(Op::Read(&mut page), at));
    read.map(|()| page)
        .map_err(|error| (error.errno, error.to_string()))
}

/// What a read raised, without the name of the script and of the exception.
fn told(disk: &dyn Disk, at: u64) -> String {
    let (_, text) = read(disk, at).unwrap_err();
    let line = text.lines().next().unwrap();
    line.split_once("RuntimeError: ").expect(line).1.to_owned()
}

/// Read at as many offsets at the same time, 512 bytes apart.
fn at_once<T: Send>(count: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// Threads of this process with the name of the event loop's.
fn loops() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    names
        .filter(|name| matches!(name.as_deref(), Ok("asyncio\n")))
        .count()
}

#[test]
fn every_data_callback_may_be_a_coroutine() {
    let plugin = load(&format!(
        "{PREAD}
async def pwrite(h, buf, offset, flags):
    await asyncio.sleep(0)
    data[offset:offset + len(buf)] = buf
async def flush(h, flags): await asyncio.sleep(0); raise RuntimeError('flushed')
async def trim(h, count, offset, flags): raise RuntimeError(f'trimmed {{count}}')
async def zero(h, count, offset, flags):
    nbdkit.set_error(95)
    raise OSError
async def cache(h, count, offset, flags): raise RuntimeError(f'cached {{count}}')
async def extents(h, count, offset, flags): return [(offset, 4096, nbdkit.EXTENT_HOLE)]
async def can_fua(h): return nbdkit.FUA_NATIVE
async def can_multi_conn(h): return True
async def block_size(h): return (1, 4096, 65536)
async def get_size(h): await asyncio.sleep(0); return 1 << 16
async def open(readonly): return 'H'
"
    ));
    assert!(plugin.is_async());
    let disk = plugin.open(false).unwrap();
    let limits = disk.limits();
    assert_eq!((limits.size, limits.block.maximum), (1 << 16, 65536));
    assert!(limits.multi_conn && limits.parallel && limits.zero);
    disk.serve(Request::new(Op::Write(&[7; 512]), 512)).unwrap();
    assert_eq!(read(&*disk, 512), Ok([7; 512]));
    for (op, said) in [
        (Op::Flush, "flush: RuntimeError: flushed"),
        (Op::Trim(512), "trim: RuntimeError: trimmed 512"),
        (Op::Cache(512), "cache: RuntimeError: cached 512"),
    ] {
        let error = disk.serve(Request::new(op, 0)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.errno, Errno::IO);
    }
    let error = disk.serve(Request::new(Op::Zero(512), 0)).unwrap_err();
    assert_eq!(error.errno, Errno::OPNOTSUPP);
    let mut found = Extents::starting_at(0);
    disk.extents(0..4096, &mut found).unwrap();
    assert_eq!(found.list()[0].kind, ExtentKind::HOLE);
    assert_eq!(loops(), 1);
}

#[test]
fn version_1_returns_what_it_read() {
    let disk = open(
        "
API_VERSION = 1
async def pread(h, count, offset): await asyncio.sleep(0); return bytes([9]) * count
async def pwrite(h, buf, offset): data[offset:offset + len(buf)] = buf
async def flush(h): raise RuntimeError('flushed')
",
    );
    assert_eq!(read(&*disk, 0), Ok([9; 512]));
    disk.serve(Request::new(Op::Write(&[7; 512]), 512)).unwrap();
    assert!(disk.serve(Request::new(Op::Flush, 0)).is_err());
}

#[test]
fn the_whole_life_is_on_one_loop_with_what_runs_in_the_background() {
    let (folder, path) = script(&format!(
        "{BASE}
log = []
def seen(name): log.append(f'{{name}} {{len({{*loops}})}}')
loops = []
def here(name):
    loops.append(asyncio.get_running_loop())
    seen(name)
ticks = 0
async def tick():
    global ticks
    try:
        while True:
            ticks += 1
            await asyncio.sleep(0.001)
    finally:
        with __builtins__.open(__file__ + '.log', 'w') as f: f.write(' '.join(log))
async def config(key, value): here('config')
async def config_complete(): here('config_complete')
async def get_ready(): here('get_ready')
async def after_fork():
    here('after_fork')
    global task
    task = asyncio.create_task(tick())
async def preconnect(readonly): here('preconnect')
async def default_export(readonly, is_tls): here('default_export'); return 'it'
async def list_exports(readonly, is_tls): here('list_exports'); return ['it']
async def open(readonly): here('open'); return nbdkit.export_name()
async def export_description(h): here('export_description'); return h + ' ' + nbdkit.export_name()
async def pread(h, buf, offset, flags):
    here('pread')
    before = ticks
    while ticks < before + 3: await asyncio.sleep(0.001)
async def close(h): here('close')
async def cleanup(): here('cleanup')
"
    ));
    let plugin = Plugin::load(&path).unwrap();
    plugin
        .configure(&[("key".to_owned(), "value".to_owned())])
        .unwrap();
    plugin.get_ready().unwrap();
    plugin.after_fork().unwrap();
    let exports = plugin.exports(false);
    let mut guest = exports
        .welcome(Arc::new(Client::new(1, Peer::Stdio)))
        .unwrap();
    assert_eq!(guest.list(false).unwrap()[0].name, "it");
    let export = guest.open("", false).unwrap();
    assert_eq!(export.description().unwrap().as_deref(), Some("it it"));
    assert_eq!(read(&**export.disk(), 0), Ok([0; 512]));
    drop((export, guest));
    plugin.cleanup();
    assert_eq!(loops(), 0);
    // Written by the background task when it was cancelled.
    let log = std::fs::read_to_string(folder.path().join("plugin.py.log")).unwrap();
    assert_eq!(
        log,
        "config 1 config_complete 1 get_ready 1 after_fork 1 preconnect 1 list_exports 1 \
         default_export 1 open 1 export_description 1 pread 1 close 1 cleanup 1"
    );
}

#[test]
fn requests_overlap_where_no_thread_model_says_otherwise() {
    let plugin = load(
        "
async def pread(h, buf, offset, flags):
    await together(64)
    buf[:] = bytes([offset // 512]) * len(buf)
",
    );
    assert_eq!(plugin.thread_model(), ThreadModel::Parallel);
    let disk = plugin.open(false).unwrap();
    let found = at_once(64, |number| read(&*disk, number * 512));
    for (number, found) in (0..).zip(found) {
        assert_eq!(found, Ok([number; 512]));
    }
}

#[test]
fn a_thread_model_is_obeyed() {
    let plugin = load(
        "
running = most = 0
async def pread(h, buf, offset, flags):
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.005)
    running -= 1
    buf[:] = bytes([most]) * len(buf)
def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS
",
    );
    assert_eq!(plugin.thread_model(), ThreadModel::SerializeAllRequests);
    let exports = plugin.exports(false);
    at_once(4, |number| {
        let client = Arc::new(Client::new(number, Peer::Stdio));
        let mut guest = exports.welcome(client).unwrap();
        let export = guest.open("", false).unwrap();
        for _ in 0..5 {
            assert_eq!(read(&**export.disk(), 0), Ok([1; 512]));
        }
    });
}

#[test]
fn callbacks_that_are_no_coroutines_do_not_overlap_each_other() {
    let disk = open(&format!(
        "{PREAD}
running = 0
def pwrite(h, buf, offset, flags):
    global running
    assert not running
    running += 1
    time.sleep(0.002)
    running -= 1
    data[0] = threading.current_thread().name == threading.main_thread().name
    try: asyncio.get_running_loop()
    except RuntimeError: return
    raise AssertionError('on the loop')
"
    ));
    assert!(disk.limits().parallel);
    at_once(8, |number| {
        for _ in 0..5 {
            disk.batch(&mut || {
                let data = [1; 512];
                disk.serve(Request::new(Op::Write(&data), number * 512))
                    .unwrap();
            });
            read(&*disk, number * 512).unwrap();
        }
    });
}

#[test]
fn each_request_has_its_own_errno() {
    let disk = open(
        "
async def pread(h, buf, offset, flags):
    number = offset // 512
    for _ in range(5):
        nbdkit.set_error(number + 1)
        await together(16)
    if number % 4 == 1: await asyncio.to_thread(nbdkit.set_error, number + 1)
    if number % 4 == 2: await asyncio.create_task(later(number + 1))
    raise OSError(5, 'x')
async def later(number): nbdkit.set_error(number)
async def flush(h, flags): raise OSError(5, 'x')
",
    );
    let found = at_once(16, |number| read(&*disk, number * 512).unwrap_err().0);
    let expected: Vec<_> = (1..=16).map(Errno::from_raw_os_error).collect();
    assert_eq!(found, expected);
    let flushed = disk.serve(Request::new(Op::Flush, 0)).unwrap_err();
    assert_eq!(flushed.errno, Errno::IO, "nothing is left of the others");
}

#[test]
fn each_request_knows_its_own_client() {
    let plugin = load(
        "
async def pread(h, buf, offset, flags):
    for _ in range(5):
        await together(8)
        assert nbdkit.export_name() == h
    raise RuntimeError(nbdkit.export_name(), nbdkit.peer_pid(), await asyncio.to_thread(nbdkit.peer_uid))
async def open(readonly): await together(8); return nbdkit.export_name()
async def close(h): assert nbdkit.export_name() == h
",
    );
    let exports = plugin.exports(false);
    let found = at_once(8, |number| {
        let pid = i32::try_from(number).unwrap() + 10;
        let peer = Peer::Unix {
            pid,
            uid: 7,
            gid: 8,
        };
        let mut guest = exports
            .welcome(Arc::new(Client::new(number, peer)))
            .unwrap();
        let export: Box<dyn Export> = guest.open(&format!("n{number}"), false).unwrap();
        told(&**export.disk(), 0)
    });
    let expected: Vec<_> = (0..8)
        .map(|number| format!("('n{number}', {}, 7)", number + 10))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_can_be_awaited_is_awaited_whoever_returns_it() {
    let disk = open(
        "
async def reads(value, h, buf, offset, flags):
    await asyncio.sleep(0)
    buf[:] = bytes([value]) * len(buf)
class Later:
    def __init__(self, *args): self.args = args
    def __await__(self): return (yield from reads(*self.args).__await__())
pread = functools.partial(reads, 3)
def cache(h, count, offset, flags):
    global pread
    pread = [lambda *args: reads(4, *args), lambda *args: Later(5, *args), wrong][offset // 512]
async def wrong(*args): return reads(6, *args)
",
    );
    assert_eq!(read(&*disk, 0), Ok([3; 512]));
    for (at, expected) in [(0, 4), (512, 5)] {
        disk.serve(Request::new(Op::Cache(512), at)).unwrap();
        assert_eq!(read(&*disk, 0), Ok([expected; 512]));
    }
    disk.serve(Request::new(Op::Cache(512), 1024)).unwrap();
    let (errno, text) = read(&*disk, 0).unwrap_err();
    assert_eq!(errno, Errno::IO);
    assert!(
        text.contains("returned a coroutine: `await` is missing"),
        "{text}"
    );
}

#[test]
fn a_callback_is_what_the_script_calls_so_at_the_time() {
    let disk = open(
        "
def on_loop():
    try: return bool(asyncio.get_running_loop())
    except RuntimeError: return False
async def pread(h, buf, offset, flags): buf[:] = bytes([1, on_loop()]) * 256
first = pread
def plain(h, buf, offset, flags): buf[:] = bytes([2, on_loop()]) * 256
async def other(h, buf, offset, flags): buf[:] = bytes([3, on_loop()]) * 256
def returns_one(h, buf, offset, flags): return first(h, buf, offset, flags)
async def too_few(h): raise AssertionError
class Cached(functools.partial):
    def __call__(self, h, buf, offset, flags): buf[:] = bytes([6, on_loop()]) * 256
class Object:
    async def pread(self, h, buf, offset, flags): buf[:] = bytes([7, on_loop()]) * 256
async def emptied(h, buf, offset, flags): raise AssertionError
emptied.__code__ = plain.__code__
async def pwrite(h, buf, offset, flags):
    global pread
    if buf[0] == 5: del pread
    else: pread = [first, plain, other, returns_one, too_few, 0, Cached(first), Object().pread, emptied][buf[0]]
",
    );
    let bind = |number: u8| {
        let written = disk.serve(Request::new(Op::Write(&[number; 512]), 0));
        written.unwrap();
    };
    for (number, head) in [
        (0, [1, 1]),
        (1, [2, 0]),
        (2, [3, 1]),
        (3, [1, 1]),
        (6, [6, 0]),
        (7, [7, 1]),
        (8, [2, 0]),
        (1, [2, 0]),
    ] {
        bind(number);
        for _ in 0..3 {
            assert_eq!(read(&*disk, 0).unwrap()[..2], head, "{number}");
        }
    }
    bind(4);
    let (errno, text) = read(&*disk, 0).unwrap_err();
    assert_eq!(errno, Errno::IO);
    assert!(text.contains("TypeError: too_few() takes 1"), "{text}");
    bind(5);
    let (errno, text) = read(&*disk, 0).unwrap_err();
    assert_eq!(errno, Errno::IO);
    assert!(text.ends_with("pread not implemented"), "{text}");
    bind(2);
    assert_eq!(read(&*disk, 0).unwrap()[..2], [3, 1]);
}

#[test]
fn a_plugin_without_coroutines_has_no_loop_and_may_run_its_own() {
    let plugin = load(
        "
async def answer(): await asyncio.sleep(0); return 3
def pread(h, buf, offset, flags): buf[:] = bytes([asyncio.run(answer())]) * len(buf)
",
    );
    assert!(!plugin.is_async());
    assert_eq!(plugin.thread_model(), ThreadModel::SerializeAllRequests);
    let disk = plugin.open(false).unwrap();
    assert_eq!(read(&*disk, 0), Ok([3; 512]));
    assert_eq!(loops(), 0);
}

#[test]
fn a_buffer_is_the_requests_own_as_long_as_the_coroutine_runs_and_no_longer() {
    let disk = open(
        "
kept = []
async def pread(h, buf, offset, flags):
    number = offset // 512
    part = buf[:256]
    for value in range(number, number + 3):
        buf[:] = bytes([value]) * len(buf)
        await together(8)
        assert bytes(part) == bytes([value]) * 256
    kept.append(buf)
    if number == 3: kept.append(part)
async def flush(h, flags):
    await asyncio.sleep(0)
    revoked = 0
    for view in kept:
        try: bytes(view)
        except ValueError: revoked += 1
    raise RuntimeError(f'{len(kept)} {revoked}')
",
    );
    let owned = |number: u64| {
        let memory: Owner = Arc::new(());
        let mut page = [1; 512];
        let request = Request {
            op: Op::Read(&mut page),
            at: number * 512,
            flags: Flags::empty(),
            owner: number.is_multiple_of(2).then_some(&memory),
            cancel: None,
        };
        disk.serve(request).unwrap();
        (page, Arc::strong_count(&memory))
    };
    let found = at_once(8, owned);
    for (number, (page, holders)) in (0..).zip(found) {
        assert_eq!(page, [number + 2; 512]);
        assert_eq!(holders, 1, "{number}");
    }
    let error = disk.serve(Request::new(Op::Flush, 0)).unwrap_err();
    assert!(error.to_string().contains("RuntimeError: 9 8"), "{error}");
}

#[test]
fn an_opening_that_fails_does_not_keep_a_callback_of_another_client() {
    let plugin = load(&format!(
        "{PREAD}
opened = []
async def open(readonly): opened.append(1); return len(opened)
def close(h): opened.append('closed')
def get_size(h):
    if h == 1: return len(data)
    inside.wait()
    raise RuntimeError('no size')
inside = threading.Event()
def pwrite(h, buf, offset, flags):
    inside.set()
    time.sleep(1)
    data[offset] = len(opened)
"
    ));
    let (sender, ended) = channel();
    let all = move || {
        let disk = plugin.open(false).unwrap();
        thread::scope(|scope| {
            let write = scope.spawn(|| disk.serve(Request::new(Op::Write(&[0; 512]), 0)));
            let refusal = plugin.open(false).unwrap_err().to_string();
            assert!(refusal.contains("no size"), "{refusal}");
            write.join().unwrap().unwrap();
        });
        assert_eq!(
            read(&*disk, 0).unwrap()[0],
            2,
            "`close` waited for its turn"
        );
        sender.send(()).unwrap();
    };
    // Who hangs here holds Python, and everybody else with it.
    thread::spawn(all);
    ended.recv_timeout(Duration::from_secs(60)).unwrap();
}
