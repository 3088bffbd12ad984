//! What callbacks do to the process.

use super::{End, Row, ends, served};

pub(super) const ROWS: &[Row] = &[
    served(
        "no standard streams",
        r"
def flush(h, flags):
    for number in range(3): os.close(number)
def pread(h, buf, offset, flags): print('x', flush=True)",
        [
            "[f(), r(), w(), again(), r()]",
            "open done EIO done open EIO",
            "",
        ],
    ),
    served(
        "signal handlers and alarms",
        r"
import signal
for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1): signal.signal(each, lambda *words: 1 / 0)
def pread(h, buf, offset, flags):
    for each in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1): os.kill(os.getpid(), each)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    time.sleep(0.01)
def pwrite(h, buf, offset, flags): signal.signal(signal.SIGTERM, signal.SIG_DFL)",
        [
            "[r(), w(), r(), f()]",
            "open done EIO done done",
            "pwrite: ValueError: signal only works in main thread",
        ],
    ),
    served(
        "twenty signals at once",
        r"
import signal
twenty = range(signal.SIGRTMIN, signal.SIGRTMIN + 20)
for each in twenty: signal.signal(each, lambda *words: None)
def pread(h, buf, offset, flags):
    signal.pthread_sigmask(signal.SIG_BLOCK, twenty)
    for each in twenty: signal.pthread_kill(threading.get_ident(), each)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, twenty)",
        ["[r(), w(), r()]", "open done done done", ""],
    ),
    served(
        "faulthandler",
        r"
import faulthandler
faulthandler.enable()
def pread(h, buf, offset, flags):
    faulthandler.dump_traceback()
    faulthandler.dump_traceback_later(0.01)
    time.sleep(0.1)
    faulthandler.cancel_dump_traceback_later()",
        ["[r(), w()]", "open done done", "in pread\nTimeout"],
    ),
    served(
        "threads that never end",
        r"
def forever():
    while True: time.sleep(0.01)
def pread(h, buf, offset, flags):
    threading.Thread(target=forever).start()
    threading.Thread(target=forever, daemon=True).start()
def pwrite(h, buf, offset, flags): threading.Thread(target=sys.exit).start()",
        [
            "[r(), r(), w(), w(), f()]",
            "open done done done done done",
            "",
        ],
    ),
    served(
        "threads that compute for ever",
        r"
def forever():
    while True: pass
def flush(h, flags): threading.Thread(target=forever).start()",
        ["[f(), r(), w()]", "open done done done", ""],
    ),
    served(
        "a fork whose child comes back",
        r"
def pread(h, buf, offset, flags):
    buf[:] = b'%016d' % os.getpid() * (len(buf) // 16)
    child = os.fork()
    if child: os.waitpid(child, 0)
def pwrite(h, buf, offset, flags):
    if not os.fork(): raise ValueError('in the child')
    os.wait()",
        [
            "[len({bytes(h.pread(16, 0)) for _ in range(5)}), w(), w(), r(), again(), r()]",
            "open 1 done done done open done",
            "a process that the plugin forked came back from a callback",
        ],
    ),
    served(
        "a fork at import",
        r"
parent = os.getpid()
os.fork()
def pread(h, buf, offset, flags): assert os.getpid() == parent",
        ["[r(), again(), r()]", "open done open done", ""],
    ),
    served(
        "an exception from elsewhere",
        r"
import ctypes
def pread(h, buf, offset, flags):
    thread = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))
def pwrite(h, buf, offset, flags):
    kind, word = SystemExit, ctypes.c_ulong(threading.get_ident())
    threading.Timer(0.05, ctypes.pythonapi.PyThreadState_SetAsyncExc, [word, ctypes.py_object(kind)]).start()
    while True: pass",
        [
            "[r(), w(), f(), r(), again()]",
            "open EIO EIO done EIO open",
            "pwrite: SystemExit",
        ],
    ),
    served(
        "a fork in a generator",
        r"
def list_exports(readonly, is_tls):
    yield 'one'
    os.fork()
    yield str(os.getpid())
def extents(h, count, offset, flags):
    yield offset, 100, 0
    os.fork()
    yield offset + 100, count, 0",
        [
            "[len({names() for _ in range(6)}), x(), x(), x(), r()]",
            "open 1 done done done done",
            "came back from a callback",
        ],
    ),
    served(
        "a fork in a coroutine whose child comes back",
        r"
async def pread(h, buf, offset, flags):
    buf[:] = b'%016d' % os.getpid() * (len(buf) // 16)
    child = os.fork()
    if child: os.waitpid(child, 0)",
        [
            "[len({bytes(h.pread(16, 0)) for _ in range(5)}), w(), again(), r()]",
            "open 1 done open done",
            "a process that the plugin forked came back from a callback",
        ],
    ),
    served(
        "a fork whose child comes back with a coroutine",
        r"
children = []
async def filled(buf): buf[:] = b'%016d' % os.getpid() * (len(buf) // 16)
def pread(h, buf, offset, flags):
    child = os.fork()
    children.append(child)
    return filled(buf)
def flush(h, flags):
    for child in children: assert os.waitpid(child, 0)[1]",
        [
            "[len({bytes(h.pread(16, 0)) for _ in range(5)}), f(), again(), r()]",
            "open 1 done open done",
            "a process that the plugin forked came back from a callback",
        ],
    ),
    served(
        "a fork whose child lives on",
        r"
def pread(h, buf, offset, flags):
    if not os.fork():
        os.closerange(0, 3)
        time.sleep(2)
        os._exit(0)",
        ["[r(), r(), w()]", "open done done done", ""],
    ),
    served(
        "processes of the standard library",
        r"
import multiprocessing, subprocess
def pread(h, buf, offset, flags): subprocess.run(['true'], check=True)
def pwrite(h, buf, offset, flags):
    process = multiprocessing.get_context('fork').Process(target=int)
    process.start()
    process.join()
    assert process.exitcode == 0",
        ["[r(), w(), r()]", "open done done done", ""],
    ),
    // Nobody can ask it who is connected.
    ends(
        End::Forced,
        served(
            "another folder, other limits",
            r"
import resource, tempfile
def pread(h, buf, offset, flags):
    with tempfile.TemporaryDirectory() as folder: os.chdir(folder)
def pwrite(h, buf, offset, flags):
    os.umask(0o777)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
    time.tzset()
    os.environ.clear()",
            [
                "[r(), w(), r(), w()]",
                "open done done EIO done",
                "Too many open files",
            ],
        ),
    ),
];
