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
];
