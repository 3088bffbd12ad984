# pydisk attach examples/ramdisk.py /dev/ublkb0 size=256M
"""A disk in a bytearray: all that a disk can be asked to do, in one page.

Parameters:
    size=SIZE    how big the disk is, such as 64M or 1G (required)

What was written is gone when the disk is detached.
"""

import nbdkit

API_VERSION = 2

ZEROES = bytes(1 << 20)
disk = None


def config(key, value):
    global disk
    if key != "size":
        raise ValueError(f"unknown parameter {key!r}: only size=SIZE is known")
    disk = memoryview(bytearray(nbdkit.parse_size(value)))


def config_complete():
    if disk is None:
        raise ValueError("size=SIZE is needed, for example size=256M")


def open(readonly):
    return disk


def get_size(h):
    return len(h)


def can_fua(h):
    # Memory is as stable as this disk gets: a write needs no flush after it.
    return nbdkit.FUA_NATIVE


def pread(h, buf, offset, flags):
    buf[:] = h[offset:offset + len(buf)]


def pwrite(h, buf, offset, flags):
    h[offset:offset + len(buf)] = buf


def zero(h, count, offset, flags):
    end = offset + count
    for start in range(offset, end, len(ZEROES)):
        stop = min(start + len(ZEROES), end)
        h[start:stop] = ZEROES[:stop - start]


def trim(h, count, offset, flags):
    """Do nothing: a bytearray cannot give memory back."""


def flush(h, flags):
    pass
