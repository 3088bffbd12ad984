//! What callbacks raise.

use super::{Row, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "endless recursion",
        "def pread(h, buf, offset, flags): return pread(h, buf, offset, flags)",
        [
            "[r(), r(), w()]",
            "open EIO EIO done",
            "pread: RecursionError\nPrevious line repeated",
        ],
    ),
    served(
        "endless recursion through sorting",
        r"
class Odd:
    def __lt__(self, other): return sorted([Odd(), Odd()])
def pread(h, buf, offset, flags): sorted([Odd(), Odd()])",
        [
            "[r(), w(), f()]",
            "open EIO done done",
            "pread: RecursionError",
        ],
    ),
    served(
        "endless recursion through the interpreter",
        r"
class Odd:
    def __repr__(self): return repr([self, {1: self}])
    def __call__(self): return sorted([1, 2], key=lambda _: self())
def pread(h, buf, offset, flags): repr(Odd())
def pwrite(h, buf, offset, flags): Odd()()",
        [
            "[r(), w(), f()]",
            "open EIO EIO done",
            "pread: RecursionError\npwrite: RecursionError",
        ],
    ),
    served(
        "deep recursion that is allowed",
        r"
class Odd:
    def __init__(self, depth): self.depth = depth
    def __lt__(self, other):
        if self.depth: sorted([Odd(0), Odd(self.depth - 1)])
        return False
def deep(depth): return depth and 1 + deep(depth - 1)
def pread(h, buf, offset, flags):
    sys.setrecursionlimit(20000)
    assert deep(15000) == 15000
def pwrite(h, buf, offset, flags): sorted([Odd(0), Odd(1200)])",
        ["[r(), w(), f()]", "open done done done", ""],
    ),
    served(
        "a recursion limit that leaves no room",
        r"
def pread(h, buf, offset, flags):
    sys.setrecursionlimit(30)
    return deep(100)
def deep(depth): return depth and deep(depth - 1)
def flush(h, flags): sys.setrecursionlimit(1000)",
        ["[r(), f(), w()]", "open EIO done done", "pread: "],
    ),
    served(
        "exceptions that are no Exception",
        r"
class Odd(BaseException): pass
kinds = iter([SystemExit(0), SystemExit('x'), KeyboardInterrupt(), GeneratorExit(), StopIteration(5),
    StopAsyncIteration(), Odd('x'), ExceptionGroup('g', [ValueError(1), OSError(28, 'x')]),
    BaseExceptionGroup('g', [KeyboardInterrupt()]), MemoryError(), NotImplementedError, RecursionError()])
def pread(h, buf, offset, flags): raise next(kinds)",
        [
            "[r() for _ in range(14)]",
            "open EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO",
            "pread: SystemExit: 0\npread: KeyboardInterrupt\npread: ExceptionGroup: g (2 sub-exceptions)\n\
             pread: Odd: x",
        ],
    ),
    served(
        "exit, quit and sys.exit",
        r"
def pread(h, buf, offset, flags): exit()
def pwrite(h, buf, offset, flags): quit(7)
def zero(h, count, offset, flags): sys.exit(0)
def flush(h, flags): raise SystemExit",
        [
            "[r(), w(), z(), f(), t()]",
            "open EIO EIO EIO EIO done",
            "flush: SystemExit",
        ],
    ),
    served(
        "exceptions with odd text",
        r"
class Odd(Exception):
    def __str__(self): raise ValueError('no text')
class Number(Exception):
    def __str__(self): return 5
class Recursive(Exception):
    def __str__(self): return str(self)
texts = iter([Odd(), Number(), Recursive(), ValueError('a\udc80b'), ValueError('a\0b'), ValueError(),
    ValueError(''), ValueError('\n\n'), ValueError('\x1b[31mred\r'), ValueError('x' * (64 << 20))])
def pread(h, buf, offset, flags): raise next(texts)",
        [
            "[r() for _ in range(10)]",
            "open EIO EIO EIO EIO EIO EIO EIO EIO EIO EIO",
            "pread: Odd: <exception str() failed>\npread: Number: <exception str() failed>\n\
             pread: ValueError: a\\u{0}b\npread: ValueError: \\u{1b}[31mred\\r\nbytes left out",
        ],
    ),
    served(
        "an exception that cannot be made in a callback",
        r"
class Odd(Exception):
    def __init__(self, *words): raise KeyboardInterrupt('made')
class New(Exception):
    def __new__(cls): return 5
def pread(h, buf, offset, flags): raise Odd
def pwrite(h, buf, offset, flags): raise New
def flush(h, flags): raise None",
        [
            "[r(), w(), f(), z()]",
            "open EIO EIO EIO done",
            "pread: KeyboardInterrupt: made\npwrite: TypeError\nflush: TypeError",
        ],
    ),
    served(
        "exceptions in a circle",
        r"
def pread(h, buf, offset, flags):
    a, b = ValueError('a'), ValueError('b')
    a.__context__, b.__context__ = b, a
    raise a
def pwrite(h, buf, offset, flags):
    a = ValueError('a')
    a.__cause__ = a
    raise a from a
def flush(h, flags):
    g = ExceptionGroup('g', [ValueError('x')])
    g.exceptions[0].__context__ = g
    raise g",
        [
            "[r(), w(), f(), z()]",
            "open EIO EIO EIO done",
            "pread: ValueError: a\npwrite: ValueError: a",
        ],
    ),
    served(
        "exceptions in a very long chain",
        r"
def pread(h, buf, offset, flags):
    last = None
    for n in range(20000):
        error = ValueError(n)
        error.__context__, last = last, error
    raise last",
        [
            "[r(), w()]",
            "open EIO done",
            "pread: ValueError: 19999\nbytes left out",
        ],
    ),
    served(
        "a group of groups of groups",
        r"
def pread(h, buf, offset, flags):
    group = ValueError('innermost')
    for n in range(5000): group = ExceptionGroup('g', [group])
    raise group",
        [
            "[r(), w()]",
            "open EIO done",
            "pread: ExceptionGroup: g (1 sub-exception)",
        ],
    ),
    served(
        "a traceback that keeps everything",
        r"
kept = []
def pread(h, buf, offset, flags):
    try: 1 / 0
    except ZeroDivisionError as error:
        kept.append((error, error.__traceback__, sys._getframe(), buf))
        raise",
        [
            "[r(), r(), w()]",
            "open EIO EIO done",
            "pread: ZeroDivisionError",
        ],
    ),
    served(
        "set_error with odd arguments",
        r"
calls = iter([lambda: nbdkit.set_error('EIO'), lambda: nbdkit.set_error(2**70), lambda: nbdkit.set_error(),
    lambda: nbdkit.set_error(1.5), lambda: nbdkit.set_error(-1) or 1 / 0, lambda: nbdkit.set_error(512) or 1 / 0,
    lambda: nbdkit.set_error(errno=28), lambda: nbdkit.set_error(True) or 1 / 0])
def pread(h, buf, offset, flags): next(calls)()",
        [
            "[r() for _ in range(8)]",
            "open EIO EIO EIO EIO EINVAL EINVAL EIO EPERM",
            "pread: TypeError\npread: OverflowError",
        ],
    ),
    served(
        "set_error in another thread",
        r"
def pread(h, buf, offset, flags):
    thread = threading.Thread(target=nbdkit.set_error, args=[28])
    thread.start()
    thread.join()
    if offset: raise ValueError",
        [
            "[r(), r(512), r()]",
            "open done EIO done",
            "pread: ValueError",
        ],
    ),
];
