# pydisk attach examples/async_http.py /dev/ublkb0 url=http://localhost:8000/disk.img
"""A file on a web server as a disk that is read as it is needed.

Each read asks the server for a range of bytes. The callbacks are coroutines:
many reads wait for the server at the same time, on connections that are kept
for the next ones, and none of them needs a thread.

Parameters:
    url=URL         http:// or https://, of a server that knows ranges
                    (nginx, Apache, object stores)
    connections=N   how many at the same time (default 16)
"""

import asyncio
import urllib.parse

import nbdkit

API_VERSION = 2

url = None
connections = 16


def config(key, value):
    global url, connections
    if key == "url":
        url = urllib.parse.urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"url={value}: http://HOST/PATH is accepted")
    elif key == "connections":
        connections = int(value)
        if connections < 1:
            raise ValueError(f"connections={value}: at least 1 is needed")
    else:
        raise ValueError(
            f"unknown parameter {key!r}: url and connections are known")


def config_complete():
    if url is None:
        raise ValueError("the parameter url=http://HOST/PATH is missing")


class Source:
    """The file on the server."""

    def __init__(self):
        self.places = asyncio.Semaphore(connections)
        self.idle = []
        self.size = 0
        self.version = None

    async def look(self):
        """Find out how long the file is, and which version of it."""
        try:
            status, headers, _ = await self.ask("HEAD", {})
        except (OSError, EOFError) as error:
            raise OSError(f"{url.geturl()}: {error}") from None
        if status != 200:
            raise OSError(f"{url.geturl()}: the server says {status}")
        self.size = int(headers["content-length"])
        self.version = headers.get("etag") or headers.get("last-modified")

    async def read(self, buf, offset):
        wanted = {"Range": f"bytes={offset}-{offset + len(buf) - 1}"}
        if self.version and not self.version.startswith("W/"):
            # Two versions must not be mixed: another one comes as a whole.
            wanted["If-Range"] = self.version
        status, _, body = await self.ask("GET", wanted)
        if status != 206 or len(body) != len(buf):
            raise OSError(f"{url.geturl()}: no range, but {status}: does the "
                          "server know ranges, or has the file changed?")
        buf[:] = body

    async def ask(self, method, headers):
        """Send a request, once more if a kept connection was closed."""
        async with self.places:
            while self.idle:
                try:
                    return await self.ask_on(self.idle.pop(), method, headers)
                except (ConnectionError, asyncio.IncompleteReadError):
                    nbdkit.debug("a connection was closed meanwhile")
            tls = True if url.scheme == "https" else None
            fresh = await asyncio.open_connection(
                url.hostname, url.port or (443 if tls else 80), ssl=tls)
            return await self.ask_on(fresh, method, headers)

    async def ask_on(self, connection, method, headers):
        reader, writer = connection
        try:
            path = urllib.parse.urlunsplit(("", "", url.path or "/",
                                            url.query, ""))
            host = url.netloc.rpartition("@")[2]
            lines = [f"{method} {path} HTTP/1.1", f"Host: {host}",
                     *(f"{name}: {value}" for name, value in headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head.strip().split("\r\n")
            status = int(first.split()[1])
            fields = dict(line.split(":", 1) for line in rest)
            fields = {k.lower(): v.strip() for k, v in fields.items()}
            body = b""
            if method == "GET" and status == 206:
                body = await reader.readexactly(int(fields["content-length"]))
        except BaseException:
            writer.close()
            raise
        # What else there may be to read is not worth it.
        if fields.get("connection") == "close" or status not in (200, 206) \
                or (method == "GET" and status != 206):
            writer.close()
        else:
            self.idle.append(connection)
        return status, fields, body

    def close(self):
        for _, writer in self.idle:
            writer.close()


async def open(readonly):
    source = Source()
    await source.look()
    return source


async def close(h):
    h.close()


def get_size(h):
    return h.size


def can_multi_conn(h):
    return True


async def pread(h, buf, offset, flags):
    await h.read(buf, offset)
