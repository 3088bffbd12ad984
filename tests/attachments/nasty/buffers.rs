//! What callbacks do to their buffers.

use super::{Row, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "a buffer that is kept, cast, sliced and released",
        r"
kept = []
def pread(h, buf, offset, flags):
    kept.extend([buf, buf[1:], buf.cast('I'), weakref.ref(buf), memoryview(buf), buf.obj])
    kept.append(weakref.finalize(buf, print, 'final'))
    buf.release()
def pwrite(h, buf, offset, flags):
    memoryview(kept[5])",
        [
            "[r(), r(), w(), r()]",
            "open done done EIO done",
            "pwrite: BufferError: this buffer belongs to a request",
        ],
    ),
    served(
        "a buffer that is read-only, and has a size",
        r"
steps = iter([lambda b: b.__setitem__(0, 1), lambda b: b.__delitem__(0), lambda b: b.cast('Q', [3]), lambda b: b[2**70]])
def pwrite(h, buf, offset, flags): next(steps)(buf)
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf) + 1)",
        [
            "[w(), w(), w(), w(), r()]",
            "open EIO EIO EIO EIO EIO",
            "pwrite: TypeError: cannot modify read-only memory\npread: ValueError",
        ],
    ),
    served(
        "a bytearray that is resized while it is exported",
        r"
views = []
def pread(h, buf, offset, flags):
    views.append(memoryview(data))
    data.extend(b'x')
def pwrite(h, buf, offset, flags): data.clear()",
        [
            "[r(), w(), f()]",
            "open EIO EIO done",
            "pread: BufferError\npwrite: BufferError",
        ],
    ),
    served(
        "memory that nobody has",
        r"
def pread(h, buf, offset, flags): bytearray(1 << 60)
def pwrite(h, buf, offset, flags): [0] * (1 << 60)
def flush(h, flags): 'x' * (1 << 62)",
        [
            "[r(), w(), f(), z()]",
            "open EIO EIO EIO done",
            "pread: MemoryError\nflush: MemoryError",
        ],
    ),
];
