"""The disk that pydisk and nbdkit both serve: a bytearray.

Parameters:
    size=SIZE    how big the disk is (required)
"""

import nbdkit

API_VERSION = 2

disk = None


def config(key, value):
    global disk
    if key != "size":
        raise ValueError(f"unknown parameter {key!r}: only size=SIZE is known")
    disk = bytearray(nbdkit.parse_size(value))


def open(readonly):
    return memoryview(disk)


def get_size(h):
    return len(h)


def pread(h, buf, offset, flags):
    buf[:] = h[offset:offset + len(buf)]


def pwrite(h, buf, offset, flags):
    h[offset:offset + len(buf)] = buf


def flush(h, flags):
    """Do nothing: memory is as stable as this disk gets."""
