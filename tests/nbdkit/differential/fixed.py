"""The cases that are always there: one at least for each entry of intended.py, and old questions."""

from . import scripts
from .cases import ANSWERS, Case, FATAL, ORDER, fails_to_start
from .session import Client, Request

# All that can be asked, at places of all kinds.
REQUESTS = (
    Request("read", "start", 0, 512), Request("read", "middle", 0, 4096),
    Request("write", "start", 4096, 512), Request("write", "middle", 0, 4096, ("FUA",)),
    Request("read", "middle", 1, 513), Request("flush"),
    Request("zero", "start", 0, 8192), Request("zero", "middle", 4096, 512, ("NO_HOLE",)),
    Request("zero", "middle", 0, 512, ("FUA",)), Request("read", "middle", 0, 4096),
    Request("trim", "start", 512, 512), Request("trim", "middle", 0, 4096, ("FUA",)),
    Request("cache", "middle", 0, 4096), Request("status", "start", 4096, 8192),
    Request("status", "middle", 512, 512, ("ONE",)), Request("read", "middle", 0, 65536),
    Request("read", "middle", 0, 65536, ("DF",)), Request("read", "start", 0, 512),
)

# Everything works.
WORKS = {"close": "None", "open": "None", "get_size": "SIZE", **{name: "works" for name in scripts.DATA}}


def ordered(plan):
    return {name: plan[name] for name in (*ORDER, "top level") if name in plan}


def case(name, version=2, requests=REQUESTS, **plan):
    """A case in which everything works but for what is said."""
    plan = ordered(WORKS | plan)
    clients = (Client(requests=tuple(requests), options=("list", "info")),)
    return Case(name, plan, version, clients, fails_to_start=fails_to_start(plan))


def sweep():
    """Every word of every callback, one at a time."""
    found = []
    for name in scripts.DATA:
        for version in (1, 2):
            words = ["absent", "not callable", "async", "yields", "wrong arguments",
                     *scripts.deeds(name, version)]
            found += [case(f"{name} {version}: {word}", version, **{name: word}) for word in words]
    for name, (meant, odd) in ANSWERS.items():
        for word in ["absent", *meant, *odd]:
            found.append(case(f"{name}: {word}", **{name: word}))
    return found


# A disk of 256 MiB that keeps nothing: the lengths are what is looked at.
LARGE = """
SIZE = 256 << 20
def pwrite(h, buf, offset, flags): note('pwrite', h, len(buf), offset, flags)
def zero(h, count, offset, flags):
    note('zero', h, count, offset, flags)
    nbdkit.set_error(errno.EOPNOTSUPP)
"""

# What the module says to Python, as repr() shows it. Only what nbdkit 1.32 has.
EXPRESSIONS = """
def look(text):
    try: note(text, repr(eval(text)))
    except Exception as error: note(text, type(error).__name__)
for name in ('FLAG_MAY_TRIM', 'FLAG_FUA', 'FLAG_REQ_ONE', 'FLAG_FAST_ZERO', 'FUA_NONE', 'FUA_EMULATE',
             'FUA_NATIVE', 'CACHE_NONE', 'CACHE_EMULATE', 'CACHE_NATIVE', 'EXTENT_HOLE', 'EXTENT_ZERO',
             'THREAD_MODEL_SERIALIZE_CONNECTIONS', 'THREAD_MODEL_SERIALIZE_ALL_REQUESTS',
             'THREAD_MODEL_SERIALIZE_REQUESTS', 'THREAD_MODEL_PARALLEL'):
    look('nbdkit.' + name)
for text in ('0', '1', ' 1', '+1', '-1', '010', '1k', '1K', '1b', '2s', '3m', '4g', '5t', '6p', '7e', '8e',
             '1KiB', '1kB', '1.5M', '0x10', '1 ', '', 'k', '9223372036854775807', '9223372036854775808'):
    look(f'nbdkit.parse_size({text!r})')
for call in ('set_error(5)', 'set_error("EIO")', 'set_error(1.5)', 'set_error()', 'set_error(True)',
             'set_error(1 << 40)', 'debug("text %s")', 'debug(b"bytes")', 'debug("a\\\\0b")', 'debug()',
             'export_name()', 'parse_size(1)', 'parse_size()'):
    look('nbdkit.' + call)
nbdkit.set_error(0)
look('__name__')
look('sys.argv')
look('__file__ == os.path.abspath(__file__)')
def preconnect(readonly): note('preconnect', readonly); look('nbdkit.export_name()')
def open(readonly): note('open', readonly); look('nbdkit.export_name()'); look('os.getcwd() != "/tmp"')
"""

