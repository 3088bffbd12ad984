# pydisk attach file /dev/ublkb0 file=disk.img
"""A disk in a file, or on another block device.

Parameters:
    file=PATH    the file or block device (required)

The disk is as big as the file. Holes stay holes: what is trimmed or zeroed
gives its space back where the file system can do that. A file that may not be
written becomes a read-only disk.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator

import nbdkit

API_VERSION = 2

# <linux/falloc.h>
KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

path = ""


class Handle:
    """The open file."""

    def __init__(self, fd: int, writable: bool) -> None:
        self.fd = fd
        self.writable = writable
        self.is_device = stat.S_ISBLK(os.fstat(fd).st_mode)


def config(key: str, value: str) -> None:
    global path
    if key != "file":
        raise ValueError(f"unknown parameter {key!r}: only file=PATH is known")
    # The folder may be another one when the file is opened.
    path = os.path.abspath(value) if value else ""


def config_complete() -> None:
    if not path:
        raise ValueError("file=PATH is needed, for example file=disk.img")
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise ValueError(f"{path}: neither a regular file nor a block device")


def thread_model() -> int:
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly: bool) -> Handle:
    # Python's os.open() closes the file when another program is run.
    if not readonly:
        try:
            return Handle(os.open(path, os.O_RDWR), writable=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            nbdkit.debug(f"{path}: read-only: {error}")
    return Handle(os.open(path, os.O_RDONLY), writable=False)


def close(h: Handle) -> None:
    os.close(h.fd)


def get_size(h: Handle) -> int:
    # stat() has no size for a block device.
    return os.lseek(h.fd, 0, os.SEEK_END)


def can_write(h: Handle) -> bool:
    return h.writable


def can_fua(h: Handle) -> int:
    return nbdkit.FUA_NATIVE


def can_multi_conn(h: Handle) -> bool:
    return True


def can_extents(h: Handle) -> bool:
    return not h.is_device


def pread(h: Handle, buf, offset: int, flags: int) -> None:
    done = 0
    while done < len(buf):
        count = system(os.preadv, h.fd, [buf[done:]], offset + done)
        if count == 0:
            nbdkit.set_error(errno.EIO)
            raise EOFError(f"{path}: the file ends at {offset + done} now")
        done += count


def pwrite(h: Handle, buf, offset: int, flags: int) -> None:
    durable = os.RWF_DSYNC if flags & nbdkit.FLAG_FUA else 0
    done = 0
    while done < len(buf):
        done += system(
            os.pwritev, h.fd, [buf[done:]], offset + done, durable
        )


def flush(h: Handle, flags: int) -> None:
    system(os.fdatasync, h.fd)


def trim(h: Handle, count: int, offset: int, flags: int) -> None:
    # A file that cannot have holes keeps what it has: a trim is only a hint.
    if allocate(h, PUNCH_HOLE | KEEP_SIZE, offset, count):
        sync_if_asked(h, flags)


def zero(h: Handle, count: int, offset: int, flags: int) -> None:
    how = PUNCH_HOLE if flags & nbdkit.FLAG_MAY_TRIM else ZERO_RANGE
    if not allocate(h, how | KEEP_SIZE, offset, count):
        # Tells nbdkit to write zeroes instead.
        nbdkit.set_error(errno.EOPNOTSUPP)
        raise OSError(errno.EOPNOTSUPP, "zeroing is not supported", path)
    sync_if_asked(h, flags)


def cache(h: Handle, count: int, offset: int, flags: int) -> None:
    system(os.posix_fadvise, h.fd, offset, count, os.POSIX_FADV_WILLNEED)


def extents(
    h: Handle, count: int, offset: int, flags: int
) -> Iterator[tuple[int, int, int]]:
    end = offset + count
    while offset < end:
        until = seek(h, offset, os.SEEK_DATA, end)
        kind = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
        if until == offset:
            until = seek(h, offset, os.SEEK_HOLE, end)
            kind = 0
        yield offset, until - offset, kind
        if flags & nbdkit.FLAG_REQ_ONE:
            return
        offset = until


def seek(h: Handle, offset: int, whence: int, end: int) -> int:
    """The next data or hole from offset on, but not past end."""
    try:
        return min(os.lseek(h.fd, offset, whence), end)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data up to the end of the file
            return end
        nbdkit.set_error(error.errno)
        raise


def sync_if_asked(h: Handle, flags: int) -> None:
    if flags & nbdkit.FLAG_FUA:
        system(os.fdatasync, h.fd)


def allocate(h: Handle, mode: int, offset: int, count: int) -> bool:
    """Call fallocate(2); False if the file cannot do that."""
    while fallocate(h.fd, mode, offset, count) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV):
            return False
        if number == errno.EINVAL and h.is_device:  # not in whole sectors
            return False
        nbdkit.set_error(number)
        raise OSError(number, os.strerror(number), path)
    return True


def system(call: Callable, *args):
    """Make a system call; if it fails, the application sees its errno."""
    try:
        return call(*args)
    except OSError as error:
        nbdkit.set_error(error.errno)
        raise


def load_fallocate():
    """fallocate(2), which Python's own library does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Where both exist, this is the one that takes 64 bits on every machine.
    function = getattr(libc, "fallocate64", None) or libc.fallocate
    function.argtypes = [
        ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    ]
    return function


fallocate = load_fallocate()
