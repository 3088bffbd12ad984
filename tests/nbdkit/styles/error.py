"""Fails now and then, each time with another errno; what was asked for again is there."""

import errno
import random

import nbdkit

API_VERSION = 2
CODES = [errno.EIO, errno.ENOSPC, errno.ENOMEM, errno.EPERM, errno.ESHUTDOWN, errno.EINVAL]
chance = random.Random(4)
disk = bytearray(1 << 20)


def perhaps():
    if chance.random() < 0.4:
        nbdkit.set_error(chance.choice(CODES))
        raise Exception("by chance")


def open(readonly):
    return {"asked": 0}


def get_size(h):
    return len(disk)


def pread(h, buf, offset, flags):
    h["asked"] += 1
    perhaps()
    buf[:] = disk[offset:offset + len(buf)]


def pwrite(h, buf, offset, flags):
    perhaps()
    disk[offset:offset + len(buf)] = buf
