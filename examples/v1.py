# pydisk attach examples/v1.py /dev/ublkb0 size=64M
"""A plugin of API version 1, as old scripts are: no API_VERSION, no flags.

`pread` returns the bytes instead of filling a buffer, and `zero` is told with
a boolean whether the space may be given back. New plugins should say
API_VERSION = 2.

Parameters:
    size=SIZE    how big the disk is (default 64M)
"""

import nbdkit

size = 64 * 1024 * 1024
disk = None


def config(key, value):
    global size
    if key != "size":
        raise ValueError(f"unknown parameter {key!r}: only size=SIZE is known")
    size = nbdkit.parse_size(value)


def get_ready():
    global disk
    disk = bytearray(size)


def open(readonly):
    return disk


def get_size(h):
    return len(h)


def pread(h, count, offset):
    return h[offset:offset + count]


def pwrite(h, buf, offset):
    h[offset:offset + len(buf)] = buf


def flush(h):
    pass


def trim(h, count, offset):
    pass


def zero(h, count, offset, may_trim):
    h[offset:offset + count] = bytes(count)
