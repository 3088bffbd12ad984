//! What is said about a script when it is loaded: each likely mistake once, by name and line, and
//! nothing about a script without one.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::path::Path;

use pydisk::python::Plugin;
use support::{repository, script};

/// What a script needs, in 5 lines.
const BASE: &str = "import nbdkit
API_VERSION = 2
def open(readonly): return None
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

fn found_in(path: &Path) -> Vec<String> {
    let plugin = Plugin::load(path).unwrap();
    let found = plugin.findings();
    let found = found.iter().map(|finding| finding.at("").to_string());
    found.collect()
}

fn found(text: &str) -> Vec<String> {
    let (_folder, path) = script(text);
    found_in(&path)
}

/// One test a mistake: the script after `BASE`, and what is said, without the script's name.
macro_rules! said {
    ($($name:ident: $text:expr => [$($said:expr),*];)*) => {$(
        #[test]
        fn $name() {
            let expected: &[&str] = &[$($said),*];
            let found = found(&format!("{BASE}{}", $text));
            assert_eq!(found.len(), expected.len(), "{found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{found}\n{expected}");
            }
        }
    )*};
}

said! {
    a_read_that_only_raises: "
def pread(h, buf, offset, flags):
    with nbdkit.lock:
        if offset: raise OSError(5, 'far')
        else:
            try: raise OSError(5, 'near')
            finally: nbdkit.debug('no')" => [":7: pread: takes the place of the one in line 5"];
    a_read_that_at_times_raises: "
def pread(h, buf, offset, flags):
    if offset: raise OSError(5, 'far')" => [
        ":7: pread: never fills `buf`",
        ":7: pread: takes the place of the one in line 5"
    ];
    truthy_is_not_true: "
def can_write(h): return 1
def pwrite(h, buf, offset, flags): pass
def can_flush(h):
    if h: return 'yes'
    return False
def flush(h, flags): pass
def is_rotational(h): pass
def can_multi_conn(h): return" => [
        ":7: can_write: returns `1`, which counts as False",
        ":10: can_flush: returns `'yes'`, which counts as False",
        ":13: is_rotational: returns nothing",
        ":14: can_multi_conn: returns nothing"
    ];
    what_is_computed_is_not_judged: "
def can_write(h): return bool(h)
def can_flush(h): return not h
def flush(h, flags): pass
def pwrite(h, buf, offset, flags): pass
def is_rotational(h): raise OSError
def block_size(h): return sizes(h)
def sizes(h): return (1, 512, 4096)
def can_fua(h): return nbdkit.FUA_EMULATE if h else 0" => [];
    what_blocks_a_coroutine: "
import asyncio, time
async def flush(h, flags):
    time.sleep(1)
    nbdkit.nanosleep(1, 0)
    def other(): time.sleep(1)
    await asyncio.to_thread(time.sleep, 1)
def close(h): time.sleep(1)" => [
        ":9: flush: calls `time.sleep`, which holds up every other request: `await asyncio.sleep` does not",
        ":10: flush: calls `nbdkit.nanosleep`, which"
    ];
    coroutines_are_judged_as_functions: "
async def can_write(h): return 1
async def extents(h, count, offset, flags): return [[offset, count, 0]]
async def pwrite(h, buf, offset, flags): pass" => [
        ":7: can_write: returns `1`, which counts as False",
        ":8: extents: gives the list"
    ];
    emulation_needs_flush: "
def pwrite(h, buf, offset, flags): pass
def can_fua(h): return nbdkit.FUA_EMULATE" => [":8: can_fua: returns FUA_EMULATE, but there is no `flush`"];
    levels_are_constants: "
def can_fua(h): return None
def can_cache(h): return 'native'" => [
        ":7: can_fua: returns `None`: a nbdkit.FUA_ constant is needed",
        ":8: can_cache: returns `'native'`: a nbdkit.CACHE_ constant"
    ];
    lists_are_not_tuples: "
def block_size(h): return [1, 512, 4096]
def extents(h, count, offset, flags):
    found = []
    found.append([offset, count, 0])
    return found
def list_exports(readonly, is_tls): return [['a', 'b'], 'c']" => [
        ":7: block_size: returns the list `[1, 512, 4096]`",
        ":10: extents: gives the list `[offset, count, 0]`: a tuple (offset, length, type)",
        ":12: list_exports: gives the list `['a', 'b']`: a tuple (name, description)"
    ];
    nothing_is_no_iterable: "
def extents(h, count, offset, flags): pass
def block_size(h): return 512" => [
        ":7: extents: returns nothing: an iterable is needed",
        ":8: block_size: returns `512`: a tuple"
    ];
    promises_need_callbacks: "
def pwrite(h, buf, offset, flags): pass
def can_trim(h): return True
def can_extents(h): return True" => [
        ":8: can_trim: returns True, but there is no `trim`",
        ":9: can_extents: returns True, but there is no `extents`"
    ];
    nobody_trims_a_disk_that_is_not_written: "
