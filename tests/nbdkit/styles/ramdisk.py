"""All of the disk is one bytearray, made when the size is known."""

import nbdkit

API_VERSION = 2


def config(key, value):
    if key == "size":
        global size
        size = nbdkit.parse_size(value)
    else:
        raise RuntimeError("unknown parameter: " + key)


def config_complete():
    if "size" not in globals():
        raise RuntimeError("size is missing")


def get_ready():
    global disk
    disk = bytearray(size)


def open(readonly):
    nbdkit.debug(f"open: readonly={readonly:d}")
    return 1


def get_size(h):
    return len(disk)


def pread(h, buf, offset, flags):
    buf[:] = disk[offset:offset + len(buf)]


def pwrite(h, buf, offset, flags):
    disk[offset:offset + len(buf)] = buf


def flush(h, flags):
    pass


def trim(h, count, offset, flags):
    pass


def zero(h, count, offset, flags):
    if not flags & nbdkit.FLAG_MAY_TRIM:
        nbdkit.set_error(95)
        raise Exception("only what may be trimmed is zeroed here")
    disk[offset:offset + count] = bytes(count)
