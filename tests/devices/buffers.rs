//! A plugin that keeps every buffer, through a whole device: old bytes stay, foreign ones never show.

use std::fs::OpenOptions;

use support::device::{Attached, Kind, run};
use support::{on_each, scale};

/// Keeps arrays over its last buffers with a copy of what they held, and compares them at each flush
/// and from a thread of its own all the time.
const KEEPER: &str = "
import collections, threading, time
import numpy
import nbdkit
API_VERSION = 2
store = bytearray(32 << 20)
kept = collections.deque(maxlen=300)
wrong = []
def thread_model(): return nbdkit.THREAD_MODEL_@MODEL@
def look():
    for view, copy in list(kept):
        if view.tobytes() != copy: wrong.append('foreign bytes')
def watch():
    while True: look(); time.sleep(0.01)
def after_fork(): threading.Thread(target=watch, daemon=True).start()
def keep(buf):
    view = numpy.frombuffer(buf, 'u1') if len(kept) % 2 else numpy.asarray(buf)[:]
    kept.append((view, view.tobytes()))
def open(readonly): return 0
def get_size(h): return len(store)
def pread(h, buf, offset, flags):
    if any(bytes(buf[:64])): wrong.append('not zeroed')
    buf[:] = store[offset:offset + len(buf)]
    keep(buf)
def pwrite(h, buf, offset, flags):
    store[offset:offset + len(buf)] = buf
    keep(buf)
def flush(h, flags):
    look()
    if wrong: raise AssertionError(wrong[0])
";

fn keeps_every_buffer(kind: Kind, model: &str) {
    let disk = Attached::with_script(kind, &KEEPER.replace("@MODEL@", model), &[]);
    run(
        "fio",
        [
            "--name=keep",
            &format!("--filename={}", disk.device()),
            "--rw=randwrite",
            "--verify_backlog=64",
            "--bsrange=4k-64k",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fsync=200",
            "--size=32M",
            "--time_based",
            &format!("--runtime={}", scale(5)),
        ],
    );
    let file = OpenOptions::new().write(true).open(&disk.path).unwrap();
    file.sync_all().unwrap();
    drop(file);
    disk.detach();
}

fn a_serial_plugin_keeps_every_buffer(kind: Kind) {
    keeps_every_buffer(kind, "SERIALIZE_ALL_REQUESTS");
}

on_each!(a_serial_plugin_keeps_every_buffer);

fn a_parallel_plugin_keeps_every_buffer(kind: Kind) {
    keeps_every_buffer(kind, "PARALLEL");
}

on_each!(a_parallel_plugin_keeps_every_buffer);
