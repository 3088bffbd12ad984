# pydisk attach examples/url.py ./disk.img url=http://localhost/disk.img
"""A file on a web server as a read-only disk.

Parameters:
    url=URL          where the file is: http or https (required)
    timeout=TIME     how long an answer may take (default 60s)

Each read is one request for a range of bytes, and several are under way at
once. The server must know ranges, as those for static files do; the file must
not change while it is read.
"""

import urllib.request

import nbdkit

API_VERSION = 2

url = ""
timeout = 60.0


def config(key, value):
    global url, timeout
    if key == "url":
        url = value
    elif key == "timeout":
        seconds, nanoseconds = nbdkit.parse_delay(key, value)
        timeout = seconds + nanoseconds / 1e9
    else:
        raise ValueError(f"unknown parameter {key!r}: url and timeout are known")


def config_complete():
    if not url.startswith(("http://", "https://")):
        raise ValueError("url=URL is needed, for example url=http://host/disk.img")


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def ask(first, last):
    """Ask for the bytes from first to last; gives the answer and the size."""
    header = {"Range": f"bytes={first}-{last}"}
    request = urllib.request.Request(url, headers=header)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except OSError as error:
        raise OSError(f"{url}: {error}") from None
    # "bytes 0-511/1048576"
    found, _, size = answer.headers.get("Content-Range", "").partition("/")
    if answer.status != 206 or found != f"bytes {first}-{last}":
        answer.close()
        raise OSError(f"{url}: the server does not send ranges of bytes")
    return answer, int(size)


def open(readonly):
    answer, size = ask(0, 0)
    answer.close()
    return size


def get_size(h):
    return h


def can_multi_conn(h):
    return True


def pread(h, buf, offset, flags):
    answer, size = ask(offset, offset + len(buf) - 1)
    with answer:
        if size != h:
            raise OSError(f"{url}: had {h} bytes, and now has {size}")
        done = 0
        while done < len(buf):
            count = answer.readinto(buf[done:])
            if not count:
                raise EOFError(f"{url}: the answer ends after {done} bytes")
            done += count