def trim(h, count, offset, flags): pass" => [":7: trim: is never called: without `pwrite`"];
    callbacks_of_c_are_not_called: "
def unload(): pass
def load(): pass
def helper(): load()" => [":7: unload: is never called: `cleanup` is the last callback"];
    names_that_are_nearly_right: "
def pwirte(h, buf, offset, flags): pass
def canFlush(h): return True
def configComplete(): pass
def after_forked(): pass
def read_block(h): pass
def used(): return sizes()
def sizes(): return 5
def _flushed(h): pass" => [
        ":7: pwirte: is no callback and nothing uses it: is `pwrite` meant?",
        ":8: canFlush: is no callback and nothing uses it: is `can_flush` meant?",
        ":9: configComplete: is no callback and nothing uses it: is `config_complete` meant?",
        ":10: after_forked: is no callback and nothing uses it: is `after_fork` meant?"
    ];
    variables_are_not_callbacks: "
thread_model = nbdkit.THREAD_MODEL_PARALLEL
THREAD_MODEL = nbdkit.THREAD_MODEL_PARALLEL
api_version = 2
pydisk_errno = 'native'" => [
        ":7: thread_model: cannot be called, so it counts as missing",
        ":8: THREAD_MODEL: is never read: a function `thread_model`",
        ":9: api_version: is never read: is `API_VERSION` meant?",
        ":10: pydisk_errno: is never read: is `PYDISK_ERRNO` meant?"
    ];
    the_second_definition_wins: "
def flush(h, flags): pass
def flush(h, flags): raise OSError" => [":8: flush: takes the place of the one in line 7"];
    opening_a_file_by_the_callback: "
def config(key, value):
    with open(value, 'rb') as file: pass
    open('path')
def get_ready(): open(True)" => [
        ":8: open: is the callback here: `builtins.open` opens files",
        ":9: open: is the callback here"
    ];
    a_pread_that_returns_what_nobody_reads: "
def pread(h, buf, offset, flags): return bytes(len(buf))" => [
        ":7: pread: returns `bytes(len(buf))`, but API version 2 reads what is in `buf`",
        ":7: pread: takes the place of the one in line 5"
    ];
    a_pread_that_binds_its_buffer_anew: "
del pread
def pread(h, b, offset, flags):
    b = bytes(len(b))" => [":9: pread: binds `b` anew, which fills nothing: `b[:] = ...` does"];
    a_pread_that_fills_by_another_function: "
del pread
def pread(h, buf, offset, flags): return h.readinto(buf)" => [];
    decorated_callbacks_are_not_judged: "
import functools
def always(f):
    @functools.wraps(f)
    def inner(*args): return True
    return inner
@always
def can_write(h): return 1
def pwrite(h, buf, offset, flags): pass" => [];
}

#[test]
fn a_version_1_pread_that_returns_nothing() {
    let found = found(
        "
def open(readonly): return None
def get_size(h): return 1 << 20
def pread(h, count, offset): pass
",
    );
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with(":4: pread: returns nothing"),
        "{found:?}"
    );
}

#[test]
fn what_is_warned_of_is_warned_of_once() {
    let (_folder, path) = script(&format!(
        "{BASE}
def can_write(h): return len('x')
def pwrite(h, buf, offset, flags): pass
"
    ));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    assert!(plugin.findings().is_empty());
    for _ in 0..3 {
        plugin.open(false).unwrap();
    }
    let found = plugin.findings();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].line, Some(7));
    assert_eq!(found[0].name, "can_write");
    assert!(
        found[0]
            .text
            .starts_with("returned `1`, which counts as False")
    );
}

#[test]
fn version_2_callbacks_without_the_version_are_told_what_is_missing() {
    let (_folder, path) = script(&BASE.replace("API_VERSION = 2", ""));
    let refusal = Plugin::load(&path).unwrap_err().to_string();
    assert!(
        refusal.contains("pread: API version 1 calls it as `pread(h, count, offset)`")
            && refusal.contains("(line 5)")
            && refusal.contains("hint: version 2 calls it as")
            && refusal.contains("add `API_VERSION = 2`"),
        "{refusal}"
    );
}

/// One test a script that ships, for each is loaded into a process of its own.
macro_rules! without_findings {
    ($($name:ident: $path:expr;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(found_in(&repository($path)), Vec::<String>::new());
        }
    )*};
}

without_findings! {
    nothing_is_found_in_memory: "plugins/memory.py";
    nothing_is_found_in_file: "plugins/file.py";
    nothing_is_found_in_errors: "examples/errors.py";
    nothing_is_found_in_hello: "examples/hello.py";
    nothing_is_found_in_pattern: "examples/pattern.py";
    nothing_is_found_in_ramdisk: "examples/ramdisk.py";
    nothing_is_found_in_url: "examples/url.py";
    nothing_is_found_in_v1: "examples/v1.py";
}
