//! The vectors that mean something to a block device, asked again there: what `attach` refuses, and what a
//! program sees that uses the device past the page cache.
//!
//! ublk is what is meant; the driver of loop devices passes errors and zeroes on in the same way, and it is
//! there where the kernel has no ublk.

use support::device::{Attached, Kind, pydisk, run};
use support::vectors::{BASE, FLUSH, PWRITE};

/// What the programs below are made of. `SPOT` is where the plugin does what the test is about: everywhere
/// else the device has to work, or it would not come up.
const PROGRAM: &str = "
import errno, fcntl, mmap, os, struct, sys
SPOT = 1 << 19
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096)

def told(act, *words):
    try: act(*words)
    except OSError as error: return errno.errorcode[error.errno]
    return 'ok'

def read(at=SPOT):
    assert os.preadv(fd, [page], at) == 4096
    return page[:]

def write(letter, flags=0, at=SPOT):
    page[:] = letter * 4096
    assert os.pwritev(fd, [page], at, flags) == 4096

def ioctl(number, at, count): fcntl.ioctl(fd, number, struct.pack('QQ', at, count))
def discard(at, count): ioctl(0x1277, at, count)
def zero(at, count): ioctl(0x127f, at, count)
";

/// The base on a device.
struct Device {
    disk: Attached,
    calls: tempfile::TempDir,
}

impl Device {
    #[track_caller]
    fn new(kind: Kind, parts: &[&str]) -> Self {
        let calls = tempfile::tempdir().unwrap();
        let script = text(calls.path(), parts);
        Self {
            disk: Attached::with_script(kind, &script, &[]),
            calls,
        }
    }

    /// What a program prints that does this, each line of it.
    #[track_caller]
    fn program(&self, code: &str) -> Vec<String> {
        self.calls();
        let text = run(
            "python3",
            ["-c", &(PROGRAM.to_owned() + code), self.disk.device()],
        );
        text.lines().map(str::to_owned).collect()
    }

    /// What was noted since the last program began. Several flushes in a row are one: some kernels send
    /// one for the write and one for the system call.
    fn calls(&self) -> Vec<String> {
        let path = self.calls.path().join("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, "").unwrap();
        let mut calls: Vec<_> = text.lines().map(str::to_owned).collect();
        calls.dedup_by(|next, call| next == call && call.starts_with("flush"));
        calls
    }
}

/// The script, with a place for its notes that outlives its own folder.
fn text(calls: &std::path::Path, parts: &[&str]) -> String {
    let file = calls.join("plugin.py");
    BASE.to_owned() + &format!("__file__ = {file:?}\nSPOT = 1 << 19\n") + &parts.concat()
}

/// The first kind of device that this host has: guests without KVM take their time for each.
fn kind() -> Option<Kind> {
    let kinds = [Kind::Ublk, Kind::Loop];
    kinds.into_iter().find(|kind| kind.available())
}

/// A `pread` that does this in the one place.
fn pread(body: &str) -> String {
    format!(
        "
def pread(h, buf, offset, flags):
    if offset == SPOT:
        {body}
    else:
        buf[:] = disk[offset:offset + len(buf)]
"
    )
}

#[test]
fn vectors_06_and_27_durable_writes_are_flushed() {
    let v1 = "
API_VERSION = 1
def pread(h, count, offset): return disk[offset:offset + count]
def pwrite(h, buf, offset): note('pwrite', len(buf), offset)
def flush(h): note('flush')
def can_fua(h): return nbdkit.FUA_NATIVE
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[PWRITE, FLUSH, "def can_fua(h): return True\n"]);
        device.program("write(b'x', os.RWF_DSYNC)");
        assert_eq!(device.calls(), ["pwrite 4096 524288 0", "flush 0"]);
        let device = Device::new(kind, &[v1]);
        device.program("write(b'x', os.RWF_DSYNC)");
        assert_eq!(device.calls(), ["pwrite 4096 524288", "flush"]);
    }
}

