//! The errno of an `OSError` as that of the request, where the plugin or the user asks for it.

use std::os::unix::fs::FileExt;

use support::device::{Attached, Kind, Page, errnos, open_direct};
use support::nbd::{Home, Server, clients, libnbd};
use support::on_each;
use support::semantics::{Errors, errno as number};

/// Block 16+N of 4 KiB fails by `RAISE[N][0]()`; `RAISE[N][1]` is the errno that this means.
/// A write to block 1 makes the next flush fail.
const PLUGIN: &str = r"
import enum, errno, http.client, io, nbdkit, shutil, socket, ssl, subprocess, urllib.error
API_VERSION = 2

def throw(error): raise error

def chosen(code, error):
    nbdkit.set_error(code)
    raise error

def chained():
    try: raise OSError(errno.ENOSPC, 'cause')
    except OSError as cause: raise RuntimeError('no OSError itself') from cause

def within():
    try: raise RuntimeError('cause')
    except RuntimeError: raise OSError(errno.EROFS, 'the last one counts')

class Odd(OSError):
    @property
    def errno(self): raise ValueError('no errno')

class Ends(OSError):
    @property
    def errno(self): raise SystemExit(3)

class Indexed:
    def __index__(self): return 28

class Number(int): pass

class Word(enum.IntEnum):
    FULL = 28

def with_errno(value):
    error = OSError('text')
    error.errno = value
    raise error

RAISE = [
    (lambda: throw(OSError(errno.ENOSPC, 'full')), 28),
    (lambda: throw(OSError(errno.EIO, 'io')), 5),
    (lambda: throw(OSError(1, 'first')), 1),
    (lambda: throw(OSError(133, 'last')), 133),
    (lambda: throw(OSError(134, 'past the last')), 5),
    (lambda: throw(OSError(512, 'the kernel keeps this for itself')), 5),
    (lambda: throw(OSError(0, 'none')), 5),
    (lambda: throw(OSError(-28, 'negative')), 5),
    (lambda: throw(OSError('no number')), 5),
    (lambda: throw(OSError()), 5),
    (lambda: with_errno(None), 5),
    (lambda: with_errno(True), 5),
    (lambda: with_errno('28'), 5),
    (lambda: with_errno(28.0), 5),
    (lambda: with_errno(2**70), 5),
    (lambda: with_errno(Indexed()), 5),
    (lambda: with_errno(Number(28)), 28),
    (lambda: with_errno(Word.FULL), 28),
    (lambda: throw(Odd(28, 'x')), 5),
    (lambda: throw(Ends(28, 'x')), 5),
    (lambda: throw(TimeoutError(errno.ETIMEDOUT, 'late')), 110),
    (lambda: throw(TimeoutError('late')), 5),
    (lambda: throw(ConnectionResetError(errno.ECONNRESET, 'reset')), 104),
    (lambda: throw(FileNotFoundError(errno.ENOENT, 'gone')), 2),
    (lambda: throw(PermissionError(errno.EACCES, 'no')), 13),
    (lambda: open_missing(), 2),
    (lambda: throw(BlockingIOError(errno.EAGAIN, 'again')), 5),
    (lambda: throw(InterruptedError(errno.EINTR, 'again')), 5),
    (lambda: throw(OSError(errno.EREMCHG, 'again')), 5),
    (lambda: throw(OSError(errno.ENOSYS, 'never')), 5),
    (lambda: throw(OSError(errno.EBUSY, 'busy')), 16),
    (lambda: throw(OSError(errno.ENOMEM, 'memory')), 12),
    (lambda: throw(OSError(errno.EOPNOTSUPP, 'not here')), 95),
    (lambda: throw(ssl.SSLError(1, 'a number of OpenSSL')), 5),
    (lambda: throw(ssl.SSLCertVerificationError(1, 'so is this')), 5),
    (lambda: throw(socket.gaierror(socket.EAI_NONAME, 'a number of the resolver')), 5),
    (lambda: throw(socket.herror(1, 'so is this')), 5),
    (lambda: throw(urllib.error.URLError(OSError(errno.ENOSPC, 'reason'))), 5),
    (lambda: throw(shutil.Error([])), 5),
    (lambda: throw(io.UnsupportedOperation('seek')), 5),
    (lambda: throw(http.client.RemoteDisconnected('gone')), 5),
    (chained, 5),
    (within, 30),
    (lambda: throw(ExceptionGroup('g', [OSError(errno.ENOSPC, 'inside')])), 5),
    (lambda: throw(RuntimeError('plain')), 5),
    (lambda: chosen(errno.EROFS, OSError(errno.ENOSPC, 'set_error wins')), 30),
    (lambda: chosen(errno.EIO, OSError(errno.ENOSPC, 'set_error wins')), 5),
    (lambda: chosen(0, OSError(errno.ENOSPC, '0 chooses nothing')), 28),
    (lambda: chosen(9999, OSError(errno.ENOSPC, 'not this one')), 22),
]

