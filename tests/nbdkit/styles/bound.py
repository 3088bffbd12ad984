"""The callbacks are methods of the handle's class."""

import functools

API_VERSION = 2
CONTENT = {}


class Disk:
    """One client's view of an export."""

    def __init__(self, readonly):
        import nbdkit
        self.name = nbdkit.export_name()
        self.data = CONTENT.setdefault(self.name, bytearray(65536))
        self.readonly = readonly

    def size(self):
        return len(self.data)

    def read(self, buf, offset, flags):
        buf[:] = self.data[offset:offset + len(buf)]

    def write(self, buf, offset, flags):
        self.data[offset:offset + len(buf)] = buf

    def describe(self):
        return f"export {self.name!r}"

    @classmethod
    def names(cls, readonly, is_tls):
        yield from ("one", ("two", "the second"))

    @staticmethod
    def level(h):
        return 0


class Flush:
    """A callback that is an object."""

    def __init__(self):
        self.times = 0

    def __call__(self, h, flags):
        self.times += 1


open = Disk
get_size = Disk.size
pread = Disk.read
pwrite = Disk.write
export_description = Disk.describe
list_exports = Disk.names
can_fua = Disk.level
flush = Flush()
can_write = functools.partial(lambda answer, h: answer, True)