#[test]
fn vectors_07_08_23_and_24_what_open_refuses_is_not_attached() {
    // What is refused is refused before it matters what would have been made.
    if let Some(kind) = kind() {
        for (parts, words) in [
            (
                "def can_fua(h): return None\n",
                "can_fua: returned `None`: a nbdkit.FUA_",
            ),
            (
                "def can_fua(h): return 1\n",
                "can_fua: returned FUA_EMULATE, but there is no `flush`",
            ),
            (
                "def get_size(h): return 1e6\n",
                "get_size: returned `1000000.0`: an int",
            ),
            (
                "def get_size(h): return 2**63\n",
                "get_size: returned `9223372036854775808`: an int",
            ),
            (
                "def block_size(h): return 4096\n",
                "block_size: returned `4096`: a tuple",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let script = folder.path().join("plugin.py");
            std::fs::write(&script, text(folder.path(), &[PWRITE, parts])).unwrap();
            let target = match kind {
                Kind::Ublk => "/dev/ublkb7907",
                _ => "/dev/loop7907",
            };
            let output = pydisk(["attach", script.to_str().unwrap(), target]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{parts}: {said}");
            assert!(said.contains(words), "{parts}: {said}");
        }
    }
}

#[test]
fn vectors_09_10_11_and_28_errors_of_a_read() {
    let fails = r"
def full(): raise OSError(errno.ENOSPC, 'full')
def chosen(): nbdkit.set_error(errno.ENOSPC); raise RuntimeError
def silent(): nbdkit.set_error(errno.EIO)
def odd(): raise OSError('no file \udc80')
acts = [full, chosen, silent, odd]
def pread(h, buf, offset, flags):
    if SPOT <= offset < SPOT + 4096 * len(acts): acts[(offset - SPOT) // 4096]()
    buf[:] = bytes(len(buf))
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[fails]);
        let code = "for _ in range(2): print(*[told(read, SPOT + 4096 * n) for n in range(5)])";
        let each = "EIO ENOSPC EIO EIO ok";
        assert_eq!(device.program(code), [each, each], "{kind:?}");
    }
}

#[test]
fn vector_12_what_pread_does_not_fill_is_zeroes_on_a_device() {
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[PWRITE, &pread("pass")]);
        let seen = device.program(
            "
for at in 0, 8192, SPOT: write(b'S', at=at)
print(set(read(0)), set(read()), set(read(8192)), set(read()))
",
        );
        assert_eq!(seen, ["{83} {0} {83} {0}"], "{kind:?}");
    }
}

#[test]
fn vector_14_a_kept_slice_stays_what_it_was_on_a_device() {
    let keeps = "
kept = []
def pwrite(h, buf, offset, flags):
    for whole, part in kept:
        try: note(bytes(whole[:1]))
        except ValueError: note('released', bytes(part))
    kept.append((buf, buf[:1]))
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[keeps]);
        device.program("for letter in b'ABC': write(bytes([letter]))");
        let calls = ["released b'A'", "released b'A'", "released b'B'"];
        assert_eq!(device.calls(), calls, "{kind:?}");
    }
}

