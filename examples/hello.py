# pydisk attach examples/hello.py /tmp/hello.txt
"""A read-only disk that holds a text: the least that a plugin needs."""

API_VERSION = 2
TEXT = b"Hello from Python!\n".ljust(512, b"\n")


def open(readonly):
    return None


def get_size(h):
    return len(TEXT)


def pread(h, buf, offset, flags):
    buf[:] = TEXT[offset:offset + len(buf)]
