//! Scripts that fail while they run, or before anything is attached.

use super::{Row, refused};

pub(super) const ROWS: &[Row] = &[
    refused(
        "import of what is not there",
        "import no_such_module_at_all",
        "error running this script: ModuleNotFoundError: No module named 'no_such_module_at_all'",
    ),
    refused(
        "no Python at all",
        "def (",
        "error running this script: SyntaxError",
    ),
    refused(
        "a zero byte in the text",
        "x = '\0'",
        "error running this script: SyntaxError",
    ),
    refused(
        "endless recursion at import",
        r"
def f(): f()
f()",
        "error running this script: RecursionError",
    ),
    refused(
        "sys.exit at import",
        "sys.exit(3)",
        "the script ended itself: SystemExit: 3",
    ),
    refused("os._exit at import", "os._exit(3)", "exited with status 3"),
    refused("os.abort at import", "os.abort()", "SIGABRT"),
    refused(
        "KeyboardInterrupt at import",
        "raise KeyboardInterrupt",
        "KeyboardInterrupt",
    ),
    refused(
        "an exception that is no Exception at import",
        r"
class Odd(BaseException): pass
raise Odd('x')",
        "error running this script: Odd: x",
    ),
    refused(
        "an exception that cannot be made",
        r"
class Odd(Exception):
    def __init__(self): raise ValueError('not even this')
raise Odd",
        "error running this script: ValueError: not even this",
    ),
    refused(
        "an exception without Unicode",
        "raise ValueError('a\\udc80b')",
        "error running this script: ValueError: a",
    ),
    refused(
        "an exception that cannot be shown",
        r"
class Odd(Exception):
    def __str__(self): raise SystemExit
raise Odd",
        "error running this script: Odd: <exception str() failed>",
    ),
    refused(
        "endless recursion of the interpreter's own",
        r"
sys.setrecursionlimit(50)
x = []
for i in range(10000): x = [x]
repr(x)",
        "RecursionError",
    ),
    refused(
        "API_VERSION beyond 64 bits",
        "API_VERSION = 2**70",
        "API_VERSION is `118",
    ),
    refused(
        "callbacks deleted at import",
        "del pread",
        "`pread` is missing",
    ),
    refused(
        "a wrong arity",
        "def pread(h): pass",
        "pread: API version 2 calls it as",
    ),
    refused(
        "callbacks that are numbers",
        "open = 1",
        "`open` is missing",
    ),
    refused(
        "config_complete recurses",
        "def config_complete(): config_complete()",
        "config_complete: RecursionError",
    ),
    refused(
        "get_ready exits",
        "def get_ready(): sys.exit('enough')",
        "get_ready: SystemExit: enough",
    ),
    refused(
        "after_fork kills",
        r"
import signal
def after_fork(): os.kill(os.getpid(), signal.SIGKILL)",
        "SIGKILL",
    ),
    refused(
        "a thread model beyond 64 bits",
        "def thread_model(): return 2**70",
        "thread_model: returned `118",
    ),
    refused(
        "a thread model that is text",
        "def thread_model(): return 'x'",
        "thread_model: returned `'x'`",
    ),
];
