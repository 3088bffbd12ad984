//! The script that the forty vectors start from, over NBD and on devices.

/// The script that every vector starts from. `note` tells the test what was called.
pub const BASE: &str = "
import builtins, errno, os, nbdkit
API_VERSION = 2
disk = bytearray(1 << 20)
def note(*words):
    with builtins.open(os.path.join(os.path.dirname(__file__), 'calls'), 'a') as calls:
        print(*words, file=calls)
def open(readonly): return 0
def get_size(h): return len(disk)
def pread(h, buf, offset, flags): buf[:] = disk[offset:offset + len(buf)]
";

/// Writes, noted.
pub const PWRITE: &str = "
def pwrite(h, buf, offset, flags):
    note('pwrite', len(buf), offset, flags)
    disk[offset:offset + len(buf)] = buf
";

/// Flushes, noted.
pub const FLUSH: &str = "
def flush(h, flags): note('flush', flags)
";
