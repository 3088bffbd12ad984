//! What goes wrong in coroutines: exceptions of every kind, a loop that is stopped, broken or blocked,
//! the end. Every request is answered, and the process ends.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pydisk::disk::{Disk, Errno, Op, Request};
use pydisk::python::Plugin;
use support::script;

/// A disk whose reads do what `step` says by their number.
const BASE: &str = "
import asyncio, sys, threading, time
import nbdkit
API_VERSION = 2
def open(readonly): return 'H'
def get_size(h): return 1 << 20
async def pread(h, buf, offset, flags):
    await step(offset // 512)
    buf[:] = b'x' * len(buf)
";

fn load(text: &str) -> Arc<Plugin> {
    let (folder, path) = script(&format!("{BASE}{text}"));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    drop(folder);
    plugin
}

fn read(disk: &dyn Disk, number: u64) -> Result<(), (Errno, String)> {
    let mut page = [0; 512];
    disk.serve(Request::new(Op::Read(&mut page), number * 512))
        .map(|()| assert_eq!(page, [b'x'; 512]))
        .map_err(|error| (error.errno, error.to_string()))
}

#[track_caller]
fn fails(disk: &dyn Disk, number: u64, with: &str) -> String {
    let (errno, text) = read(disk, number).unwrap_err();
    assert_eq!(errno, Errno::IO, "{text}");
    assert!(text.contains(with), "{text}");
    text
}

#[test]
fn an_exception_is_told_with_the_plugins_frames_only() {
    let disk = load(
        "
async def step(number):
    await asyncio.sleep(0)
    raise OSError(28, 'full')
",
    )
    .open(false)
    .unwrap();
    let text = fails(&*disk, 1, "pread: OSError: [Errno 28] full\nTraceback");
    assert!(
        text.contains("in pread\n") && text.contains("in step\n"),
        "{text}"
    );
    assert!(!text.contains("loop.py"), "{text}");
}

#[test]
fn what_ends_other_programs_fails_one_request() {
    let disk = load(
        "
class Odd(BaseException): pass
async def step(number):
    await asyncio.sleep(0)
    if number == 1: raise KeyboardInterrupt
    if number == 2: sys.exit(3)
    if number == 3: raise asyncio.CancelledError
    if number == 4: asyncio.current_task().cancel(); await asyncio.sleep(60)
    if number == 5: raise GeneratorExit
    if number == 6: raise StopAsyncIteration
    if number == 7: raise Odd
    if number == 8: await 5
    if number == 9: await asyncio.get_running_loop().create_task(fails())
async def fails(): raise SystemExit(4)
",
    )
    .open(false)
    .unwrap();
    for (number, said) in [
        (1, "KeyboardInterrupt"),
        (2, "SystemExit: 3"),
        (3, "CancelledError"),
        (4, "CancelledError"),
        (5, "GeneratorExit"),
        (6, "StopAsyncIteration"),
        (7, "Odd"),
        (8, "TypeError"),
        (9, "SystemExit: 4"),
    ] {
        fails(&*disk, number, said);
        read(&*disk, 0).unwrap();
    }
}

#[test]
fn a_task_that_is_cancelled_by_others_is_answered() {
    let disk = load(
        "
async def step(number):
    if number == 1:
        for task in asyncio.all_tasks(): task.cancel()
    await asyncio.sleep(60 if number else 0)
",
    )
    .open(false)
    .unwrap();
    thread::scope(|scope| {
        let others: Vec<_> = (2..10)
            .map(|number| {
                scope.spawn({
                    let disk = &disk;
                    move || read(&**disk, number)
                })
            })
            .collect();
        fails(&*disk, 1, "CancelledError");
        // Those that came later are cancelled by this one.
        while !others.iter().all(thread::ScopedJoinHandle::is_finished) {
            fails(&*disk, 1, "CancelledError");
        }
    });
    read(&*disk, 0).unwrap();
}

#[test]
fn a_task_that_cannot_be_made_fails_one_request() {
    let disk = load(
        "
def broken(loop, work, **more):
    loop.set_task_factory(None)
    work.close()
    raise RuntimeError('no task today')
async def step(number):
    if number == 1: asyncio.get_running_loop().set_task_factory(broken)
",
    )
    .open(false)
    .unwrap();
    read(&*disk, 1).unwrap();
    fails(&*disk, 2, "RuntimeError: no task today");
    read(&*disk, 3).unwrap();
}

#[test]
fn a_child_that_is_forked_by_looking_a_callback_up_ends() {
    let disk = load(
        "
import os
child = None
real = pread
del pread
def __getattr__(name):
    global child
    if name != 'pread': raise AttributeError(name)
    if child is None and armed:
        child = os.fork()
        if child == 0: raise RuntimeError('in the child')
    return real
armed = False
async def step(number):
    global armed
    armed = True
    if number != 2: return
    for _ in range(3000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 1
            return
        await asyncio.sleep(0.01)
    raise RuntimeError('the child lives')
",
    )
    .open(false)
    .unwrap();
    read(&*disk, 1).unwrap();
    for _ in 0..20 {
        read(&*disk, 3).unwrap();
    }
    read(&*disk, 2).unwrap();
}

#[test]
fn a_loop_that_is_stopped_goes_on() {
    let disk = load(
        "
async def step(number):
    if number: asyncio.get_running_loop().stop()
    await asyncio.sleep(0.001)
",
    )
    .open(false)
    .unwrap();
    for _ in 0..10 {
        read(&*disk, 1).unwrap();
        read(&*disk, 0).unwrap();
    }
}

#[test]
fn a_loop_that_is_broken_fails_every_request() {
    let plugin = load(
        "
async def step(number):
    loop = asyncio.get_running_loop()
    if number == 1:
        loop._selector.close()
    await asyncio.sleep(3600)
async def cleanup(): pass
",
    );
    let disk = plugin.open(false).unwrap();
    thread::scope(|scope| {
        let pending: Vec<_> = (2..10)
            .map(|number| {
                scope.spawn({
                    let disk = &disk;
                    move || read(&**disk, number)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(100));
        fails(&*disk, 1, "the event loop of this plugin has ended");
        for pending in pending {
            let (errno, text) = pending.join().unwrap().unwrap_err();
            assert_eq!(errno, Errno::IO);
            assert!(
                text.contains("the event loop of this plugin has ended"),
                "{text}"
            );
        }
    });
    fails(&*disk, 0, "the event loop of this plugin has ended");
    drop(disk);
    plugin.cleanup();
}

#[test]
fn a_callback_that_blocks_the_loop_holds_others_up_and_no_more() {
    let disk = load(
        "
async def step(number):
    if number == 1: time.sleep(0.2)
    await asyncio.sleep(0)
",
    )
    .open(false)
    .unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let disk = &disk;
            scope.spawn(move || read(&**disk, number % 2).unwrap());
        }
    });
}

#[test]
fn the_end_waits_for_tasks_a_moment_and_for_what_blocks_not_for_ever() {
    let plugin = load(
        "
async def step(number): pass
async def stubborn():
    while True:
        try: await asyncio.sleep(3600)
        except asyncio.CancelledError: pass
async def after_fork():
    asyncio.create_task(stubborn())
    asyncio.create_task(asyncio.sleep(3600))
async def cleanup():
    asyncio.get_running_loop().call_later(0.01, time.sleep, 3600)
    await asyncio.sleep(0)
",
    );
    plugin.after_fork().unwrap();
    let disk = plugin.open(false).unwrap();
    read(&*disk, 0).unwrap();
    drop(disk);
    let begun = Instant::now();
    plugin.cleanup();
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn nothing_is_awaited_after_the_end() {
    let plugin = load("async def step(number): pass");
    let disk = plugin.open(false).unwrap();
    read(&*disk, 0).unwrap();
    plugin.cleanup();
    fails(&*disk, 0, "the event loop of this plugin has ended");
}
