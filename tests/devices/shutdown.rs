//! `nbdkit.shutdown` on devices: a plugin that ends its own disk loses nothing of what was written.

use std::time::{Duration, Instant};

use support::device::{Attached, Kind, Mount, pydisk, run};
use support::on_each_device;

/// A disk of 32 MiB in a file, which goes away once a file `end` lies beside that. A thread of the
/// plugin asks for it, as one would that watches something.
const PLUGIN: &str = "
import os, threading, time
import nbdkit
API_VERSION = 2
SIZE = 32 << 20
def config(key, value):
    global folder
    folder = value
def after_fork(): threading.Thread(target=wait, daemon=True).start()
def wait():
    while not os.path.exists(folder + '/end'): time.sleep(0.05)
    nbdkit.shutdown()
def open(readonly):
    fd = os.open(folder + '/data', os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE)
    return fd
def close(h): os.close(h)
def get_size(h): return SIZE
def pread(h, buf, offset, flags): os.preadv(h, [buf], offset)
def pwrite(h, buf, offset, flags): os.pwrite(h, buf, offset)
def flush(h, flags): os.fdatasync(h)
def cleanup(): os.mkdir(folder + '/cleaned')
";

/// Written to a file, and found on the disk.
const TEXT: &str = "what was written before the end of the disk";

fn a_file_system_is_stored_before_the_disk_goes(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let parameter = format!("folder={}", folder.path().display());
    let attached = Attached::with_script(kind, PLUGIN, &[&parameter]);
    run("mkfs.ext4", ["-q", attached.device()]);
    let mount = Mount::new(attached.device(), folder.path().join("mounted"));
    std::fs::write(mount.at.join("file"), TEXT.repeat(1000)).unwrap();
    std::fs::write(folder.path().join("end"), "").unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !folder.path().join("cleaned").exists() {
        assert!(Instant::now() < end, "{}: the disk stays", kind.word());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(mount);
    let data = std::fs::read(folder.path().join("data")).unwrap();
    let found = data
        .windows(TEXT.len())
        .filter(|window| *window == TEXT.as_bytes())
        .count();
    assert!(found >= 1000, "{}: found {found} times", kind.word());
    let device = attached.device().to_owned();
    std::mem::drop(attached);
    let list = pydisk(["list"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(!list.contains(&device), "{list}");
}

on_each_device!(a_file_system_is_stored_before_the_disk_goes);
