//! A thread that serves a device is one thread to Python, too, for as long as the device is there.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use support::device::{Attached, Kind};

/// Counts the thread states that its reads came in, and answers with the count in every byte.
const COUNTER: &str = "
import threading, time
import nbdkit
API_VERSION = 2
local = threading.local()
states = []
def thread_model(): return nbdkit.THREAD_MODEL_@MODEL@
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if not hasattr(local, 'requests'):
        local.requests = 0
        states.append(threading.get_ident())
    local.requests += 1
    time.sleep(0.001)
    buf[:] = bytes([min(len(states), 255)]) * len(buf)
";

#[repr(align(4096))]
struct Page([u8; 4096]);

/// What the plugin has counted after many reads, several at a time.
fn states(kind: Kind, model: &str, lanes: &str) -> u8 {
    let script = COUNTER.replace("@MODEL@", model);
    let disk = Attached::with_script(kind, &script, &["--lanes", lanes]);
    let device = File::options()
        .read(true)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(disk.device())
        .unwrap();
    let read = |number: u64| {
        let mut page = Page([0; 4096]);
        device.read_exact_at(&mut page.0, number * 4096).unwrap();
        page.0[0]
    };
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let read = &read;
            scope.spawn(move || (0..50).for_each(|round| assert!(read(reader * 50 + round) > 0)));
        }
    });
    let counted = read(200);
    drop(device);
    disk.detach();
    counted
}

#[test]
fn a_lane_keeps_its_threading_local_for_life() {
    for kind in [Kind::Ublk, Kind::Nbd] {
        if !kind.available() {
            continue;
        }
        assert_eq!(states(kind, "SERIALIZE_ALL_REQUESTS", "16"), 1);
        let counted = states(kind, "PARALLEL", "4");
        assert!((1..=4).contains(&counted), "{}: {counted}", kind.word());
    }
}

/// Answers nobody before as many as there are lanes have asked.
const TOGETHER: &str = "
import threading
import nbdkit
API_VERSION = 2
together = threading.Barrier(4, timeout=60)
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if offset >= 512 * 1024: together.wait()
";

#[test]
fn as_many_requests_as_there_are_lanes_are_served_at_the_same_time() {
    for kind in [Kind::Ublk, Kind::Nbd] {
        if !kind.available() {
            continue;
        }
        let disk = Attached::with_script(kind, TOGETHER, &["--lanes", "4"]);
        let device = File::options()
            .read(true)
            .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
            .open(disk.device())
            .unwrap();
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let device = &device;
                let at = (512 << 10) + reader * 65536;
                scope.spawn(move || device.read_exact_at(&mut Page([0; 4096]).0, at).unwrap());
            }
        });
        drop(device);
        disk.detach();
    }
}
