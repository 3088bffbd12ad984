//! What becomes of a callback that fails, or that does not do what it was called for.

use super::{PWRITE, Vector, attach, client};
use support::nbd::{Held, Home, MIB};

/// The answer to a read where `pread` is this.
#[track_caller]
fn read(pread: &str, answer: &str) -> Vector {
    let vector = Vector::new(&[PWRITE, pread]);
    let told = vector.client("connect()\nprint(told(h.pread, 512, 0))");
    assert_eq!(told.trim_end(), answer, "{pread}");
    vector
}

#[test]
fn vector_09_an_exception_alone_is_eio_whatever_its_errno() {
    if client() {
        let pread = "
def pread(h, buf, offset, flags): raise OSError(errno.ENOSPC, 'full')
";
        read(pread, "EIO").logged("OSError: [Errno 28] full");
    }
}

#[test]
fn vector_10_set_error_and_an_exception_is_that_errno() {
    if client() {
        let pread = "
def pread(h, buf, offset, flags):
    nbdkit.set_error(errno.ENOSPC)
    raise RuntimeError('full')
";
        read(pread, "ENOSPC").logged("RuntimeError: full");
    }
}

#[test]
fn vector_11_set_error_without_an_exception_is_a_failure() {
    if client() {
        let pread = "
def pread(h, buf, offset, flags): nbdkit.set_error(errno.EIO)
";
        read(pread, "EIO").logged("called nbdkit.set_error and returned without raising");
    }
}

#[test]
fn vector_12_what_pread_does_not_fill_is_zeroes() {
    if !client() {
        return;
    }
    let vector = Vector::new(&[
        "def pwrite(h, buf, offset, flags): pass\n",
        "def pread(h, buf, offset, flags):\n    if offset == 8192: buf[:8] = b'NEIGHBOR'\n",
    ]);
    let seen = vector.client(
        "
connect()
def filled(offset): return bytes(set(h.pread(4096, offset)))
print(filled(0))
h.pwrite(b'SECRET!!' * 512, 0)
print(filled(0))
h.pread(4096, 8192)
print(filled(0))
print(bytes(h.pread(4096, 8192)) == b'NEIGHBOR' + bytes(4088))
",
    );
    assert_eq!(seen, "b'\\x00'\nb'\\x00'\nb'\\x00'\nTrue\n");
    // Where it can be seen in the script it is said.
    let said = attach(&["def pread(h, buf, offset, flags): pass\n"]);
    let never = "pread: never fills `buf`";
    assert!(said.code == 0 && said.stderr.contains(never), "{said:?}");
}

#[test]
fn vector_13_an_async_pread_is_awaited_or_refused() {
    if !client() {
        return;
    }
    let pread = "
import asyncio
async def pread(h, buf, offset, flags):
    await asyncio.sleep(0)
    buf[:] = bytes([offset // 512 % 251 + 1]) * len(buf)
";
    let said = attach(&[pread]);
    if said.code != 0 {
        said.refused("pread: `async def` callbacks are not supported (line ");
        return;
    }
    let vector = Vector::new(&[pread]);
    let seen = vector.client(
        "
connect()
print(all(bytes(h.pread(512, n * 512)) == bytes([n + 1]) * 512 for n in range(200)))
",
    );
    assert_eq!(seen, "True\n");
}

#[test]
fn vector_14_a_kept_buffer_is_released_and_a_kept_slice_stays_what_it_was() {
    if !client() {
        return;
    }
    let vector = Vector::new(&["
kept = []
def pwrite(h, buf, offset, flags):
    kept.append((buf, buf[:1]))
def flush(h, flags):
    for buf, part in kept:
        try: note('buf', buf[0])
        except ValueError: note('buf released')
        note('part', bytes(part))
"]);
    vector.client(
        "
connect()
for letter in b'ABCD': h.pwrite(bytes([letter]) * 4096, 0)
h.flush()
",
    );
    let calls = vector.calls();
    let of = |start: &str| -> Vec<_> {
        let found = calls.iter().filter(|call| call.starts_with(start));
        found.cloned().collect()
    };
    assert_eq!(of("buf"), ["buf released"; 4]);
    assert_eq!(
        of("part"),
        ["A", "B", "C", "D"].map(|letter| format!("part b'{letter}'"))
    );
    // Memory of 8 MiB that a client's read left behind, looked at after the client has gone.
    let vector = Vector::new(&["
kept = []
def get_size(h): return 16 << 20
def pread(h, buf, offset, flags):
    buf[:] = bytes([7]) * len(buf)
    note(*[set(part) for part in kept])
    kept.append(buf[:])
"]);
    for _ in 0..3 {
        vector.client("connect()\nh.pread(8 << 20, 0)");
    }
    assert_eq!(vector.calls(), ["", "{7}", "{7} {7}"]);
}

#[test]
fn vector_28_text_that_is_no_unicode_is_shown_escaped() {
    if !client() {
        return;
    }
    let pread = r"
def pread(h, buf, offset, flags): raise OSError('no file \udc80\udcff')
";
    let vector = read(pread, "EIO");
    vector.logged("OSError: no file ");
    let told = vector.client("connect()\nprint(told(h.pread, 512, 0))");
    assert_eq!(told, "EIO\n", "the server lives");
}

#[test]
fn vector_29_exceptions_leave_no_memory_behind() {
    if !client() {
        return;
    }
    let vector = Vector::new(&["
def pread(h, buf, offset, flags):
    local = b'x' * (1 << 20)
    raise RuntimeError('with a megabyte in its frame')
"]);
    let fail = "connect()\nprint({told(h.pread, 512, 0) for _ in range(int(args[1]))})";
    let fail = |times: &str| fail.replace("int(args[1])", times);
    assert_eq!(vector.client(&fail("50")), "{'EIO'}\n");
    let worker = vector.0.worker();
    let before = Held::by(worker).resident;
    assert_eq!(vector.client(&fail("1000")), "{'EIO'}\n");
    let grown = Held::by(worker).resident.saturating_sub(before);
    assert!(
        grown < 32 * MIB,
        "grown by {grown} bytes over 1000 exceptions"
    );
}

#[test]
fn vector_38_an_exception_in_dump_plugin_is_a_sentence() {
    let home = Home::new();
    let script = super::BASE.to_owned() + "def dump_plugin(): raise RuntimeError('not today')\n";
    let script = home.script("plugin.py", &script);
    let said = home.run(["info", script.to_str().unwrap()]);
    said.refused("plugin.py: dump_plugin: RuntimeError: not today");
}

#[test]
fn vector_40_what_pread_of_version_1_may_return() {
    if !client() {
        return;
    }
    let v1 =
        |answer: &str| format!("API_VERSION = 1\ndef pread(h, count, offset): return {answer}\n");
    let read = "
connect()
try: print(bytes(h.pread(512, 0)) == b'x' * 512)
except nbd.Error as error: print(error.errno)
";
    for (answer, seen) in [
        ("b'x' * count", "True"),
        ("bytearray(b'x' * count)", "True"),
        ("memoryview(b'x' * count)", "True"),
        ("__import__('array').array('B', b'x' * count)", "True"),
        ("b'x' * count + b'y' * 100", "True"),
        ("b'x' * (count - 1)", "EIO"),
        ("b''", "EIO"),
        ("'x' * count", "EIO"),
        ("[120] * count", "EIO"),
        ("None", "EIO"),
        ("memoryview(b'xy' * count)[::2]", "EIO"),
    ] {
        let vector = Vector::new(&[&v1(answer)]);
        assert_eq!(vector.client(read).trim_end(), seen, "{answer}");
    }
}
