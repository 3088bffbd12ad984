//! What callbacks do to Python.

use super::{Row, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "callbacks deleted at run time",
        r"
def flush(h, flags):
    for name in 'pread pwrite zero trim cache extents'.split(): del globals()[name]",
        [
            "[f()] + everything() + [again(), r()]",
            "open done EIO EIO EIO EIO EIO EIO done open EIO",
            "pread not implemented",
        ],
    ),
    served(
        "everything deleted at run time",
        "def flush(h, flags): globals().clear()",
        [
            "[f(), r(), f(), again()]",
            "open done EIO EIO refused",
            "open: is gone",
        ],
    ),
    served(
        "a module that raises for what it lacks",
        r"
def __getattr__(name): raise RuntimeError('no ' + name)
def flush(h, flags): globals().pop('pread', None)",
        [
            "[r(), f(), r(), again()]",
            "open done done EIO open",
            "pread: RuntimeError: no pread",
        ],
    ),
    served(
        "a module of another class",
        r"
import types
class Module(types.ModuleType):
    @property
    def pread(self): return self.read
    @property
    def zero(self): raise ValueError('no zero')
def read(h, buf, offset, flags): buf[:] = b'r' * len(buf)
def flush(h, flags):
    del globals()['pread'], globals()['zero']
    sys.modules['__main__'].__class__ = Module",
        [
            "[f(), r(), h.pread(4, 0)]",
            "open done done bytearray(b'rrrr')",
            "",
        ],
    ),
    served(
        "callbacks that are objects",
        r"
import functools
class Callback:
    def __call__(self, h, buf, offset, flags): buf[:] = b'c' * len(buf)
    def __getattr__(self, name): raise AttributeError(name)
    def __bool__(self): raise ValueError
pread = Callback()
pwrite = functools.partial(lambda tag, h, buf, offset, flags: None, 'tag')
zero = functools.partialmethod
zero = (lambda *words: None)
trim = staticmethod(lambda *words: None)
def get_size(h): return 1 << 20",
        [
            "[r(), w(), z(), t(), f()]",
            "open done done done done done",
            "",
        ],
    ),
    served(
        "streams that raise",
        r"
class Stream:
    def __getattr__(self, name): raise OSError('no stream')
def flush(h, flags): sys.stdout = sys.stderr = sys.stdin = Stream()
def pread(h, buf, offset, flags): print('x')",
        [
            "[f(), r(), w()]",
            "open done EIO done",
            "pread: OSError: no stream",
        ],
    ),
    served(
        "streams that are gone",
        r"
def flush(h, flags):
    sys.stdout.close()
    sys.stderr = None
    del sys.stdin, sys.__stdout__
def pread(h, buf, offset, flags): print('x')",
        [
            "[f(), r(), w()]",
            "open done EIO done",
            "pread: ValueError: I/O operation on closed file",
        ],
    ),
    served(
        "no modules",
        r"
def flush(h, flags): sys.modules.clear()
def pread(h, buf, offset, flags): raise ValueError('x')",
        [
            "[f(), r(), w(), again(), r()]",
            "open done EIO done open EIO",
            "pread: ValueError: x",
        ],
    ),
    served(
        "no builtins",
        r"
def flush(h, flags):
    for name in list(vars(builtins)):
        if name not in ('vars', 'list'): vars(builtins)[name] = None
def pread(h, buf, offset, flags): raise ValueError('x')",
        [
            "[f(), r(), w(), again()]",
            "open done EIO EIO refused",
            "pread: ",
        ],
    ),
    served(
        "modules that are not what they were",
        r"
def broken(*words, **options): raise SystemExit('broken')
def flush(h, flags):
    for module in (traceback, io, json, os, time, threading, sys.modules['linecache']):
        for name in list(vars(module)):
            if callable(vars(module)[name]): vars(module)[name] = broken
def pread(h, buf, offset, flags): raise ValueError('x')",
        [
            "[f(), r(), w(), again(), r()]",
            "open done EIO done open EIO",
            "pread: ValueError: x",
        ],
    ),
    served(
        "traceback that gives no text",
        r"
answers = iter([5, [5], None, ['\udc80'], 'text', [b'x']])
def pread(h, buf, offset, flags):
    traceback.format_exception = lambda *words: next(answers)
    raise ValueError('x')",
        [
            "[r() for _ in range(8)]",
            "open EIO EIO EIO EIO EIO EIO EIO EIO",
            "pread: ValueError: x",
        ],
    ),
    served(
        "hooks that raise",
        r"
def hook(*words): raise SystemExit('hook')
def pread(h, buf, offset, flags):
    sys.excepthook = sys.unraisablehook = threading.excepthook = sys.displayhook = hook
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise ValueError('x')",
        [
            "[r(), r(), w()]",
            "open EIO EIO done",
            "pread: ValueError: x",
        ],
    ),
    served(
        "tracers that raise",
        r"
def tracer(*words): raise SystemExit('traced')
def pread(h, buf, offset, flags):
    (sys.setprofile if offset else sys.settrace)(tracer)
def flush(h, flags):
    sys.setprofile(None)
    sys.settrace(None)",
        [
            "[len([r(), r(), w(), r(512), w(), w(), w()])]",
            "open 7",
            "",
        ],
    ),
    served(
        "warnings that are errors",
        r"
warnings.simplefilter('error')
class Odd:
    def __del__(self): warnings.warn('x')
def pread(h, buf, offset, flags):
    Odd()
    warnings.warn('y')",
        ["[r(), w()]", "open EIO done", "pread: UserWarning: y"],
    ),
    served(
        "a garbage collector that is off, or always on",
        r"
def pread(h, buf, offset, flags): gc.disable()
def pwrite(h, buf, offset, flags): gc.set_threshold(1)
def flush(h, flags):
    gc.callbacks.append(lambda *words: 1 / 0)
    gc.enable()
    gc.collect()",
        [
            "[r(), w(), f()] + everything()",
            "open done done done done done done done done done done",
            "ZeroDivisionError",
        ],
    ),
    served(
        "objects that raise when they go",
        r"
class Odd:
    def __del__(self): raise SystemExit('gone')
def pread(h, buf, offset, flags): return Odd()
def open(readonly): return Odd()
def pwrite(h, buf, offset, flags):
    odd = Odd()
    raise ValueError(odd)",
        [
            "[r(), w(), again(), r()]",
            "open done EIO open done",
            "SystemExit: gone",
        ],
    ),
];
