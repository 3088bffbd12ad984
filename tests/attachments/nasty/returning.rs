//! What callbacks return.

use super::{Row, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "callbacks that return odd values",
        r"
class Odd:
    def __bool__(self): raise ValueError
    __eq__ = __len__ = __bool__
def pread(h, buf, offset, flags): return Odd()
def pwrite(h, buf, offset, flags): return -1
def zero(h, count, offset, flags): return 2**70
def trim(h, count, offset, flags): return 'x'
def cache(h, count, offset, flags): return Odd
def flush(h, flags): return False",
        [
            "everything()",
            "open done done done done done done done",
            "",
        ],
    ),
    served(
        "callbacks that never run, bound at run time",
        r"
def nothing(*words): yield
def other(*words): return nothing()
def flush(h, flags): globals().update(pread=other, pwrite=nothing, zero=other, trim=other)",
        [
            "[f(), r(), w(), z(), t()]",
            "open done EIO EIO EIO EIO",
            "pread: returned a generator\npwrite: returned a generator",
        ],
    ),
    served(
        "extents of odd types",
        r"
answers = iter([None, 5, [], [1], [(1, 2)], [(0, -1, 0)], [(0, 2**70, 0)], [('a', 1, 0)],
    [[0, 512, 0]], [(0, 512, 2**40)], iter(int, 1), [(0, 512, 0)]])
def extents(h, count, offset, flags): return next(answers)",
        [
            "[x() for _ in range(12)]",
            "open EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO done",
            "extents: TypeError\nextents: each extent must be a tuple",
        ],
    ),
    served(
        "extents that fail midway",
        r"
def extents(h, count, offset, flags):
    yield (0, 100, 0)
    nbdkit.set_error(errno.ENOMEM)
    raise ValueError('midway')",
        [
            "[x(), r()]",
            "open ENOMEM done",
            "extents: ValueError: midway",
        ],
    ),
    served(
        "what version 1 reads",
        r"
import array
API_VERSION = 1
class Bytes(bytes):
    def __len__(self): raise ValueError
    __getitem__ = __iter__ = __bool__ = __len__
def released(n):
    view = memoryview(bytes(n))
    view.release()
    return view
answers = iter([lambda n: None, lambda n: 'x' * n, lambda n: n, lambda n: [0] * n, lambda n: b'', lambda n: bytes(n - 1),
    lambda n: bytes(n + 1), lambda n: memoryview(bytes(2 * n))[::2], lambda n: array.array('I', [0]) * (n // 4), released,
    lambda n: iter([bytes(n)]), lambda n: Bytes(n), lambda n: bytearray(n), lambda n: bytes])
def pread(h, count, offset): return next(answers)(count)
def pwrite(h, buf, offset): return b'x'
def flush(h): return nbdkit
def trim(h, count, offset): pass
def zero(h, count, offset, may_trim): pass",
        [
            "[r() for _ in range(15)] + [w(), f()]",
            "open EIO EIO EIO EIO EIO EIO done EIO done EIO EIO done done EIO EIO done done",
            "pread does not support the buffer protocol\nbuffer returned from pread is too small",
        ],
    ),
];
