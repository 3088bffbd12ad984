# pydisk attach memory /dev/ublkb0 size=1G
"""A disk in memory.

Parameters:
    size=SIZE    how big the disk is, such as 512M or 1T (required)

Memory is taken when something is written and given back when it is trimmed
or zeroed, so the disk can be bigger than the machine's memory: up to
9223372036854775807 bytes, as in nbdkit. What was written is gone when the
disk is detached.
"""

import mmap
from collections.abc import Iterator

import nbdkit

API_VERSION = 2

# What extents are told apart by.
CHUNK = 64 * 1024

ZEROES = bytes(1024 * 1024)

# There is no thread_model: nbdkit then sends one request at a time. Copying
# memory holds Python's lock, so more threads would only wait for each other.

size: int | None = None
disk: "Memory | Chunks | None" = None


class Memory:
    """Bytes that take no memory until they are written."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.map = untouched(size)
        # The same without copying: a slice of the map would be a copy.
        self.view = memoryview(self.map)
        # A byte for each chunk, 1 where it may hold something.
        self.written = untouched(-(-size // CHUNK))

    def mark(self, start: int, end: int) -> None:
        """Note that these bytes are written to."""
        first, last = start // CHUNK, -(-end // CHUNK)
        self.written[first:last] = b"\1" * (last - first)

    def fill(self, start: int, end: int) -> None:
        """Overwrite these bytes with zeroes."""
        for offset in range(start, end, len(ZEROES)):
            count = min(len(ZEROES), end - offset)
            self.view[offset:offset + count] = ZEROES[:count]

    def discard(self, start: int, end: int) -> None:
        """Zero these bytes and give back the memory of whole pages."""
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE
        if first >= last:
            self.fill(start, end)
            return
        self.fill(start, first)
        self.map.madvise(mmap.MADV_DONTNEED, first, last - first)
        self.fill(last, end)
        first, last = -(-start // CHUNK), end // CHUNK
        if first < last:
            self.written[first:last] = bytes(last - first)

    def read(self, start: int, buf) -> None:
        buf[:] = self.view[start:start + len(buf)]

    def write(self, start: int, buf) -> None:
        end = start + len(buf)
        self.mark(start, end)
        self.view[start:end] = buf

    def zero(self, start: int, end: int) -> None:
        """Overwrite these bytes, and keep their memory."""
        self.mark(start, end)
        self.fill(start, end)

    def extent(self, start: int, end: int) -> tuple[int, bool]:
        """The end of the extent that starts there, and if it is a hole."""
        chunk = start // CHUNK
        hole = self.written[chunk] == 0
        change = self.written.find(b"\1" if hole else b"\0", chunk,
                                   -(-end // CHUNK))
        return end if change < 0 else change * CHUNK, hole


class Chunks:
    """The same for more bytes than a process can map: slower."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.chunks: dict[int, bytearray] = {}

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Each chunk's number, and where in it the range begins and ends."""
        while start < end:
            number, first = divmod(start, CHUNK)
            last = min(CHUNK, first + end - start)
            yield number, first, last
            start += last - first

    def read(self, start: int, buf) -> None:
        at = 0
        for number, first, last in self.parts(start, start + len(buf)):
            chunk = self.chunks.get(number, ZEROES)
            buf[at:at + last - first] = memoryview(chunk)[first:last]
            at += last - first

    def write(self, start: int, buf) -> None:
        at = 0
        for number, first, last in self.parts(start, start + len(buf)):
            chunk = self.chunks.get(number)
            if chunk is None:
                chunk = self.chunks[number] = bytearray(CHUNK)
            chunk[first:last] = buf[at:at + last - first]
            at += last - first

    def zero(self, start: int, end: int) -> None:
        for number, first, last in self.parts(start, end):
            chunk = self.chunks.get(number)
            if chunk is None:
                chunk = self.chunks[number] = bytearray(CHUNK)
            chunk[first:last] = ZEROES[:last - first]

    def discard(self, start: int, end: int) -> None:
        for number, first, last in self.parts(start, end):
            if last - first == CHUNK:
                self.chunks.pop(number, None)
            elif number in self.chunks:
                self.chunks[number][first:last] = ZEROES[:last - first]

    def extent(self, start: int, end: int) -> tuple[int, bool]:
        """The end of the extent that starts there, and if it is a hole."""
        chunk, last = start // CHUNK, -(-end // CHUNK)
        if chunk not in self.chunks:
            # There may be more of them in a hole than can be counted.
            data = (number for number in self.chunks if chunk < number < last)
            return min(min(data, default=last) * CHUNK, end), True
        while chunk < last and chunk in self.chunks:
            chunk += 1
        return min(chunk * CHUNK, end), False


def disk_of(size: int) -> Memory | Chunks:
    """Whatever can hold that much."""
    try:
        return Memory(size)
    except (OSError, OverflowError):
        return Chunks(size)


def untouched(count: int) -> mmap.mmap:
    """Zeroes that take no memory until they are written to."""
    # Without NORESERVE the kernel refuses more than it could ever hold.
    # Python has a name for it since 3.13.
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    return mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | no_reserve)


def config(key: str, value: str) -> None:
    global size
    if key != "size":
        raise ValueError(f"unknown parameter {key!r}: only size=SIZE is known")
    size = nbdkit.parse_size(value)
    if size == 0:
        raise ValueError(f"size={value}: a disk needs at least one byte")


def config_complete() -> None:
    global disk
    if size is None:
        raise ValueError("size=SIZE is needed, for example size=1G")
    disk = disk_of(size)


def open(readonly: bool) -> Memory | Chunks | None:
    return disk


def get_size(h: Memory | Chunks) -> int:
    return h.size


def can_multi_conn(h: Memory | Chunks) -> bool:
    return True


def can_fua(h: Memory | Chunks) -> int:
    # Nothing here is more stable than anything else: a write is as good as
    # flushed.
    return nbdkit.FUA_NATIVE


def pread(h: Memory | Chunks, buf, offset: int, flags: int) -> None:
    h.read(offset, buf)


def pwrite(h: Memory | Chunks, buf, offset: int, flags: int) -> None:
    h.write(offset, buf)


def flush(h: Memory | Chunks, flags: int) -> None:
    pass


def trim(h: Memory | Chunks, count: int, offset: int, flags: int) -> None:
    h.discard(offset, offset + count)


def zero(h: Memory | Chunks, count: int, offset: int, flags: int) -> None:
    end = offset + count
    if flags & nbdkit.FLAG_MAY_TRIM:
        h.discard(offset, end)
    else:
        h.zero(offset, end)


def extents(
    h: Memory | Chunks, count: int, offset: int, flags: int
) -> Iterator[tuple[int, int, int]]:
    end = offset + count
    while offset < end:
        until, hole = h.extent(offset, end)
        kind = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO if hole else 0
        yield offset, until - offset, kind
        if flags & nbdkit.FLAG_REQ_ONE:
            return
        offset = until
