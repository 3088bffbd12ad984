//! The threads that serve a plugin: how many, that no request waits for another one's, and that a thread
//! is one thread to Python, too, for as long as the device is there.

use std::fs::File;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use pydisk::frontends::nbd::LoadClient;
use support::device::{Attached, Kind, Page, pydisk, read_direct};
use support::on_each;

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

/// What the plugin has counted after many reads, several at a time.
fn states(kind: Kind, model: &str, lanes: &str) -> u8 {
    let script = COUNTER.replace("@MODEL@", model);
    let disk = Attached::with_script(kind, &script, &["--lanes", lanes]);
    let device = read_direct(&disk.path);
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

fn a_lane_keeps_its_threading_local_for_life(kind: Kind) {
    assert_eq!(states(kind, "SERIALIZE_ALL_REQUESTS", "16"), 1);
    let counted = states(kind, "PARALLEL", "4");
    assert!((1..=4).contains(&counted), "{}: {counted}", kind.word());
}

on_each!(a_lane_keeps_its_threading_local_for_life);

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

fn read(device: &File, at: u64) {
    device.read_exact_at(&mut Page([0; 4096]).0, at).unwrap();
}

fn as_many_requests_as_there_are_lanes_are_served_at_the_same_time(kind: Kind) {
    let disk = Attached::with_script(kind, TOGETHER, &["--lanes", "4"]);
    let device = read_direct(&disk.path);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let device = &device;
            scope.spawn(move || read(device, (512 << 10) + reader * 65536));
        }
    });
    drop(device);
    disk.detach();
}

on_each!(as_many_requests_as_there_are_lanes_are_served_at_the_same_time);

/// Requests in the second half wait until page 120 was asked for, and page 100 waits until three do. What
/// the kernel reads to look for partitions is none of these.
const SLOW: &str = "
import threading
import nbdkit
API_VERSION = 2
released = threading.Event()
slow = threading.Semaphore(0)
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    if offset == 100 * 4096:
        for _ in range(3): slow.acquire()
    elif offset == 120 * 4096:
        released.set()
    elif 512 * 1024 <= offset < 800 * 1024:
        slow.release()
        if not released.wait(60): raise TimeoutError('a quick request was not served meanwhile')
";

/// Where the slow requests go, one less than there are lanes; what is answered when all of them are in
/// the plugin; and what lets them go on.
const SLOWS: [u64; 3] = [512 << 10, 640 << 10, 768 << 10];
const ALL_IN: u64 = 100 * 4096;
const RELEASE: u64 = 120 * 4096;

fn no_request_waits_for_a_slow_one_while_there_is_a_lane(kind: Kind) {
    let disk = Attached::with_script(kind, SLOW, &["--lanes", "4"]);
    let device = read_direct(&disk.path);
    std::thread::scope(|scope| {
        let slow = SLOWS.map(|at| {
            let device = &device;
            scope.spawn(move || read(device, at))
        });
        read(&device, ALL_IN);
        for quick in 1..50 {
            read(&device, quick * 4096);
        }
        assert!(slow.iter().all(|slow| !slow.is_finished()));
        read(&device, RELEASE);
    });
    drop(device);
    disk.detach();
}

on_each!(no_request_waits_for_a_slow_one_while_there_is_a_lane);

/// A server on a Unix socket in a folder of its own.
struct Served {
    name: String,
    folder: tempfile::TempDir,
}

impl Served {
    #[track_caller]
    fn new(name: &str, text: &str, options: &[&str]) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("plugin.py");
        std::fs::write(&script, text).unwrap();
        let uri = format!("nbd+unix:///?socket={}/socket", folder.path().display());
        let mut args = vec!["attach", "--name", &name, script.to_str().unwrap(), &uri];
        args.extend(options);
        let output = pydisk(&args);
        assert!(output.status.success(), "{output:?}");
        Self { name, folder }
    }

    fn client(&self, depth: usize) -> LoadClient {
        let stream = UnixStream::connect(self.folder.path().join("socket")).unwrap();
        LoadClient::connect(stream, depth).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let output = pydisk(["detach", "--force", &self.name]);
        assert!(output.status.success(), "{output:?}");
    }
}

/// Wait until the requests of these slots are answered, in which no other is.
#[track_caller]
fn answered(client: &mut LoadClient, slots: &[usize]) {
    let mut done = Vec::new();
    while done.len() < slots.len() {
        client.wait(Duration::from_secs(90), &mut done).unwrap();
    }
    let mut found: Vec<_> = done.iter().map(|done| done.slot).collect();
    found.sort_unstable();
    assert_eq!(found, slots);
    assert!(done.iter().all(|done| done.outcome.is_ok()), "{done:?}");
}

#[test]
fn no_request_of_a_connection_waits_for_a_slow_one_while_there_is_a_lane() {
    let server = Served::new("lanes-slow", SLOW, &["--lanes", "4"]);
    let mut client = server.client(5);
    for (slot, at) in SLOWS.into_iter().enumerate() {
        client.read(slot, at, 4096);
    }
    client.read(3, ALL_IN, 4096);
    answered(&mut client, &[3]);
    for quick in 1..50 {
        client.read(4, quick * 4096, 4096);
        answered(&mut client, &[4]);
    }
    client.read(3, RELEASE, 4096);
    answered(&mut client, &[0, 1, 2, 3]);
}

/// Nobody is answered in the second half before there is a file of this name.
const GATED: &str = "
import os, time
API_VERSION = 2
def config(key, value):
    global gate
    gate = value
def open(readonly): return 0
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    while offset >= 512 * 1024 and not os.path.exists(gate): time.sleep(0.01)
    buf[:] = bytes(len(buf))
";

/// Wait until so many reads of the device are with its driver.
fn until_in_flight(number: u32, reads: usize) {
    let path = format!("/sys/block/ublkb{number}/inflight");
    let begun = Instant::now();
    loop {
        let counts = std::fs::read_to_string(&path).unwrap();
        if counts.split_whitespace().next() == Some(&reads.to_string()) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{counts}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_system_call_brings_many_requests_to_a_serial_plugin_on_ublk() {
    if !Kind::Ublk.available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("plugin.py");
    std::fs::write(&script, GATED).unwrap();
    let gate = folder.path().join("gate");
    let parameter = format!("gate={}", gate.display());
    // Its standard error is the log, which tells at the end how many requests and calls there were.
    let number = 1000 + std::process::id() % 1000 * 1000;
    let device = format!("/dev/ublkb{number}");
    let mut child = std::process::Command::new(support::program())
        .args(["attach", "--foreground", "--verbose"])
        .args([script.to_str().unwrap(), &device, &parameter])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim_end(), device);
    let opened = read_direct(&device);
    std::thread::scope(|scope| {
        // From one to the next, lest the block layer should make one of two.
        let ask = |request: u64| {
            let opened = &opened;
            scope.spawn(move || read(opened, (512 << 10) + request * 8192));
        };
        ask(0);
        until_in_flight(number, 1);
        (1..16).for_each(ask);
        until_in_flight(number, 16);
        File::create(&gate).unwrap();
    });
    drop(opened);
    assert!(pydisk(["detach", &device]).status.success());
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let line = log
        .lines()
        .find(|line| line.contains(" requests in "))
        .unwrap_or_default();
    support::say(line);
    let most = line
        .split_once("at most ")
        .unwrap_or_else(|| panic!("{log}"))
        .1;
    let most = most
        .split_whitespace()
        .next()
        .unwrap()
        .parse::<u32>()
        .unwrap();
    // The block layer counts a request a moment before the driver has it.
    assert!(most >= 8, "{line}");
}