# Each call with the name of the export that is open.
NAMED = """
def note(*words):
    try: name = repr(nbdkit.export_name())
    except RuntimeError: name = 'none'
    print(*words, name, file=calls)
"""

TYPICAL = (Request("write", "start", 0, 4096), Request("read", "start", 0, 4096))


def _session():
    """All callbacks, and a client that asks for all there is."""
    plan = {name: ANSWERS[name][0][0] for name in ANSWERS if name != "API_VERSION"}
    plan |= {"can_fua": "2", "block_size": "(1, 4096, 65536)", "extents": "alternating",
             "default_export": "'main'", "top level": NAMED}
    return case("a session", 2, (*REQUESTS, Request("zero", "start", 0, 512, ("FAST",))), **plan)


CASES = (
    _session(),
    case("version 1", 1),
    case("version 2", 2),
    case("the module", **{"top level": EXPRESSIONS}),
    case("native FUA of version 1", 1, can_fua="2"),
    case("native FUA of version 1, no flush", 1, can_fua="2", flush="absent"),
    case("EMULATE without flush", can_fua="1", flush="absent"),
    case("can_flush False", can_flush="False"),
    case("fast zero of version 1", 1, (Request("zero", "start", 0, 512, ("FAST",)),), can_fast_zero="True"),
    case("fast zero that is not offered", 2, (*TYPICAL, Request("zero", "start", 0, 512, ("FAST",)))),
    case("zero declines, and pwrite cannot", zero="chosen EOPNOTSUPP", pwrite="chosen EOPNOTSUPP"),
    case("zero declines, and flush cannot", 2, (Request("zero", "start", 0, 512, ("FUA",)),),
         zero="chosen EOPNOTSUPP", flush="chosen EOPNOTSUPP"),
    case("no zero, and pwrite cannot", zero="absent", pwrite="chosen EOPNOTSUPP"),
    case("a large zero that is declined", 2, (Request("zero", "start", 0, 200 << 20),),
         **{"top level": LARGE}),
    case("pread fills nothing", pread="fills nothing"),
    case("pread fills half", pread="fills half"),
    case("pwrite is silent", pwrite="silent EIO"),
    case("zero is silent", zero="silent ENOSPC"),
    case("text of pread with a surrogate", pread="surrogate"),
    case("text of open with a surrogate", open="surrogate"),
    case("async pread", pread="async"),
    case("async everything", **{name: "async" for name in scripts.DATA}),
    case("pread yields", pread="yields"),
    case("pwrite takes other arguments", pwrite="wrong arguments"),
    case("sys.exit at the top level", **{"top level": "sys.exit(3)"}),
    case("an exception at the top level", **{"top level": "raise RuntimeError"}),
    case("no such module", **{"top level": "import nosuchmodule"}),
    case("after_fork raises", after_fork="raises"),
    case("get_ready raises", get_ready="raises"),
    case("extents raise midway", extents="midway"),
    case("extents are too little", extents="too little"),
    case("extents are more", extents="past the end"),
    case("extents are __index__", extents="index"),
    case("block_size of 4096", block_size="(4096, 65536, 0xffffffff)", get_size="SIZE - 1000"),
    case("block_size of 64 KiB at most", block_size="(1, 4096, 65536)"),
    case("block_size is a list", block_size="[1, 4096, 65536]"),
    case("block_size is a number", block_size="4096"),
    case("exports that raise midway", list_exports="yield 'a'; raise RuntimeError('midway')"),
    case("the default export raises", default_export="raises"),
    case("the default export has a zero byte", default_export="'a\\0b'"),
    case("a description with a zero byte", export_description="'a\\0b'"),
    Case("nobody wants to know of blocks", ordered(WORKS | {"block_size": "(1, 4096, 65536)"}), 2,
         (Client(block_size=False, requests=TYPICAL),)),
    Case("read-only", ordered(WORKS), 2, (Client(requests=REQUESTS), Client(requests=REQUESTS)), True),
    Case("simple replies", ordered(WORKS), 2, (Client(structured=False, requests=REQUESTS),)),
    Case("a parameter that nobody takes", ordered(WORKS), parameters=("key=value",)),
    Case("parameters", ordered(WORKS | {"config": "None", "config_complete": "None"}),
         parameters=("key=value", "key=", "a-b.c_d=e=f", "key=\u00e4")),
)