def open_missing():
    import builtins
    builtins.open('/no/such/file')

def open(readonly): return 1
def get_size(h): return 1 << 20
def fail(offset):
    row = offset // 4096 - 16
    if 0 <= row < len(RAISE): RAISE[row][0]()
def pread(h, buf, offset, flags): fail(offset)
armed = False
def pwrite(h, buf, offset, flags):
    global armed
    armed = armed or offset == 4096
    fail(offset)
def zero(h, count, offset, flags):
    if flags & nbdkit.FLAG_FAST_ZERO or offset >= 1 << 19:
        raise OSError(errno.EOPNOTSUPP, 'zero is declined')
    fail(offset)
def can_fast_zero(h): return True
def trim(h, count, offset, flags): fail(offset)
def flush(h, flags):
    global armed
    failing, armed = armed, False
    if failing: raise OSError(errno.EDQUOT, 'quota')
def cache(h, count, offset, flags): fail(offset)
def extents(h, count, offset, flags):
    if offset == 0: raise OSError(errno.ENOSPC, 'at once')
    return later()
def later():
    yield (0, 1 << 20, 0)
    raise OSError(errno.ENOMEM, 'midway')
def config(key, value): pass
";

const NATIVE: &str = "PYDISK_ERRNO = 'native'\n";

/// What the rows of the plugin mean, read from its text.
fn expected() -> Vec<i32> {
    let table = PLUGIN.split("RAISE = [").nth(1).unwrap();
    let rows = table.split("\n]").next().unwrap().lines();
    let rows = rows.filter(|row| !row.trim().is_empty());
    rows.map(|row| {
        let number = row.trim_end().trim_end_matches("),");
        number.rsplit(", ").next().unwrap().parse().unwrap()
    })
    .collect()
}

const ASK: &str = "
h.connect_uri(args[0])
def word(call, *words):
    try: call(*words)
    except nbd.Error as error: return error.errno or 'none'
    return 'done'
for n in range(int(args[1])):
    at = (16 + n) * 4096
    print(*[word(*call) for call in ((h.pread, 4096, at), (h.pwrite, bytes(4096), at),
                                     (h.zero, 4096, at), (h.trim, 4096, at), (h.cache, 4096, at))])
";

fn over_nbd(server: &Server, count: usize) -> Vec<String> {
    let told = libnbd(ASK, &[server.uri(), &count.to_string()]);
    told.lines().map(str::to_owned).collect()
}

#[test]
fn an_oserror_has_its_errno_over_nbd() {
    if !clients(&["libnbd"]) {
        return;
    }
    let rows = expected();
    assert!(rows.len() > 40);
    let promised = Errors::seen_by("NBD client");
    let server = Server::of_script(&(NATIVE.to_owned() + PLUGIN), &[]);
    let told = over_nbd(&server, rows.len());
    for (row, errno) in rows.iter().enumerate() {
        // To the NBD client these are failures like any other.
        let errno = if (26..=29).contains(&row) { 4 } else { *errno };
        // A zero request that is declined is written, which fails with the same word.
        let expected = vec![promised.of("pread", errno, ""); 5].concat();
        let words: Vec<_> = told[row].split(' ').map(number).collect();
        assert_eq!(words, expected, "row {row}, errno {errno}");
    }
    server.detach();
}

#[test]
fn without_the_wish_an_oserror_is_eio() {
    if !clients(&["libnbd"]) {
        return;
    }
    let native = NATIVE.to_owned() + PLUGIN;
    for (script, args) in [
        (PLUGIN, &[][..]),
        ("PYDISK_ERRNO = 'nbdkit'\n", &[]),
        // The user's word counts more than the script's.
        (&native, &["--errno", "nbdkit"]),
    ] {
        let script = if script.starts_with("PYDISK_ERRNO = 'nbdkit'") {
            script.to_owned() + PLUGIN
        } else {
            script.to_owned()
        };
        let server = Server::of_script(&script, args);
        let told = over_nbd(&server, expected().len());
        for (row, line) in told.iter().enumerate() {
            let word = match row {
                45 => "EPERM",
                48 => "EINVAL",
                _ => "EIO",
            };
            assert_eq!(line, &[word; 5].join(" "), "row {row}");
        }
        server.detach();
    }
}

#[test]
fn the_option_is_for_plugins_that_know_nothing_of_it() {
    if !clients(&["libnbd"]) {
        return;
    }
    let server = Server::of_script(PLUGIN, &["--errno", "native"]);
    assert_eq!(over_nbd(&server, 1), [["ENOSPC"; 5].join(" ")]);
    server.detach();
}

