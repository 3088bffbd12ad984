//! The conformance suite over a Python plugin's handle, in the layers that a worker puts around it.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::sync::Arc;

use pydisk::disk::{Disk, Errno, OpKind, OpenDisk};
use pydisk::layers::Stack;
use pydisk::python::Plugin;

use support::conformance::{SMALLEST, suite_of_open};
use support::script;

/// A disk in memory of `@SIZE@` bytes. Each handle has its own, and fails what the file `@FAIL@` said
/// when it was opened: the name of a callback and an errno.
const BASE: &str = "
import builtins, os, time
import nbdkit
class Disk:
    def __init__(self):
        self.data = bytearray(@SIZE@)
        try: name, errno = builtins.open('@FAIL@').read().split()
        except FileNotFoundError: name, errno = '', 0
        self.fails = {'read': ['pread'], 'write': ['pwrite'], 'zero': ['zero', 'pwrite'],
                      'trim': ['trim'], 'cache': ['cache', 'pread'], 'flush': ['flush']}.get(name, [])
        self.errno = int(errno)
    def enter(self, name):
        if name in self.fails:
            nbdkit.set_error(self.errno)
            raise RuntimeError(name)
        # Lets another thread in, where there is one.
        time.sleep(0)
def open(readonly): return Disk()
def get_size(h): return len(h.data)
def cache(h, count, offset, flags): h.enter('cache')
def extents(h, count, offset, flags):
    for at in range(offset // 4096 * 4096, offset + count, 4096):
        kind = 0 if any(h.data[at:at + 4096]) else nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
        yield (at, 4096, kind)
";

const VERSION_1: &str = "
def pread(h, count, offset):
    h.enter('pread')
    return h.data[offset:offset + count]
def pwrite(h, buf, offset):
    h.enter('pwrite')
    h.data[offset:offset + len(buf)] = buf
def flush(h): h.enter('flush')
def trim(h, count, offset):
    h.enter('trim')
    h.data[offset:offset + count] = b'T' * count
def zero(h, count, offset, may_trim):
    h.enter('zero')
    h.data[offset:offset + count] = bytes(count)
";

/// Keeps some of its buffers, so that the suite also runs on memory that was not given back.
const VERSION_2: &str = "
API_VERSION = 2
import collections
kept = collections.deque(maxlen=20)
def pread(h, buf, offset, flags):
    h.enter('pread')
    buf[:] = h.data[offset:offset + len(buf)]
    if offset % 3 == 0: kept.append(buf[:])
def pwrite(h, buf, offset, flags):
    h.enter('pwrite')
    h.data[offset:offset + len(buf)] = buf
    if offset % 3 == 0: kept.append(buf[:])
def flush(h, flags): h.enter('flush')
def trim(h, count, offset, flags):
    h.enter('trim')
    h.data[offset:offset + count] = b'T' * count
def zero(h, count, offset, flags):
    h.enter('zero')
    h.data[offset:offset + count] = bytes(count)
";

const PARALLEL: &str = "def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL\n";
const BLOCKS: &str = "def block_size(h): return (4096, 4096, 65536)\n";
const NATIVE: &str = "def can_fua(h): return nbdkit.FUA_NATIVE\n";
const NO_ZERO: &str = "def can_zero(h): return False\n";
/// It has them, and neither does anything.
const DECLINES: &str = "
def zero(*args): nbdkit.set_error(95)
def can_cache(h): return nbdkit.CACHE_EMULATE
";
const NO_WRITES: &str = "def can_write(h): return False\n";

/// Run the suite on the plugin that these parts make.
fn over(parts: &[&str]) {
    let (folder, path) = script("");
    let fail = folder.path().join("fail");
    let text = format!("{BASE}{}", parts.concat())
        .replace("@SIZE@", &(SMALLEST + 8192).to_string())
        .replace("@FAIL@", fail.to_str().unwrap());
    std::fs::write(&path, text).unwrap();
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    for (kind, stack) in [
        ("device", Stack::for_device(None)),
        ("export", Stack::for_exports()),
    ] {
        let open = |read_only: bool| -> Arc<dyn OpenDisk> {
            let handle = plugin.open(read_only).unwrap();
            stack.wrap(handle).unwrap()
        };
        let make = || open(false);
        let failing = |kind: OpKind, errno: Errno| -> Arc<dyn Disk> {
            let text = format!("{} {}", kind.word(), errno.raw_os_error());
            std::fs::write(&fail, text).unwrap();
            let disk = open(false);
            std::fs::remove_file(&fail).unwrap();
            disk
        };
        let name = format!("a plugin as {kind}");
        suite_of_open(&name, &make, Some(&failing));
        let name = format!("a plugin as {kind}, read-only");
        suite_of_open(&name, &|| open(true), None);
    }
}

/// Tests of the suite over plugins: `name: parts`.
macro_rules! plugins {
    ($($name:ident: $parts:expr;)*) => {
        $(#[test] fn $name() { over(&$parts); })*
    };
}

plugins! {
    version_1: [VERSION_1];
    version_1_parallel: [VERSION_1, PARALLEL];
    version_1_in_blocks: [VERSION_1, BLOCKS];
    version_1_parallel_in_blocks: [VERSION_1, PARALLEL, BLOCKS];
    version_1_that_lacks_much: [VERSION_1, PARALLEL, BLOCKS, NO_ZERO, NATIVE];
    version_2: [VERSION_2];
    version_2_parallel: [VERSION_2, PARALLEL];
    version_2_in_blocks: [VERSION_2, BLOCKS];
    version_2_parallel_in_blocks: [VERSION_2, PARALLEL, BLOCKS];
    version_2_with_native_fua: [VERSION_2, PARALLEL, BLOCKS, NATIVE];
    version_2_that_declines: [VERSION_2, PARALLEL, BLOCKS, DECLINES];
    version_2_that_cannot_be_written: [VERSION_2, PARALLEL, NO_WRITES];
}
