"""Where pydisk is meant to differ from nbdkit, and what it is meant to do there.

An entry turns what nbdkit did in a step into what pydisk is meant to do. If that is what pydisk did, the
difference is intended. Several entries may have their share in one step.
"""

import errno
import re
from dataclasses import dataclass, replace
from typing import Callable

from . import scripts
from .scripts import DATA, SIZE, has

LONGEST = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One intended difference; docs/nbdkit.md says why, in these words."""

    name: str
    docs: str
    # (case, difference, step) to the step that is meant, or None if it does not apply.
    meant: Callable
    # The two disks may hold different bytes from then on.
    parts: bool = False
    # The nbdkit from which on it may not occur any more.
    fixed_in: tuple = (99,)


ENTRIES = []


def entry(name, docs, **more):
    def add(meant):
        ENTRIES.append(Entry(name, docs, meant, **more))
        return meant
    return add


def explain(case, difference, entries):
    """The entries by which the difference is intended; none if it is not."""
    step, used = difference.theirs, []
    for one in entries:
        if step == difference.ours:
            break
        meant = one.meant(case, difference, step)
        if meant is not None and meant != step:
            step, used = meant, [*used, one]
    return used if step == difference.ours else []


def undocumented(text):
    """The entries that the document does not mention, and their words."""
    return [(one.name, one.docs) for one in ENTRIES if one.docs not in text]


# What the entries ask about a case.

def first_words(calls):
    return [call.split(" ", 1)[0] for call in calls]


def before(calls, name):
    """The calls up to the first of this callback, and with it."""
    return calls[:first_words(calls).index(name) + 1]


def closed(case, calls):
    """The calls, and `close` with the same handle."""
    if not has(case, "close"):
        return calls
    handle = next(call.split(" ", 1)[1] for call in calls if call.startswith("get_size "))
    return [*calls, f"close {handle}"]


def minimum(case):
    match = re.match(r"[(\[](\d+), ", case.plan.get("block_size", ""))
    return max(int(match[1]), 1) if match else 1


def wire(name):
    """How NBD tells an errno."""
    number = getattr(errno, name)
    return {errno.EPERM: "EPERM", errno.EROFS: "EPERM", errno.EIO: "EIO", errno.ENOMEM: "ENOMEM",
            errno.ENOSPC: "ENOSPC", errno.EDQUOT: "ENOSPC", errno.EFBIG: "ENOSPC",
            errno.ESHUTDOWN: "ESHUTDOWN"}.get(number, "EINVAL")


def opens(step):
    """Whether the step opens an export."""
    return step.what in ("info", "go")


def succeeded(step):
    return not re.fullmatch("E[A-Z0-9]+|gone|fails|no UTF-8", step.told)


# Starting and stopping.

@entry("what cannot work is refused at load", "refused at load, by name and line")
def _(case, difference, step):
    unfit = {"yields", "wrong arguments"} & set(case.plan.values())
    other_version = case.version == 2 and case.plan.get("API_VERSION") in ("absent", "1", "True")
    if step.what == "start" and step.told == "serves" and (unfit or other_version):
        return replace(step, told="refuses", calls=[])
    return None


@entry("sys.exit at the top level", "`sys.exit` at the top level")
def _(case, difference, step):
    if step.what == "end" and "sys.exit" in case.plan.get("top level", ""):
        return replace(step, told="exits 1")
    return None


@entry("sizes are those of a newer nbdkit", "hexadecimal and octal", fixed_in=(1, 48))
def _(case, difference, step):
    if step.what != "start":
        return None
    newer = {"nbdkit.parse_size('010') 10": "nbdkit.parse_size('010') 8",
             "nbdkit.parse_size('0x10') ValueError": "nbdkit.parse_size('0x10') 16"}
    return replace(step, calls=[newer.get(call, call) for call in step.calls])


# Exports.

@entry("the handle of INFO is closed at once", "the first is closed at once")
def _(case, difference, step):
    if step.what == "info" and succeeded(step) and has(case, "close") \
            and not step.calls[-1].startswith("close"):
        return replace(step, calls=closed(case, step.calls))
    if step.what == "go" and step.calls and step.calls[0].startswith("close"):
        return replace(step, calls=step.calls[1:])
    return None


@entry("names are text", "a name that no client could ask for is refused")
def _(case, difference, step):
    # nbdkit has its answer from the first time, and calls it once; here there was none.
    called = f"default_export {case.read_only} False"
    odd = case.plan.get("default_export") in ("b'\\xff'", "'a\\0b'", "'\\udc80'")
    if step.what == "list" and odd and not has(case, "list_exports"):
        return replace(step, told="ENOTSUP")
    if opens(step) and odd and difference.ours.calls == [called]:
        return replace(step, told="ENOENT", calls=[called])
    return None


@entry("block_size is asked at each open", "asked at each `open`, not only if the client wants to know")
def _(case, difference, step):
    if not opens(step) or not has(case, "block_size") or "block_size" in first_words(step.calls) \
            or not succeeded(step):
        return None
    names = first_words(step.calls)
    at = next((names.index(name) for name in ("export_description", "close") if name in names), len(names))
    handle = next(call.split(" ", 1)[1] for call in step.calls if call.startswith("get_size "))
    return replace(step, calls=[*step.calls[:at], f"block_size {handle}", *step.calls[at:]])


ODD_BLOCK_SIZES = ("None", "4096", "(1, 4096)", "(1, 4096.0, 65536)", "(2 ** 33, 2 ** 33, 2 ** 33)",
                   "(3, 512, 1024)", "(1, 100, 65536)", "(4096, 512, 65536)", "(512, 4096, 5000)",
                   "(1, 65536, 4096)", "(0, 4096, 65536)", "(131072, 131072, 1 << 20)",
                   "(1, 1 << 26, 0xffffffff)", "(1, 512, 1 << 27)", "(-1, 512, 65536)", "raises")


@entry("block_size that cannot be is refused, not dropped", "the client is refused, not dropped")
def _(case, difference, step):
    if not opens(step) or case.plan.get("block_size") not in ODD_BLOCK_SIZES \
            or "block_size" not in first_words(step.calls):
        return None
    return replace(step, told="ENOENT", calls=closed(case, before(step.calls, "block_size")))


@entry("block_size may be a list", "a list is accepted too")
def _(case, difference, step):
    if opens(step) and case.plan.get("block_size", "").startswith("[") and step.told == "gone":
        return replace(step, told=difference.ours.told, calls=difference.ours.calls)
    return None


@entry("EMULATE without flush is refused", "EMULATE without `flush` is refused")
def _(case, difference, step):
    if not opens(step) or has(case, "flush") or "can_fua" not in first_words(step.calls) \
            or case.plan["can_fua"] not in ("1", "3", "True"):
        return None
    return replace(step, told="ENOENT", calls=closed(case, before(step.calls, "can_fua")))


@entry("a list that cannot be sent is an error", "is an error, not a shorter list")
def _(case, difference, step):
    word = case.plan.get("list_exports", "")
    if step.what == "list" and ("midway" in word or "xff" in word or "udc80" in word or "\\0" in word):
        return replace(step, told="ENOTSUP")
    return None


@entry("a description that cannot be sent is none", "lone surrogates are no crash")
def _(case, difference, step):
    if case.plan.get("export_description") not in ("b'\\xff'", "'\\udc80'", "'a\\0b'") \
            or not (opens(step) or step.what == "export"):
        return None
    if step.told == "gone" and step.calls[-1].startswith("export_description"):
        return difference.ours
    return replace(step, told=re.sub("no UTF-8|'a'", "ENOTSUP", step.told))


@entry("no default export is an error, not an empty list", "`default_export` that fails fails the list")
def _(case, difference, step):
    if step.what == "list" and not has(case, "list_exports") and step.told == "[]":
        return replace(step, told="ENOTSUP")
    return None


# What a client is told of an export.

@entry("sizes are whole blocks", "the size is rounded down to whole blocks")
def _(case, difference, step):
    block = minimum(case)
    if block == 1 or step.what not in ("size", "info") or not succeeded(step):
        return None
    head, comma, size = step.told.rpartition(", ")
    return replace(step, told=f"{head}{comma}{int(size) // block * block}")


@entry("block sizes are always told", "block sizes are told to every client that asks")
def _(case, difference, step):
    if step.what == "block sizes" and step.told == "[0, 0, 0]":
        return replace(step, told=f"[1, 4096, {LONGEST}]")
    return None


@entry("the largest request is told", "never more than 64 MiB")
def _(case, difference, step):
    if step.what != "block sizes":
        return None
    least, preferred, most = (int(size) for size in re.findall(r"\d+", step.told))
    return replace(step, told=str([least, preferred, min(most, LONGEST)]))


@entry("native FUA of version 1 without flush is none", "NATIVE under API version 1 is emulated", parts=True)
def _(case, difference, step):
    if case.version != 1 or case.plan.get("can_fua") != "2" or has(case, "flush"):
        return None
    if step.what == "promises":
        return replace(step, told=step.told.replace("can_fua ", ""))
    if step.request and "FUA" in step.request.flags and step.request.kind != "read":
        return replace(step, told="EINVAL", calls=[]) if first_words(step.calls)[:1] else None
    return None


# Requests.

def is_whole(case, difference):
    """Whether the plugin takes the request as it is."""
    request, block = difference.theirs.request, minimum(case)
    size = int(difference.known["size"])
    largest = re.match(r"[(\[].*, (\d+|1 << \d+)[)\]]", case.plan.get("block_size", ""))
    longest = (eval(largest[1]) if largest else 0) or 0xffffffff
    return (request.at(size) % block == 0 and request.count % block == 0
            and (request.count <= longest or request.kind not in ("read", "write", "zero"))
            and (request.anchor != "end" or block == 1))


@entry("requests are in whole blocks", "requests obey it", parts=True)
def _(case, difference, step):
    request, ours = step.request, difference.ours
    if request is None or request.kind == "flush" or is_whole(case, difference):
        return None
    # By other calls, to the same end: unless the plugin fails in some of them, the disk ends elsewhere, or
    # parts of blocks would have to be written, which is not fast.
    works = all(case.plan.get(name, "absent") in ("works", "absent", "not callable") for name in DATA)
    if works and request.anchor != "end" and "FAST" not in request.flags:
        return replace(step, calls=ours.calls)
    return ours


@entry("extents are asked before large reads", "reads of 64 KiB and more over NBD")
def _(case, difference, step):
    request, ours = step.request, difference.ours
    if request is None or request.kind != "read" or request.count < 65536 or "DF" in request.flags:
        return None
    asked = [call for call in ours.calls if call.startswith(("extents ", "anew"))]
    read = [call for call in ours.calls if call not in asked]
    if not asked:
        return None
    if read == [call for call in step.calls if call != "anew"]:
        return replace(step, calls=ours.calls)
    # Holes are not read: a plugin whose extents say what is not so is believed.
    if case.plan["extents"].removesuffix(" above") in scripts.OWN["extents"]:
        return replace(step, told=ours.told, calls=ours.calls)
    return None


@entry("status is of what was asked for", "what lies behind is not told")
def _(case, difference, step):
    if not step.request or step.request.kind != "status" or not succeeded(step):
        return None
    left, kept = step.request.count, []
    for extent in step.told.split():
        length, kind = extent.split(":")
        if left > 0:
            kept.append(f"{min(int(length), left)}:{kind}")
        left -= int(length)
    return replace(step, told=" ".join(kept))


@entry("extents are asked for until the range is known", "is asked again for the rest of the range")
def _(case, difference, step):
    ours = difference.ours
    if not step.request or step.request.kind != "status" or "ONE" in step.request.flags \
            or case.plan["extents"].removesuffix(" above") != "too little" or not succeeded(step):
        return None
    more = set(first_words(ours.calls)) == {"extents"} and ours.calls[0] == step.calls[0]
    return replace(step, told=ours.told, calls=ours.calls) if more else None


@entry("an extent may be a number by __index__", "what has `__index__` is a number")
def _(case, difference, step):
    if step.request and step.request.kind == "status" and step.told == "EIO" \
            and case.plan["extents"].startswith("index"):
        return replace(step, told=f"{step.request.count}:0")
    return None


@entry("fast zero that was not offered", "asks for a fast zero that was not offered")
def _(case, difference, step):
    request = step.request
    if request and "FAST" in request.flags and step.told == "gone" \
            and "can_fast_zero" not in difference.known["promises"]:
        return replace(step, told="EINVAL")
    return None


@entry("version 1 cannot be asked for a fast zero", "version 1 cannot be told to fail rather than be slow",
       parts=True)
def _(case, difference, step):
    request = step.request
    if case.version == 1 and request and request.kind == "zero" and "FAST" in request.flags \
            and first_words(step.calls)[:1] == ["zero"]:
        return replace(step, told="ENOTSUP", calls=[])
    return None


@entry("native FUA of version 1 is emulated", "NATIVE under API version 1 is emulated")
def _(case, difference, step):
    request = step.request
    if case.version != 1 or case.plan.get("can_fua") != "2" or not has(case, "flush") \
            or not request or "FUA" not in request.flags or not succeeded(step) \
            or request.kind not in ("write", "trim", "zero"):
        return None
    handle = step.calls[-1].split(" ")[1]
    works = case.plan["flush"] in ("works",)
    return replace(step, told=step.told if works else difference.ours.told,
                   calls=[*step.calls, f"flush {handle}"])


@entry("set_error without an exception fails", "with a normal return it fails the request")
def _(case, difference, step):
    if step.request is None:
        return None
    for number, name in enumerate(first_words(step.calls)):
        word = case.plan.get(name, "").removesuffix(" above")
        if not word.startswith("silent E") or name not in DATA:
            continue
        chosen = word.removeprefix("silent ")
        if name == "zero" and chosen == "EOPNOTSUPP":
            continue
        if case.plan[name].endswith(" above") and step.request.at(int(difference.known["size"])) < SIZE // 2:
            continue
        return replace(step, told=wire(chosen), calls=step.calls[:number + 1])
    return None


def awaited(case, difference):
    """pydisk's step, where it ran a coroutine that nbdkit says to be done and did not run.

    That the data is right is for tests/python/coroutines.rs to hold.
    """
    request, ours = difference.theirs.request, difference.ours
    kinds = {"read": "pread", "write": "pwrite", "status": "extents"}
    callback = kinds.get(request.kind, request.kind)
    ran = case.plan.get(callback) == "async" and callback in first_words(ours.calls)
    return ours if ran and succeeded(ours) else None


@entry("coroutines are awaited", "they are awaited, [many at the same time]")
def _(case, difference, step):
    reads = step.request and step.request.kind in ("read", "status", "cache", "flush")
    return awaited(case, difference) if reads else None


@entry("coroutines that write are awaited", "they are awaited, [many at the same time]", parts=True)
def _(case, difference, step):
    writes = step.request and step.request.kind in ("write", "trim", "zero")
    return awaited(case, difference) if writes else None


@entry("what pread does not fill is zeroes", "what the callback does not fill reads as zeroes")
def _(case, difference, step):
    word = case.plan.get("pread", "").removesuffix(" above")
    unfilled = ("fills nothing", "fills half", "returns data")
    if step.request and step.request.kind == "read" and case.version == 2 and word in unfilled \
            and succeeded(step) and step.told != difference.ours.told:
        return replace(step, told=f"{step.request.count} bytes of 0")
    return None


@entry("a generator of extents that raises midway", "a generator that raises midway is an error. `FLAG_REQ_ONE`")
def _(case, difference, step):
    if step.request and step.request.kind == "status" and "extents" in first_words(step.calls) \
            and case.plan["extents"].startswith("midway"):
        return replace(step, told="EIO")
    return None


@entry("text with lone surrogates", "nbdkit crashes on the former")
def _(case, difference, step):
    if step.told != "gone" or not step.calls:
        return None
    last = step.calls[-1].split(" ", 1)[0]
    if case.plan.get(last, "").removesuffix(" above") != "surrogate":
        return None
    if step.request:
        return replace(step, told="EIO")
    return replace(step, told="ENOENT") if opens(step) else None


@entry("zeroes are written where they belong", "with the fallback to writing at advancing offsets",
       fixed_in=(1, 38))
def _(case, difference, step):
    if not step.request or step.request.kind != "zero" or first_words(step.calls)[:1] != ["zero"] \
            or "pwrite" not in first_words(step.calls):
        return None
    at, calls = int(step.calls[0].split(" ")[3]), []
    for call in step.calls:
        words = call.split(" ")
        if words[0] == "pwrite":
            words[3] = str(at)
            at += int(words[2])
        calls.append(" ".join(words))
    return replace(step, calls=calls)


@entry("EOPNOTSUPP of a write in place of zeroes", "`EOPNOTSUPP` from `pwrite` or `flush` on the way to zeroes")
def _(case, difference, step):
    if step.request and step.request.kind == "zero" and step.told == "gone" \
            and first_words(step.calls)[-1:] in (["pwrite"], ["flush"]):
        return replace(step, told="EINVAL")
    return None
