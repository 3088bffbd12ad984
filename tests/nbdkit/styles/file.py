"""A file, in version 1: each handle is a descriptor."""

import os


def config(key, value):
    global filename
    assert key == "file"
    filename = os.path.abspath(value)


def thread_model():
    import nbdkit
    return nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS


def open(readonly):
    return os.open(filename, os.O_RDONLY if readonly else os.O_RDWR)


def close(h):
    os.close(h)


def get_size(h):
    return os.stat(filename).st_size


def pread(h, count, offset):
    return os.pread(h, count, offset)


def pwrite(h, buf, offset):
    while buf:
        done = os.pwrite(h, buf, offset)
        buf, offset = buf[done:], offset + done


def flush(h):
    os.fsync(h)
