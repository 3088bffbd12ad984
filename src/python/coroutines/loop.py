"""The event loop that a plugin's coroutines run on, in a thread of its own.

pydisk runs this when a callback first gives it something to await, in a
namespace of its own. The other side, in Rust, is the inbox: it hands over
what to await and is told how that ended.
"""

import asyncio
import contextvars
import sys

# What the functions of `nbdkit` ask for: which request, of which client.
CALLING = contextvars.ContextVar("nbdkit.calling")

# Seconds that cancelled tasks have at the end. What does not end is left.
PATIENCE = 2


async def serve(ticket, calling, awaitable):
    """One callback, from its start to its end, in a task of its own."""
    CALLING.set(calling)
    try:
        ticket.returned(await awaitable)
    except BaseException as error:
        # Also CancelledError, SystemExit: it is this request that failed.
        # The first frame is the one above, which says nothing to anybody.
        ticket.raised(error.with_traceback(error.__traceback__.tb_next))
    # Nothing here holds the request's buffer any more when it is answered.
    awaitable = None
    ticket.done()


def new_loop(inbox):
    """The loop: what the plugin's own policy makes, if it has one."""
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)

    def take():
        for ticket, calling, awaitable in inbox.take():
            try:
                task = loop.create_task(serve(ticket, calling, awaitable))
            except BaseException as error:
                # Of a task factory of the plugin's.
                ticket.raised(error)
                ticket.done()
                continue
            # The loop itself holds its tasks weakly only.
            ticket.runs(task)
        if inbox.is_ending():
            loop.stop()

    loop.add_reader(inbox.fileno(), take)
    return loop


def run(loop, inbox):
    """Run the loop until the inbox ends, whatever the plugin does to it."""
    asyncio.set_event_loop(loop)
    while not inbox.is_ending():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:
            inbox.complain(f"a task raised {type(error).__name__}: "
                           "the event loop goes on")
        else:
            if not inbox.is_ending():
                inbox.complain("the plugin stopped the event loop: "
                               "it goes on")
    end(loop)


def end(loop):
    """Cancel what still runs, and wait for it for a moment."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
        loop.run_until_complete(
            asyncio.wait_for(loop.shutdown_asyncgens(), PATIENCE))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        sys.stderr.write(f"event loop: {type(error).__name__}: {error}\n")
    loop.close()
