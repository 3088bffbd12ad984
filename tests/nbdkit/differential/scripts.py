"""Plugins as text, put together from a word for each callback.

A plan names callbacks and what each does: `absent`, `raises`, an expression
to return, or one of the deeds below. What is rendered notes every call with
its arguments before it does anything.
"""

SIZE = 1 << 20

PRELUDE = f"""\
import array, builtins, errno, os, sys, threading
import nbdkit
SIZE = {SIZE}
disk = bytearray((bytes(range(251)) * (SIZE // 251 + 1))[:SIZE])
calls = builtins.open(os.environ["CALLS"], "a", buffering=1)
def note(*words): print(*words, file=calls)
class Index:
    def __index__(self): return SIZE
class Unprintable(Exception):
    def __str__(self): raise ValueError
"""

# The parameters of each callback, for API version 1 and 2 if they differ.
PARAMETERS = {
    "config": "key, value", "config_complete": "", "thread_model": "",
    "get_ready": "", "after_fork": "", "cleanup": "",
    "preconnect": "readonly", "list_exports": "readonly, is_tls",
    "default_export": "readonly, is_tls", "open": "readonly",
    "pread": ("h, count, offset", "h, buf, offset, flags"),
    "pwrite": ("h, buf, offset", "h, buf, offset, flags"),
    "flush": ("h", "h, flags"),
    "trim": ("h, count, offset", "h, count, offset, flags"),
    "zero": ("h, count, offset, may_trim", "h, count, offset, flags"),
    "cache": "h, count, offset, flags", "extents": "h, count, offset, flags",
}

DATA = ("pread", "pwrite", "flush", "trim", "zero", "cache", "extents")

# What a callback of data does when it works.
WORKS = {
    "pread": ("return disk[offset:offset + count]",
              "buf[:] = disk[offset:offset + len(buf)]"),
    "pwrite": "disk[offset:offset + len(buf)] = buf",
    "flush": "pass",
    "trim": "pass",
    "zero": "disk[offset:offset + count] = bytes(count)",
    "cache": "pass",
    "extents": "return [(offset, count, 0)]",
}

# Instead of working.
FAILS = {
    "raises": "raise RuntimeError('odd')",
    "oserror": "raise OSError(errno.ENOSPC, 'full')",
    "unsupported oserror": "raise OSError(errno.EOPNOTSUPP, 'not here')",
    "chosen 0": "nbdkit.set_error(0); raise RuntimeError('odd')",
    "chosen 9999": "nbdkit.set_error(9999); raise RuntimeError('odd')",
    "chosen text": "nbdkit.set_error('EIO')",
    "exits": "sys.exit(3)",
    "interrupted": "raise KeyboardInterrupt",
    "surrogate": "raise RuntimeError('\\udc80')",
    "unprintable": "raise Unprintable",
    "recurses": "deeper = lambda: deeper(); deeper()",
    "elsewhere": "thread = threading.Thread(target=nbdkit.set_error, args=(errno.ENOSPC,)); "
                 "thread.start(); thread.join(); raise RuntimeError('odd')",
}
CHOSEN = ("EIO", "ENOSPC", "EPERM", "EROFS", "ENOMEM", "EINVAL", "EDQUOT", "EFBIG",
          "ESHUTDOWN", "EOVERFLOW", "ETIMEDOUT", "EACCES", "EOPNOTSUPP")
FAILS.update({f"chosen {name}": f"nbdkit.set_error(errno.{name}); raise RuntimeError('odd')"
              for name in CHOSEN})

# After working.
AFTERWARDS = {
    "silent EIO": "nbdkit.set_error(errno.EIO)",
    "silent ENOSPC": "nbdkit.set_error(errno.ENOSPC)",
    "silent EOPNOTSUPP": "nbdkit.set_error(errno.EOPNOTSUPP)",
    "silent 0": "nbdkit.set_error(0)",
    "returns 5": "return 5",
    "vanishes": "del globals()[NAME]",
    "becomes uncallable": "globals()[NAME] = 5",
    "is bound anew": "work = globals()[NAME]; "
                     "globals()[NAME] = lambda *words: (note('anew'), work(*words))[1]",
}

