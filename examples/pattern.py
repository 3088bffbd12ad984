# pydisk attach examples/pattern.py /dev/ublkb0 size=1T
"""A disk of any size that stores nothing: its content is computed.

Every 8 bytes hold their own offset, big-endian. A byte that is read from the
wrong place is found at once, which makes this a good disk to test readers
with. Writes are compared: the right pattern is accepted, anything else is an
error.

Parameters:
    size=SIZE       how big the disk is, at most 8E - 512 (default 1T)
    verify=off      refuse all writes instead: the disk is read-only
"""

import array
import errno
import sys

import nbdkit

API_VERSION = 2
WORD = 8

size = 1 << 40
verify = True


def config(key, value):
    global size, verify
    if key == "size":
        size = nbdkit.parse_size(value)
    elif key == "verify" and value in ("on", "off"):
        verify = value == "on"
    elif key == "verify":
        raise ValueError(f"verify={value}: on or off is accepted")
    else:
        raise ValueError(
            f"unknown parameter {key!r}: size and verify are known")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return None


def get_size(h):
    return size


def can_write(h):
    return verify


def pattern(count, offset):
    """The bytes of the disk from offset to offset + count."""
    first = offset // WORD * WORD
    words = array.array("Q", range(first, offset + count, WORD))
    if sys.byteorder == "little":
        words.byteswap()
    return memoryview(words).cast("B")[offset - first:offset - first + count]


def pread(h, buf, offset, flags):
    buf[:] = pattern(len(buf), offset)


def pwrite(h, buf, offset, flags):
    if buf != pattern(len(buf), offset):
        nbdkit.set_error(errno.EIO)
        raise ValueError("what was written is not the pattern")


def flush(h, flags):
    pass
