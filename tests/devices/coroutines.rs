//! Coroutines behind every front end, by the real command: 64 requests in flight unless the user says
//! otherwise, and a detach that waits for them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use support::client::{Client, available};
use support::device::{Attached, Kind, Page, read_direct};
use support::home::{self, Home, until};
use support::on_each;

/// From the third MiB on nobody is answered before `count` have asked.
const PLUGIN: &str = "
import asyncio
import nbdkit
API_VERSION = 2
count = 64
waiting = []
def config(key, value): globals()[key] = int(value)
def open(readonly): return 0
def get_size(h): return 4 << 20
async def pread(h, buf, offset, flags):
    if offset >= 2 << 20: await together()
    buf[:] = bytes([offset >> 13 & 255]) * len(buf)
async def together():
    me = asyncio.get_running_loop().create_future()
    waiting.append(me)
    if len(waiting) == count:
        for each in waiting: each.set_result(None)
        waiting.clear()
    await asyncio.wait_for(me, 60)
";

/// Requests that are read at the same time.
const REQUESTS: u64 = 64;
/// Where reads wait for each other.
const TOGETHER: u64 = 2 << 20;
/// From one read to the next: they do not touch, lest the kernel should make one of two.
const APART: u64 = 8192;

/// Read so many pages that wait for each other, each in a thread of its own.
fn read_together(device: &File, count: u64) {
    std::thread::scope(|scope| {
        for number in 0..count {
            scope.spawn(move || {
                let mut found = Page([0; 4096]);
                let at = TOGETHER + number * APART;
                device.read_exact_at(&mut found.0, at).unwrap();
                assert_eq!(u64::from(found.0[4095]), at / APART % 256);
            });
        }
    });
}

fn a_device_has_64_requests_in_flight(kind: Kind) {
    let disk = Attached::with_script(kind, PLUGIN, &[]);
    let device = read_direct(disk.device());
    // Each is answered when all 64 are with the plugin.
    read_together(&device, REQUESTS);
    drop(device);
    disk.detach();
}

on_each!(a_device_has_64_requests_in_flight);

fn the_users_number_of_lanes_counts(kind: Kind) {
    let disk = Attached::with_script(kind, PLUGIN, &["--lanes", "3", "count=3"]);
    let device = read_direct(disk.device());
    read_together(&device, 3);
    drop(device);
    disk.detach();
}

on_each!(the_users_number_of_lanes_counts);

/// Reads so many pages at the same time.
const READER: &str = "
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
start, count = int(sys.argv[2]), int(sys.argv[3])
places = range(start, start + (count << 13), 1 << 13)
pages = [nbd.Buffer(4096) for _ in places]
cookies = [h.aio_pread(*each) for each in zip(pages, places)]
while h.aio_in_flight():
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
for page, at in zip(pages, places):
    assert page.to_bytearray() == bytes([at >> 13 & 255]) * 4096
";

fn client_reads_together(uri: &str, count: u64) {
    let numbers = [TOGETHER, count].map(|number| number.to_string());
    let output = Command::new("/usr/bin/python3")
        .args(["-c", READER, uri])
        .args(numbers)
        .output()
        .unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{wrong}");
}

fn attach(home: &Home, words: &[&str]) -> String {
    let plugin = home.script("disk.py", PLUGIN);
    let mut args = vec!["attach", plugin.to_str().unwrap(), "nbd+unix:///"];
    args.extend(words);
    let said = home.run(args);
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.trim_end().to_owned()
}

#[test]
fn a_client_has_64_requests_in_flight() {
    if !available() {
        return;
    }
    let home = Home::new();
    let uri = attach(&home, &[]);
    client_reads_together(&uri, REQUESTS);
}

#[test]
fn the_users_limit_of_requests_counts() {
    if !available() {
        return;
    }
    let home = Home::new();
    let uri = attach(&home, &["--limit", "requests=3", "count=3"]);
    client_reads_together(&uri, 3);
}

/// A read takes as long as the file `hold` is there.
const HELD: &str = "
import asyncio, builtins, os
API_VERSION = 2
def open(readonly): return 0
def get_size(h): return 1 << 20
async def pread(h, buf, offset, flags):
    if offset < 4096: return
    with builtins.open(__file__ + '.log', 'a') as f: f.write('begun ')
    while os.path.exists(__file__ + '.hold'): await asyncio.sleep(0.01)
    with builtins.open(__file__ + '.log', 'a') as f: f.write('done ')
    buf[:] = b'x' * len(buf)
async def close(h):
    with builtins.open(__file__ + '.log', 'a') as f: f.write('close ')
";

fn held() -> (Home, Client) {
    let home = Home::new();
    let plugin = home.script("disk.py", HELD);
    std::fs::write(home.path("disk.py.hold"), "").unwrap();
    let said = home.run(["attach", plugin.to_str().unwrap(), "nbd+unix:///"]);
    assert_eq!(said.code, 0, "{said:?}");
    let mut client = Client::connected(said.stdout.trim_end());
    client.start("bytes(h.pread(1, 8192))");
    until("it is under way", || log(&home) == "begun ");
    (home, client)
}

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.path("disk.py.log")).unwrap_or_default()
}

#[test]
fn a_detach_waits_for_coroutines() {
    if !available() {
        return;
    }
    let (home, mut client) = held();
    let mut detach = home.start(["detach", "--force", "disk"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(log(&home), "begun ");
    std::fs::remove_file(home.path("disk.py.hold")).unwrap();
    assert_eq!(client.finish(), "b'x'");
    assert!(home::end(&mut detach).success());
    assert_eq!(log(&home), "begun done close ");
}

#[test]
fn a_detach_by_force_does_not_wait_long_for_coroutines() {
    if !available() {
        return;
    }
    let (home, mut client) = held();
    let said = home.run(["detach", "--force", "disk"]);
    assert!(client.finish().starts_with("error: "), "{said:?}");
    assert!(home.attachments().is_empty());
    assert_eq!(log(&home), "begun ");
}
