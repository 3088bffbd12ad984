"""Which plugins meet which clients: by chance, from a seed."""

import random
from dataclasses import dataclass

from . import scripts
from .session import Client, Request


@dataclass(frozen=True)
class Case:
    """A plugin and those who use it, one after the other."""

    name: str
    plan: dict
    version: int = 2
    clients: tuple = (Client(),)
    read_only: bool = False
    parameters: tuple = ()
    # The plugin fails in a way that ends the server before it serves.
    fails_to_start: bool = False

    @property
    def script(self):
        return scripts.render(self.plan, self.version)

    def __str__(self):
        odd = {name: word for name, word in self.plan.items() if word not in ("works", "absent")}
        return f"{self.name}: version {self.version}, {odd}"


BOOLEANS = ("can_write", "can_flush", "can_trim", "can_zero", "can_fast_zero", "can_extents",
            "is_rotational", "can_multi_conn")
LEVELS = ("can_fua", "can_cache")

# What callbacks may answer: first what is meant to be, then what is not.
ANSWERS = {
    **{name: (["True", "False"], ["1", "0", "None", "'yes'", "[]", "raises", "not callable"])
       for name in BOOLEANS},
    **{name: (["0", "1", "2", "True", "False"],
              ["3", "None", "'1'", "1.0", "-1", "raises", "not callable"]) for name in LEVELS},
    "thread_model": (["0", "1", "2", "3", "True"], ["5", "None", "'x'", "1.0", "-1", "raises"]),
    "block_size": (["(0, 0, 0)", "(1, 512, 0xffffffff)", "(1, 4096, 65536)", "(512, 4096, 1 << 20)",
                    "(4096, 65536, 0xffffffff)"],
                   ["[1, 4096, 65536]", "None", "4096", "(1, 4096)", "(1, 4096.0, 65536)",
                    "(2 ** 33, 2 ** 33, 2 ** 33)", "(3, 512, 1024)", "(1, 100, 65536)",
                    "(4096, 512, 65536)", "(512, 4096, 5000)", "(1, 65536, 4096)", "(0, 4096, 65536)",
                    "(131072, 131072, 1 << 20)", "(1, 1 << 26, 0xffffffff)", "(1, 512, 1 << 27)",
                    "(-1, 512, 65536)", "raises", "not callable"]),
    "get_size": (["SIZE", "SIZE - 1000", "SIZE - 1"],
                 ["0", "1", "True", "Index()", "(1 << 63) - 1", "1 << 63", "-1", "-5", "1e6",
                  "None", "'1048576'", "raises"]),
    "open": (["None", "0", "'handle'", "[]"],
             ["raises", "chosen EPERM", "chosen ENOSPC", "surrogate", "exits", "interrupted",
              "unprintable", "oserror"]),
    "close": (["None"], ["raises", "chosen EIO", "exits", "not callable"]),
    "preconnect": (["None"], ["raises", "chosen EPERM", "exits", "not callable"]),
    "default_export": (["''", "'main'", "b'main'", "'m\\u00e4in'"],
                       ["None", "5", "'x' * 5000", "'x' * 4096", "'a\\0b'", "'\\udc80'", "b'\\xff'",
                        "bytearray(b'main')", "raises", "not callable"]),
    "list_exports": (["['a', 'b']", "[('a', 'text'), 'b']", "[b'a', ('b', b'text')]", "[]", "('a',)",
                      "return iter(['a', 'b'])", "yield 'a'; yield 'b', 'text'"],
                     ["'ab'", "None", "5", "[['a', 'text']]", "[('a',)]", "[('a', 'b', 'c')]",
                      "[('a', None)]", "[5]", "['x' * 4096]", "['x' * 4097]", "[('a', 'x' * 4097)]",
                      "['a', 'a']", "['']", "{'a': 1}", "['a\\0b']", "[b'\\xff']", "['\\udc80']",
                      "[str(n) for n in range(10000)]", "[str(n) for n in range(10001)]",
                      "yield 'a'; raise RuntimeError('midway')", "raises", "not callable"]),
    "export_description": (["'text'", "b'text'", "''", "'t\\u00e4xt'"],
                           ["None", "5", "'x' * 4096", "'x' * 4097", "'a\\0b'", "'\\udc80'", "b'\\xff'",
                            "raises", "not callable"]),
    "config": (["None"], ["raises", "5", "not callable"]),
    "config_complete": (["None"], ["raises", "5", "not callable"]),
    "get_ready": (["None"], ["raises", "5", "not callable"]),
    "after_fork": (["None"], ["raises", "5", "not callable"]),
    "cleanup": (["None"], ["raises", "5", "exits", "not callable"]),
    "API_VERSION": (["absent", "1", "2"], ["True", "0", "3", "'2'", "2.0", "None", "-1"]),
}

