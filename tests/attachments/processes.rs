//! Plugins that have worker processes of their own, by `multiprocessing`.

use std::fs;

use rustix::process::Signal;
use support::home::{runs, signal, until};
use support::nbd::{Home, Server, clients, libnbd};

/// The first byte is computed in another process.
const POOL: &str = "
import math, multiprocessing, os
import nbdkit
API_VERSION = 2
def config(key, value): globals()[key] = value
def open(readonly): return None
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    assert os.path.isfile(__file__)
    with multiprocessing.get_context(how).Pool(1) as pool:
        buf[0] = int(pool.apply_async(math.sqrt, (1764,)).get(60))
";

/// The new process runs the file that `__main__` names, if it names one.
#[test]
fn a_callback_may_use_a_pool_of_processes_that_are_started_anew() {
    if !clients(&["libnbd"]) {
        return;
    }
    for how in ["spawn", "forkserver"] {
        let server = Server::of_script(POOL, &[&format!("how={how}")]);
        let code = "h.connect_uri(args[0]); print(h.pread(1, 0))";
        let said = libnbd(code, &[server.uri()]);
        assert_eq!(said, "bytearray(b'*')\n", "{how}: {}", server.log());
        server.detach();
    }
}

/// Leaves a process behind, whose number it writes down.
const LEFT: &str = "
import concurrent.futures, multiprocessing, os, signal, time
API_VERSION = 2
def config(key, value): globals()[key] = value
def open(readonly): return None
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    global left
    context = multiprocessing.get_context(how)
    if what == 'executor':
        left = concurrent.futures.ProcessPoolExecutor(1, context)
        number = left.submit(os.getpid).result()
    elif what == 'pool':
        left = context.Pool(1)
        number = left.apply(os.getpid)
    else:
        left = context.Process(target=time.sleep, args=(3600,), daemon=what == 'daemon')
        left.start()
        number = left.pid
    with __builtins__.open(file, 'w') as told: told.write(str(number))
";

/// Detach a disk whose plugin has left a process; its number.
#[track_caller]
fn left(what: &str, how: &str) -> i32 {
    let home = Home::new();
    let script = home.script("plugin.py", LEFT);
    let file = home.path("number");
    let parameters = [
        format!("what={what}"),
        format!("how={how}"),
        format!("file={}", file.display()),
    ];
    let parameters = parameters.each_ref().map(String::as_str);
    let server = Server::in_home(home, script.to_str().unwrap(), &parameters);
    libnbd("h.connect_uri(args[0]); h.pread(1, 0)", &[server.uri()]);
    let number = fs::read_to_string(&file).unwrap().parse().unwrap();
    // It must succeed, and so not by force.
    server.detach();
    number
}

#[track_caller]
fn until_gone(process: i32) {
    until("the process is gone", || !runs(process));
}

#[test]
fn a_process_that_the_plugin_leaves_running_does_not_hold_up_the_end_and_goes_on() {
    if !clients(&["libnbd"]) {
        return;
    }
    for how in ["spawn", "fork"] {
        let process = left("process", how);
        assert!(runs(process), "{how}");
        signal(process, Signal::TERM);
        until_gone(process);
    }
}

#[test]
fn a_process_that_only_works_for_the_plugin_ends_with_it() {
    if !clients(&["libnbd"]) {
        return;
    }
    for (what, how) in [
        ("daemon", "spawn"),
        ("daemon", "fork"),
        ("pool", "spawn"),
        ("executor", "spawn"),
    ] {
        until_gone(left(what, how));
    }
}
