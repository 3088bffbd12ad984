"""What a client does, by libnbd, and what it sees."""

import zlib
from contextlib import suppress
from dataclasses import dataclass, field

import nbd

from .scripts import SIZE, has

FLAGS = {"FUA": nbd.CMD_FLAG_FUA, "NO_HOLE": nbd.CMD_FLAG_NO_HOLE, "FAST": nbd.CMD_FLAG_FAST_ZERO,
         "DF": nbd.CMD_FLAG_DF, "ONE": nbd.CMD_FLAG_REQ_ONE}


@dataclass(frozen=True)
class Request:
    """One request; its place counts from the start, the middle of a full-sized disk, or the end."""

    kind: str
    anchor: str = "start"
    delta: int = 0
    count: int = 0
    flags: tuple = ()

    def at(self, size):
        """Where it begins, on a disk of this size."""
        return max({"start": 0, "middle": SIZE // 2, "end": size}[self.anchor] + self.delta, 0)

    def __str__(self):
        return f"{self.kind} {self.count} at {self.anchor}{self.delta:+} {'|'.join(self.flags)}".rstrip()


@dataclass(frozen=True)
class Client:
    """How a client introduces itself, and what it then asks."""

    export: str = ""
    structured: bool = True
    allocation: bool = True
    block_size: bool = True
    full_info: bool = True
    options: tuple = ()
    requests: tuple = ()

    def __str__(self):
        return (f"export {self.export!r}, structured {self.structured}, allocation {self.allocation}, "
                f"block size {self.block_size}, full info {self.full_info}, options {self.options}")


@dataclass
class Step:
    """What came of one thing that was done."""

    what: str
    told: str = ""
    calls: list = field(default_factory=list)
    request: Request | None = None


def visit(server, client):
    """Be this client: one Step for each thing that was done, and one for going away."""
    steps = []

    def step(what, act, request=None):
        try:
            told = act()
        except nbd.Error as error:
            told = error.errno or "fails"
        except UnicodeDecodeError:
            told = "no UTF-8"
        if handle.aio_is_dead() or handle.aio_is_closed() or (what == "connect" and told != "ok"):
            told = "gone"
        steps.append(Step(what, told, server.calls.more(), request))
        return told != "gone"

    handle = nbd.NBD()
    _introduce(handle, client)
    open_ = step("connect", lambda: _do(handle.connect_unix, str(server.socket)))
    for option in client.options:
        open_ = open_ and step(option, lambda: OPTIONS[option](handle))
    if open_ and handle.aio_is_negotiating():
        open_ = step("go", lambda: _do(handle.opt_go))
    if open_ and handle.aio_is_ready():
        for fact, ask in FACTS.items():
            step(fact, lambda: ask(handle))
        for request in client.requests:
            if not step(str(request), lambda: _ask(handle, request), request):
                break
    with suppress(nbd.Error):
        handle.opt_abort() if handle.aio_is_negotiating() else handle.shutdown()
    del handle
    closes = has(server.case, "close")
    steps.append(Step("leave", "", server.calls.until_closed(lambda: closes and server.runs())))
    return steps


def _introduce(handle, client):
    # Ask for what is not offered, out of range or of no length as well.
    handle.set_strict_mode(0)
    handle.set_opt_mode(True)
    handle.set_export_name(client.export)
    handle.set_request_structured_replies(client.structured)
    handle.set_request_block_size(client.block_size)
    handle.set_full_info(client.full_info)
    if client.allocation:
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)


def _do(act, *words):
    act(*words)
    return "ok"


def _list(handle):
    found = []
    handle.opt_list(lambda name, description: found.append((name, description)))
    return repr(found)


def _info(handle):
    handle.opt_info()
    return _known(handle, "get_canonical_export_name", "get_export_description", "get_size")


OPTIONS = {"list": _list, "info": _info}


def _known(handle, *questions):
    answers = []
    for question in questions:
        try:
            answers.append(repr(getattr(handle, question)()))
        except nbd.Error as error:
            answers.append(error.errno)
        except UnicodeDecodeError:
            answers.append("no UTF-8")
    return ", ".join(answers)


PROMISES = ("is_read_only", "can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero",
            "can_cache", "can_multi_conn", "is_rotational", "can_df")


FACTS = {
    "size": lambda handle: str(handle.get_size()),
    "promises": lambda handle: " ".join(ask for ask in PROMISES if getattr(handle, ask)()),
    "block sizes": lambda handle: str([handle.get_block_size(number) for number in range(3)]),
    "export": lambda handle: _known(handle, "get_canonical_export_name", "get_export_description"),
    "allocation": lambda handle: str(handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)),
}


def _ask(handle, request):
    at = request.at(handle.get_size())
    flags = 0
    for flag in request.flags:
        flags |= FLAGS[flag]
    return ASK[request.kind](handle, request.count, at, flags)


def _shown(data):
    data = bytes(data)
    distinct = set(data)
    if len(distinct) == 1:
        return f"{len(data)} bytes of {distinct.pop()}"
    return f"{len(data)} bytes, {zlib.crc32(data):08x}"


def _write(handle, count, at, flags):
    # Every byte tells its place.
    pattern = bytes(range(241))
    handle.pwrite((pattern * (count // 241 + 2))[at % 241:][:count], at, flags)
    return "ok"


def _status(handle, count, at, flags):
    found = []

    def extents(context, offset, entries, error):
        found.extend(entries)

    handle.block_status(count, at, extents, flags)
    return " ".join(f"{length}:{kind}" for length, kind in zip(found[::2], found[1::2]))


ASK = {
    "read": lambda handle, count, at, flags: _shown(handle.pread(count, at, flags)),
    "write": _write,
    "flush": lambda handle, count, at, flags: _do(handle.flush, flags),
    "trim": lambda handle, count, at, flags: _do(handle.trim, count, at, flags),
    "zero": lambda handle, count, at, flags: _do(handle.zero, count, at, flags),
    "cache": lambda handle, count, at, flags: _do(handle.cache, count, at, flags),
    "status": _status,
}
