"""The end of a plugin in Python: its exit functions, and then its processes.

pydisk runs this after `cleanup`, in a namespace of its own. Python's own exit
waits for each process of `multiprocessing` that is no daemon, for as long as
that runs: a disk could not be detached. Here nothing is waited for that is
not told to end. Some names begin with `_`, for want of others. If one is
missing from a later Python, what follows is left out, and the log says so.
"""

import atexit
import gc
import sys
import threading
import time

# Seconds for each of five steps, so that a forced end does not cut them off.
PATIENCE = 1


def run():
    """Run the exit functions; name and number of each process that goes on."""
    util = sys.modules.get("multiprocessing.util")
    if util is None:
        atexit._run_exitfuncs()
        return []
    atexit.unregister(util._exit_function)
    try:
        atexit._run_exitfuncs()
    finally:
        left = end_processes(util)
    return left


def end_processes(util):
    """End what only works for this process, and tell what does not."""
    workers = executors_workers()
    # Pools and managers.
    for_a_while(util._run_finalizers, 0)
    children = sys.modules["multiprocessing.process"].active_children()
    theirs = [child for child in children if child.daemon or child in workers]
    for child in theirs:
        child.terminate()
    join(theirs)
    for child in theirs:
        if child.is_alive():
            child.kill()
    join(theirs)
    # Queues: what was put there is sent.
    for_a_while(util._run_finalizers)
    return [
        (child.name, child.pid)
        for child in children
        if child not in theirs and child.is_alive()
    ]


def join(children):
    until = time.monotonic() + PATIENCE
    for child in children:
        child.join(max(0, until - time.monotonic()))


def forgotten():
    """(name, exception) of each task that failed and that nobody asked.

    asyncio tells of those that are dropped. What the plugin still holds is
    never dropped: the interpreter is not finalised.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    found = []
    for each in gc.get_objects():
        # Not isinstance(), which asks objects for what they pretend to be.
        if not issubclass(type(each), asyncio.Future):
            continue
        if each.done() and not each.cancelled() and each._log_traceback:
            each._log_traceback = False
            found.append((name_of(each), each._exception))
    return found


def name_of(future):
    """What tells a task from others: its name, and its coroutine's."""
    if not hasattr(future, "get_coro"):
        return "a future"
    coroutine = future.get_coro()
    return (f"task `{future.get_name()}` "
            f"({getattr(coroutine, '__qualname__', 'coroutine')})")


def executors_workers():
    """Shut each `ProcessPoolExecutor` down. Its workers are no daemons."""
    futures = sys.modules.get("concurrent.futures.process")
    if futures is None:
        return []
    workers = [
        worker
        for manager in list(futures._threads_wakeups)
        for worker in list((manager.processes or {}).values())
    ]
    for_a_while(futures._python_exit)
    return workers


def for_a_while(work, *args):
    """Run `work`, and leave it behind if it takes too long."""
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    thread.join(PATIENCE)
