# pydisk attach examples/errors.py /dev/ublkb0 size=64M pwrite=ENOSPC from=32M
"""A disk in memory that fails on purpose, to see what a program makes of it.

Parameters:
    size=SIZE        how big the disk is (default 64M)
    OP=ERRNO         which requests fail, and how: OP is pread, pwrite, zero,
                     trim or flush, ERRNO a name such as EIO, ENOSPC or EPERM;
                     can be repeated
    rate=P           how many of them fail: 1 is all, 0.01 or 1% is one in a
                     hundred (default 1)
    from=OFFSET      requests that end at or before this offset do not fail
    to=OFFSET        requests that start at or after this offset do not fail
    seed=N           the same seed and the same requests give the same failures
                     (default 1)

A flush has no offset: it fails whatever from and to say.
"""

import errno
import random

import nbdkit

API_VERSION = 2
OPERATIONS = ("pread", "pwrite", "zero", "trim", "flush")

size = 64 * 1024 * 1024
failures: dict[str, int] = {}
rate = 1.0
first = 0
end = None
chance = random.Random(1)
disk = None


def config(key, value):
    global size, rate, first, end
    if key in OPERATIONS:
        failures[key] = errno_named(value)
    elif key == "size":
        size = nbdkit.parse_size(value)
    elif key == "rate":
        rate = probability(value)
    elif key == "from":
        first = nbdkit.parse_size(value)
    elif key == "to":
        end = nbdkit.parse_size(value)
    elif key == "seed":
        chance.seed(int(value))
    else:
        known = ", ".join(("size", *OPERATIONS, "rate", "from", "to", "seed"))
        raise ValueError(f"unknown parameter {key!r}: known are {known}")


def errno_named(name):
    number = getattr(errno, name, None)
    if not isinstance(number, int):
        raise ValueError(f"{name!r} is not the name of an errno such as EIO")
    return number


def probability(text):
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"rate={text}: a number from 0 to 1 is accepted")
    return value


def get_ready():
    global disk
    disk = memoryview(bytearray(size))


def open(readonly):
    return disk


def get_size(h):
    return len(h)


def fail_perhaps(operation, count, offset):
    """Raise what the parameters ask for, or return."""
    if operation not in failures or chance.random() >= rate:
        return
    past = end is not None and offset >= end
    if operation != "flush" and (past or offset + count <= first):
        return
    # Without set_error, the application would see EIO whatever is raised.
    number = failures[operation]
    nbdkit.set_error(number)
    raise OSError(number, f"{operation} fails on purpose")


def pread(h, buf, offset, flags):
    fail_perhaps("pread", len(buf), offset)
    buf[:] = h[offset:offset + len(buf)]


def pwrite(h, buf, offset, flags):
    fail_perhaps("pwrite", len(buf), offset)
    h[offset:offset + len(buf)] = buf


def zero(h, count, offset, flags):
    fail_perhaps("zero", count, offset)
    h[offset:offset + count] = bytes(count)


def trim(h, count, offset, flags):
    fail_perhaps("trim", count, offset)


def flush(h, flags):
    fail_perhaps("flush", 0, 0)
