//! How a script ends.

use super::{End, Row, ends, served};

pub(super) const ROWS: &[Row] = &[
    ends(
        End::Detached,
        served(
            "atexit that raises",
            r"
import atexit
atexit.register(lambda: 1 / 0)
atexit.register(sys.exit, 5)",
            ["[r()]", "open done", ""],
        ),
    ),
    served(
        "close raises",
        "def close(h): raise SystemExit('closed')",
        [
            "[r(), again(), r()]",
            "open done open done",
            "close: SystemExit: closed",
        ],
    ),
    served(
        "cleanup raises",
        "def cleanup(): raise KeyboardInterrupt('cleaned')",
        ["[r()]", "open done", ""],
    ),
    ends(
        End::Complains,
        served(
            "cleanup gives itself up",
            "def cleanup(): os._exit(9)",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "cleanup hangs",
            "def cleanup(): time.sleep(3600)",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "cleanup computes for ever",
            r"
def cleanup():
    while True: pass",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "close hangs",
            "def close(h): time.sleep(3600)",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "atexit hangs",
            r"
import atexit
atexit.register(time.sleep, 3600)",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "pread hangs",
            "def pread(h, buf, offset, flags): time.sleep(3600)",
            ["[begin()]", "open begun", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "pread waits for itself",
            r"
lock = threading.Lock()
def pread(h, buf, offset, flags):
    lock.acquire()
    lock.acquire()",
            ["[begin()]", "open begun", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "pread computes for ever",
            r"
def pread(h, buf, offset, flags):
    while True: pass",
            ["[begin()]", "open begun", ""],
        ),
    ),
    ends(
        End::Forced,
        served(
            "pread holds the interpreter for ever",
            r"
import ctypes
def pread(h, buf, offset, flags): ctypes.PyDLL(None).sleep(3600)",
            ["[begin()]", "open begun", ""],
        ),
    ),
    ends(
        End::Gone,
        served(
            "every descriptor is closed",
            "def pread(h, buf, offset, flags): os.closerange(3, 1000)",
            ["[r()]", "open ENOTCONN", ""],
        ),
    ),
    ends(
        End::Gone,
        served(
            "SIGTERM, which means detach",
            "import signal\ndef pread(h, buf, offset, flags): os.kill(os.getpid(), signal.SIGTERM)",
            ["[r()]", "open done", ""],
        ),
    ),
    ends(
        End::Gone,
        served(
            "os._exit",
            "def pread(h, buf, offset, flags): os._exit(3)",
            ["[r()]", "open ENOTCONN", "exited with status 3"],
        ),
    ),
    ends(
        End::Gone,
        served(
            "os.abort",
            "def pread(h, buf, offset, flags): os.abort()",
            ["[r()]", "open ENOTCONN", "SIGABRT"],
        ),
    ),
    ends(
        End::Gone,
        served(
            "a crash in C",
            r"
import ctypes
def pread(h, buf, offset, flags): ctypes.string_at(0)",
            ["[r()]", "open ENOTCONN", "SIGSEGV"],
        ),
    ),
    ends(
        End::Gone,
        served(
            "an alarm without a handler",
            r"
import signal
def pread(h, buf, offset, flags):
    signal.alarm(1)
    time.sleep(5)",
            ["[r()]", "open ENOTCONN", "SIGALRM"],
        ),
    ),
    ends(
        End::Gone,
        served(
            "faulthandler that exits",
            r"
import faulthandler
def pread(h, buf, offset, flags):
    faulthandler.dump_traceback_later(0.05, exit=True)
    time.sleep(5)",
            ["[r()]", "open ENOTCONN", "exited with status 1"],
        ),
    ),
];