# In the order in which a script has them.
ORDER = ("API_VERSION", "config", "config_complete", "thread_model", "get_ready", "after_fork",
         "cleanup", "preconnect", "list_exports", "default_export", "open", "close", "get_size",
         "can_write", "can_zero", "can_fast_zero", "can_trim", "can_fua", "can_flush",
         "is_rotational", "can_multi_conn", "can_cache", "can_extents", "export_description",
         "block_size", *scripts.DATA)
REQUIRED = ("open", "get_size", "pread")

# What mostly keeps a server from serving stands in fewer plans.
FATAL = ("API_VERSION", "config", "config_complete", "get_ready", "after_fork", "thread_model",
         "get_size", "preconnect", "open")


def generate(seed, number):
    """The case of this number, the same for the same seed."""
    chance = random.Random(f"{seed}/{number}")
    version = chance.choice((1, 2, 2))
    plan = {}
    for name in ORDER:
        if name in scripts.DATA:
            plan[name] = _deed(chance, name, version)
        elif name != "API_VERSION":
            plan[name] = _answer(chance, name)
    if chance.random() < 0.03:
        plan = {"API_VERSION": chance.choice(ANSWERS["API_VERSION"][1])} | plan
    if chance.random() < 0.02:
        del plan[chance.choice(REQUIRED)]
    if chance.random() < 0.03:
        plan["top level"] = chance.choice(("raise RuntimeError('top')", "1 +", "sys.exit(3)",
                                           "import nosuchmodule"))
    given = chance.random() < 0.1
    clients = [_client(chance) for _ in range(chance.choice((1, 1, 1, 2)))]
    return Case(f"seed {seed}, number {number}", plan, version, tuple(clients),
                chance.random() < 0.1, ("key=value",) * given, fails_to_start(plan))


def fails_to_start(plan):
    """Whether `after_fork` ends the server when clients may have come already."""
    return plan.get("after_fork") == "raises"


def _answer(chance, name):
    meant, odd = ANSWERS[name]
    luck = chance.random()
    if luck < (0.01 if name in FATAL else 0.07):
        return chance.choice(odd)
    if luck < 0.5 or name in REQUIRED:
        return chance.choice(meant)
    # Without it there is nothing to see of handles.
    return "None" if name == "close" else "absent"


def _deed(chance, name, version):
    luck = chance.random()
    if luck < 0.25:
        word = chance.choice(scripts.deeds(name, version))
        return word + " above" if name != "flush" and chance.random() < 0.5 else word
    if luck < 0.75 or name == "pread":
        return "works"
    return chance.choice(("absent", "absent", "works", "not callable"))


def _client(chance):
    requests = [_request(chance) for _ in range(chance.randrange(12, 25))]
    often = 0.85
    return Client(
        export=chance.choice(("", "", "", "some", "\u00e4", "x" * 4096)),
        structured=chance.random() < often,
        allocation=chance.random() < often,
        block_size=chance.random() < often,
        full_info=chance.random() < 0.6,
        options=tuple(option for option in ("list", "info") if chance.random() < 0.25),
        requests=tuple(requests))


POSITIONS = ([("start", 0), ("start", 4096), ("middle", 0), ("middle", 4096), ("middle", -65536)] * 4
             + [("start", 1), ("middle", 513), ("end", -512), ("end", -1), ("end", 0), ("end", 1),
                ("start", 1 << 62)])
COUNTS = [512, 4096, 8192, 65536] * 3 + [1, 3, 513, 131072, 0, 1 << 20]

# What may go with each request, and what may not.
FLAGS = {
    "read": ((), (), ("DF",), ("FUA",)),
    "write": ((), ("FUA",), ("FUA",), ("NO_HOLE",)),
    "flush": ((), (), (), ("FUA",)),
    "trim": ((), ("FUA",), ("NO_HOLE",)),
    "zero": ((), ("NO_HOLE",), ("FUA",), ("FUA", "NO_HOLE"), ("FAST",), ("FAST", "NO_HOLE"),
             ("FAST", "FUA"), ("DF",)),
    "cache": ((), (), ("FUA",)),
    "status": ((), ("ONE",), ("FAST",)),
}


def _request(chance):
    kind = chance.choice(("read", "read", "read", "write", "write", "write", "zero", "zero", "zero",
                          "trim", "flush", "status", "status", "cache"))
    flags = chance.choice(FLAGS[kind])
    if kind == "flush":
        return Request(kind, flags=flags)
    anchor, delta = chance.choice(POSITIONS)
    return Request(kind, anchor, delta, chance.choice(COUNTS), flags)