# Instead of working, for one callback only.
OWN = {
    "pread 1": {
        "bytes": "return bytes(disk[offset:offset + count])",
        "memoryview": "return memoryview(disk)[offset:offset + count]",
        "array": "return array.array('B', disk[offset:offset + count])",
        "array of ints": "return array.array('I', [7] * (count // 4 + 1))",
        "longer": "return disk[offset:offset + count] + b'tail'",
        "shorter": "return disk[offset:offset + count - 1]",
        "no bytes": "return b''",
        "str": "return 'x' * count",
        "None": "return None",
        "list": "return [0] * count",
        "strided": "return memoryview(bytes(2 * count))[::2]",
    },
    "pread 2": {
        "fills nothing": "pass",
        "fills half": "buf[:len(buf) // 2] = bytes(len(buf) // 2)",
        "overfills": "buf[:] = bytes(len(buf) + 1)",
        "returns data": "return disk[offset:offset + len(buf)]",
        "slices": "part = memoryview(disk)[offset:offset + len(buf)]; buf[:] = part",
    },
    "zero": {
        "declines": "nbdkit.set_error(errno.EOPNOTSUPP); return",
        "returns False": "return False",
    },
    "extents": {
        "generator": "yield offset, 1, 0; yield offset + 1, count, 3",
        "keys": "return {(offset, count, 3): 1}.keys()",
        "tuple": "return ((offset, count, 2),)",
        "alternating": "return [(at, 4096, at // 4096 % 2 * 3) "
                       "for at in range(offset // 4096 * 4096, offset + count, 4096)]",
        "starts before": "return [(0, SIZE, 1)]",
        "starts late": "return [(offset + 1, count, 0)]",
        "too little": "return [(offset, 1, 2)]",
        "past the end": "return [(offset, 1 << 62, 3)]",
        "longer than all": "return [(offset, 1 << 63, 3)]",
        "beyond 64 bits": "return [(offset, 1 << 64, 3)]",
        "no length": "return [(offset, 0, 3), (offset, count, 0)]",
        "no length at all": "return [(offset, 0, 3)]",
        "only before": "return [(0, offset // 2 + 1, 3)] if offset else [(0, 0, 0)]",
        "equal neighbours": "return [(offset, 1, 1), (offset + 1, 1, 1), (offset + 2, count, 0)]",
        "gap": "return [(offset, 1, 0), (offset + 2, count, 0)]",
        "overlap": "return [(offset, 2, 0), (offset + 1, count, 0)]",
        "downwards": "return [(offset + 1, count, 0), (offset, 1, 0)]",
        "odd type": "return [(offset, count, 7)]",
        "negative type": "return [(offset, count, -1)]",
        "bool type": "return [(offset, count, True)]",
        "negative": "return [(-1, count, 0)]",
        "negative length": "return [(offset, -1, 0)]",
        "float": "return [(float(offset), count, 0)]",
        "index": "return [(offset, Index(), 0)]",
        "lists": "return [[offset, count, 0]]",
        "pairs": "return [(offset, count)]",
        "fours": "return [(offset, count, 0, 0)]",
        "empty": "return []",
        "None": "return None",
        "number": "return 5",
        "str": "return 'abc'",
        "midway": "yield offset, 512, 3; raise RuntimeError('midway')",
    },
}


def deeds(name, version):
    """The words that say what a callback of data does, other than `works`."""
    own = {**OWN.get(name, {}), **OWN.get(f"{name} {version}", {})}
    # pydisk asks for extents before it reads, so it would be another call after which they are gone.
    counts = ("vanishes", "becomes uncallable") if name == "extents" else ()
    return [*FAILS, *(word for word in AFTERWARDS if word not in counts), *own]


def has(case, name):
    """Whether the case's plugin defines the callback."""
    return case.plan.get(name, "absent") not in ("absent", "not callable")


def render(plan, version):
    """The text of a plugin; `plan` has a word for each of its callbacks.

    A word may end in ` above`: then the callback works in the lower half.
    """
    lines = [PRELUDE]
    declared = plan.get("API_VERSION", str(version))
    if declared != "absent":
        lines.append(f"API_VERSION = {declared}")
    for name, word in plan.items():
        if name in ("API_VERSION", "top level") or word == "absent":
            continue
        lines.append(_callback(name, word, version))
    lines.append(plan.get("top level", ""))
    return "\n".join(lines) + "\n"


def _callback(name, word, version):
    parameters = PARAMETERS.get(name, "h")
    if not isinstance(parameters, str):
        parameters = parameters[version - 1]
    if word == "not callable":
        return f"{name} = True"
    if word == "wrong arguments":
        return f"def {name}(only, three, of, many, more): pass"
    noted = parameters.replace("buf,", "len(buf),")
    head = f"def {name}({parameters}):"
    if word == "async":
        head = f"async {head}"
    body = [head, f"    note({', '.join(filter(None, [repr(name), noted]))})"]
    if name in DATA:
        body += _work(name, word, version)
    elif word == "raises":
        body.append(f"    raise RuntimeError({name!r})")
    elif word in FAILS:
        body.append(f"    {FAILS[word]}")
    else:
        # Not a literal, of which pydisk would warn at load.
        body += [f"    {line}" for line in word.split("\n")] if "return" in word or "yield" in word \
            else [f"    return {word}"]
    return "\n".join(body)


def _work(name, word, version):
    works = WORKS[name]
    if not isinstance(works, str):
        works = works[version - 1]
    if word in ("works", "async"):
        return [f"    {works}"]
    lines = []
    if word.endswith(" above"):
        word = word.removesuffix(" above")
        works_below = works.replace("return", "return (yield from") + ")" \
            if word in ("generator", "midway") else works
        lines = ["    if offset < SIZE // 2:", f"        {works_below}", "        return"]
    if word == "yields":
        return [*lines, f"    {works}", "    yield"]
    own = {**OWN.get(name, {}), **OWN.get(f"{name} {version}", {})}
    code = own.get(word) or FAILS.get(word)
    if code is None:
        # What works by what it returns returns it at last.
        code = AFTERWARDS[word]
        if works.startswith("return "):
            result = works.removeprefix("return ")
            if code.startswith("return "):
                return [*lines, f"    {code}"]
            code = f"result = {result}; {code}; return result"
        else:
            code = f"{works}; {code}"
    return [*lines, f"    {code.replace('NAME', repr(name))}"]