#[test]
fn flush_extents_and_declined_zeroes_follow() {
    if !clients(&["libnbd"]) {
        return;
    }
    let code = "
h.add_meta_context('base:allocation')
h.connect_uri(args[0])
def word(call, *words):
    try: call(*words)
    except nbd.Error as error: return error.errno
    return 'done'
half = 1 << 19
h.pwrite(bytes(512), 4096)
print(word(h.flush))
print(word(h.block_status, 4096, 0, lambda *a: 0))
print(word(h.block_status, 4096, 4096, lambda *a: 0))
print(word(h.zero, 8192, half), word(h.zero, 4096, half, nbd.CMD_FLAG_FAST_ZERO))
";
    for (args, expected) in [
        (
            &["--errno", "native"][..],
            "ENOSPC\nENOSPC\nENOMEM\ndone ENOTSUP\n",
        ),
        (&[], "EIO\nEIO\nEIO\nEIO EIO\n"),
    ] {
        let server = Server::of_script(PLUGIN, args);
        assert_eq!(libnbd(code, &[server.uri()]), expected);
        server.detach();
    }
}

#[test]
fn coroutines_follow() {
    if !clients(&["libnbd"]) {
        return;
    }
    let script = "
import asyncio, errno, nbdkit
API_VERSION = 2
PYDISK_ERRNO = 'native'
def open(readonly): return 1
def get_size(h): return 1 << 20
async def pread(h, buf, offset, flags):
    await asyncio.sleep(0)
    if offset: nbdkit.set_error(errno.EROFS)
    raise OSError(errno.ENOSPC, 'full')
async def pwrite(h, buf, offset, flags): pass
async def zero(h, count, offset, flags): raise OSError(errno.EOPNOTSUPP, 'not here')
async def trim(h, count, offset, flags): await asyncio.wait_for(asyncio.sleep(9), 0)
";
    let code = "
h.connect_uri(args[0])
def word(call, *words):
    try: call(*words)
    except nbd.Error as error: return error.errno
    return 'done'
print(word(h.pread, 512, 0), word(h.pread, 512, 512), word(h.zero, 512, 0), word(h.trim, 512, 0))
";
    let server = Server::of_script(script, &[]);
    assert_eq!(
        libnbd(code, &[server.uri()]),
        "ENOSPC EPERM done EIO\n",
        "{}",
        server.log()
    );
    server.detach();
}

fn an_oserror_has_its_errno_as_far_as_the_kernel_passes_it(kind: Kind) {
    let rows = expected();
    let promised = Errors::on(kind);
    let disk = Attached::with_script(kind, &(NATIVE.to_owned() + PLUGIN), &[]);
    let file = open_direct(&disk.path);
    for (row, errno) in rows.iter().enumerate() {
        let seen = errnos(&file, (16 + row) as u64 * 4096);
        let expected = promised.of("pread", *errno, "");
        let kept = seen[0] == seen[1] && seen[0].is_some_and(|seen| expected.contains(&seen));
        assert!(
            kept,
            "{}: row {row}: {expected:?}, not {seen:?}",
            kind.word()
        );
    }
    // Zeroes at half the disk are declined, and written.
    let flags = rustix::fs::FallocateFlags::ZERO_RANGE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 1 << 19, 8192).unwrap();
    file.write_all_at(&Page([0; 4096]).0, 4096).unwrap();
    let failed = file.sync_all().unwrap_err().raw_os_error().unwrap();
    assert_eq!(promised.of("flush", 122, ""), [failed]);
    drop(file);
    disk.detach();
}

on_each!(an_oserror_has_its_errno_as_far_as_the_kernel_passes_it);

#[test]
fn other_wishes_are_refused_at_load() {
    let home = Home::new();
    for (value, shown) in [
        ("'Native'", "`'Native'`"),
        ("True", "`True`"),
        ("None", "`None`"),
        ("''", "`''`"),
        ("'\\udc80'", "`'\\udc80'`"),
        ("[1]", "`[1]`"),
    ] {
        let script = home.script("plugin.py", &format!("PYDISK_ERRNO = {value}\n{PLUGIN}"));
        let said = home.run(["attach", script.to_str().unwrap(), "nbd://localhost:0"]);
        assert_eq!(said.code, 1, "{said:?}");
        let expected = format!("PYDISK_ERRNO: is {shown}: `native` and `nbdkit` are accepted");
        assert!(said.stderr.contains(&expected), "{said:?}");
    }
    let script = home.script("plugin.py", PLUGIN);
    let script = script.to_str().unwrap();
    let said = home.run(["attach", "--errno", "own", script]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.stderr.contains("`native` and `nbdkit` are accepted"),
        "{said:?}"
    );
}