#[test]
fn vectors_15_16_17_and_36_zeroes_on_a_device() {
    let zero = "
def zero(h, count, offset, flags):
    note('zero', count, offset, flags)
    ";
    let declines = "nbdkit.set_error(errno.EOPNOTSUPP)\n";
    let raises = "raise OSError(errno.EOPNOTSUPP, 'not here')\n";
    let large = "
def get_size(h): return 1 << 30
def pread(h, buf, offset, flags): pass
def pwrite(h, buf, offset, flags): note('pwrite', len(buf), offset, flags)
";
    let fails = "
def pwrite(h, buf, offset, flags):
    if offset < SPOT: return
    nbdkit.set_error(errno.EOPNOTSUPP)
    raise RuntimeError('cannot')
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[PWRITE, zero, declines]);
        assert_eq!(device.program("print(told(zero, SPOT, 8192))"), ["ok"]);
        let calls = ["zero 8192 524288 0", "pwrite 8192 524288 0"];
        assert_eq!(device.calls(), calls, "{kind:?}");

        let device = Device::new(kind, &[PWRITE, zero, raises]);
        assert_eq!(device.program("print(told(zero, SPOT, 8192))"), ["EIO"]);
        assert_eq!(device.calls(), ["zero 8192 524288 0"], "{kind:?}");

        let device = Device::new(kind, &[large, zero, declines]);
        assert_eq!(device.program("print(told(zero, 0, 200 << 20))"), ["ok"]);
        let mut end = 0;
        for call in device.calls() {
            let mut words = call.split(' ');
            let wrote = words.next() == Some("pwrite");
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let (len, at) = (number(), number());
            if wrote {
                assert_eq!(at, end, "{kind:?}");
                end += len;
            }
        }
        assert_eq!(end, 200 << 20, "{kind:?}");

        let device = Device::new(kind, &[fails]);
        let seen = device.program("print(told(zero, SPOT, 8192), told(zero, 0, 8192))");
        // Kernels differ in whether they pass EINVAL on. None may take it for a wish to have zeroes written.
        assert!(
            ["EIO ok", "EINVAL ok"].contains(&&*seen[0]),
            "{kind:?} {seen:?}"
        );
    }
}

#[test]
fn vector_20_trim_that_is_promised_and_missing_fails_on_ublk() {
    if Kind::Ublk.available() {
        let device = Device::new(Kind::Ublk, &[PWRITE, "def can_trim(h): return True\n"]);
        assert_eq!(device.program("print(told(discard, SPOT, 4096))"), ["EIO"]);
    }
}

#[test]
fn vector_23_a_device_has_whole_sectors() {
    if let Some(kind) = kind() {
        let device = Device::new(kind, &["def get_size(h): return 1000\n"]);
        let size = run("blockdev", ["--getsize64", device.disk.device()]);
        assert_eq!(size, "512\n", "{kind:?}");
    }
}

#[test]
fn vectors_30_and_31_a_device_is_closed_before_cleanup() {
    let life = "
def close(h): note('close')
def cleanup(): note('cleanup')
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[life]);
        let Device { disk, calls } = device;
        disk.detach();
        let noted = std::fs::read_to_string(calls.path().join("calls")).unwrap();
        assert_eq!(noted, "close\ncleanup\n", "{kind:?}");
    }
}

#[test]
fn vector_35_a_large_discard_on_ublk_is_all_there_in_order() {
    if !Kind::Ublk.available() {
        return;
    }
    let large = "
def get_size(h): return 8 << 30
def pread(h, buf, offset, flags): pass
def trim(h, count, offset, flags): note(count, offset)
";
    let device = Device::new(Kind::Ublk, &[PWRITE, large]);
    device.program("discard(4096, 0xfffff000)");
    let mut end = 4096;
    for call in device.calls() {
        let (count, at) = call.split_once(' ').unwrap();
        assert_eq!(at.parse::<u64>().unwrap(), end);
        end += count.parse::<u64>().unwrap();
    }
    assert_eq!(end, 4096 + 0xffff_f000);
}

#[test]
fn vector_40_what_pread_of_version_1_may_return_on_a_device() {
    let answers = "
API_VERSION = 1
def pread(h, count, offset):
    if SPOT <= offset < SPOT + 16384:
        return [bytearray(b'x' * count), b'x' * count + b'y' * 100,
                b'x' * (count - 1), 'x' * count][(offset - SPOT) // 4096]
    return disk[offset:offset + count]
";
    if let Some(kind) = kind() {
        let device = Device::new(kind, &[answers]);
        let code = "
for n in range(4):
    try: print(read(SPOT + 4096 * n) == b'x' * 4096)
    except OSError as error: print(errno.errorcode[error.errno])
";
        let each = ["True", "True", "EIO", "EIO"];
        assert_eq!(device.program(code), each, "{kind:?}");
    }
}
