//! What `open` and the capabilities do to a client.

use super::{Row, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "open raises",
        "def open(readonly): raise ValueError('no\\x1b[2J\\0\\udc80')",
        ["[]", "refused", "open: ValueError: no\\u{1b}[2J\\u{0}"],
    ),
    served(
        "sizes that are none",
        r"
sizes = iter([None, 'x', -1, 2**63, 2**70, 1.5, [], object()])
def get_size(h): return next(sizes)",
        [
            "[again() for _ in range(8)]",
            "refused refused refused refused refused refused refused refused refused",
            "get_size: returned `None`\nget_size: returned `-1`\nget_size: StopIteration",
        ],
    ),
    served(
        "capabilities of odd types",
        r"
def can_flush(h): return 'yes'
def can_trim(h): return 1
def can_zero(h): return [True]
def is_rotational(h): return object()
def can_multi_conn(h): return 2**70",
        [
            "[h.can_flush(), h.can_trim(), r()]",
            "open False False done",
            "can_flush: returned `'yes'`",
        ],
    ),
    served(
        "levels of odd types",
        r"
answers = iter([None, 'x', 2**70, -1, 1.0, []])
def can_fua(h): return next(answers)",
        [
            "[again() for _ in range(5)]",
            "refused refused refused refused refused refused",
            "can_fua: returned `None`\ncan_fua: returned `-1`",
        ],
    ),
    served(
        "block sizes of odd types",
        r"
answers = iter([None, 'xyz', (2**70, 1, 1), (1, 2), (-1, 512, 512), (1.0, 512, 512)])
def block_size(h): return next(answers)",
        [
            "[again() for _ in range(5)]",
            "refused refused refused refused refused refused",
            "block_size: returned `None`\nblock_size: returned `(-1, 512, 512)`",
        ],
    ),
    served(
        "exports of odd types",
        r"
answers = iter([5, [5], [('a',)], [('a', 5)], ['\udc80'], ['a\0b'], ['x' * 5000], None])
def list_exports(readonly, is_tls): return next(answers)",
        [
            "[names() for _ in range(8)]",
            "open refused refused refused refused refused refused refused refused",
            "list_exports: TypeError\nlist_exports: gave `5`\nlist_exports: gave a tuple of 1",
        ],
    ),
    served(
        "exports without end",
        r"
def list_exports(readonly, is_tls):
    while True: yield 'x'",
        [
            "[names(), r()]",
            "open refused done",
            "list_exports: more than 10000 exports",
        ],
    ),
    served(
        "exports that fail midway",
        r"
def list_exports(readonly, is_tls):
    yield 'a'
    nbdkit.set_error(13)
    raise GeneratorExit",
        [
            "[names(), r()]",
            "open refused done",
            "list_exports: GeneratorExit",
        ],
    ),
    served(
        "text that is a str by descent",
        r"
class Text(str):
    def __str__(self): raise ValueError
    __repr__ = __len__ = __iter__ = __eq__ = __str__
    __hash__ = str.__hash__
def list_exports(readonly, is_tls): return [Text('one'), (Text('two'), Text('x'))]",
        ["[names(), r()]", "open one,two done", ""],
    ),
    served(
        "a handle that raises at every touch",
        r"
class Handle:
    def touched(self, *a): raise RuntimeError('touched')
    __eq__ = __bool__ = __len__ = __repr__ = __str__ = __hash__ = __getattr__ = __del__ = touched
def open(readonly): return Handle()",
        [
            "everything()",
            "open done done done done done done done",
            "",
        ],
    ),
];
