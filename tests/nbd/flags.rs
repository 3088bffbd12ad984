//! The flag table of NBD, row by row: what a client asks for by libnbd on one side, what the plugin is
//! called with and what the client is told on the other.

use std::io::Write;
use std::process::Stdio;

use support::nbd::{Server, clients, json, libnbd_command};

/// Writes every call to the file that `log=` names, before it returns.
const RECORDER: &str = "
import builtins, errno, nbdkit
store = bytearray(1 << 20)
def config(key, value):
    assert key == 'log'
    global log
    log = builtins.open(value, 'a', buffering=1)
def say(*words): print(*words, file=log)
def open(readonly): return 0
def get_size(h): return len(store)
";

const V2: &str = "
API_VERSION = 2
def pread(h, buf, offset, flags):
    say('pread', len(buf), offset, flags)
    buf[:] = store[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags):
    say('pwrite', len(buf), offset, flags)
    store[offset:offset + len(buf)] = buf
def trim(h, count, offset, flags): say('trim', count, offset, flags)
";
const V2_FLUSH: &str = "
def flush(h, flags): say('flush', flags)
";
const V2_ZERO: &str = "
def zero(h, count, offset, flags):
    say('zero', count, offset, flags)
    store[offset:offset + count] = bytes(count)
";
/// Asks for pwrite instead.
const V2_ZERO_DECLINES: &str = "
def zero(h, count, offset, flags):
    say('zero', count, offset, flags)
    nbdkit.set_error(errno.EOPNOTSUPP)
    raise OSError(errno.EOPNOTSUPP, 'not here')
";

const V1: &str = "
def pread(h, count, offset):
    say('pread', count, offset)
    return store[offset:offset + count]
def pwrite(h, buf, offset):
    say('pwrite', len(buf), offset)
    store[offset:offset + len(buf)] = buf
def trim(h, count, offset): say('trim', count, offset)
def zero(h, count, offset, may_trim):
    say('zero', count, offset, may_trim)
    store[offset:offset + count] = bytes(count)
def flush(h): say('flush')
";

const CACHE: &str = "
def cache(h, count, offset, flags): say('cache', count, offset, flags)
";
/// 64 KiB of data, 64 KiB of a hole, and so on.
const EXTENTS: &str = "
def extents(h, count, offset, flags):
    say('extents', count, offset, flags)
    end = offset + count
    while offset < end:
        part = offset // 65536
        length = (part + 1) * 65536 - offset
        yield offset, length, part % 2 * (nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO)
        offset += length
";
const CAN_FAST_ZERO: &str = "
def can_fast_zero(h): return True
";
const READ_ONLY: &str = "
def can_write(h): return False
";

fn fua(level: &str) -> String {
    format!("def can_fua(h): return {level}\n")
}

/// What a row may ask; each gives what the client is told.
const CLIENT: &str = r#"
FUA, NO_HOLE = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE
FAST, DF, ONE = nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_DF, nbd.CMD_FLAG_REQ_ONE

def write(flags=0): h.pwrite(b"x" * 512, 1024, flags)
def trim(flags=0): h.trim(8192, 4096, flags)
def zero(flags=0): h.zero(8192, 4096, flags)
def flush(): h.flush()
def cache(): h.cache(4096, 512)

def read(count, flags=0):
    """The chunks of the reply, in the order of the disk."""
    chunks = []
    def chunk(data, offset, status, error):
        kind = {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole"}.get(status, "error")
        chunks.append((offset, kind, len(data)))
    h.pread_structured(count, 0, chunk, flags)
    return " ".join(f"{kind}:{length}" for _, kind, length in sorted(chunks))

def status(flags=0):
    found = []
    def extents(context, offset, entries, error): found.extend(entries)
    h.block_status(262144, 0, extents, flags)
    pairs = zip(found[::2], found[1::2])
    return " ".join(f"{length}:{kind}" for length, kind in pairs)

def promises():
    asked = dict(fua=h.can_fua, flush=h.can_flush, trim=h.can_trim, zero=h.can_zero,
                 fast_zero=h.can_fast_zero, cache=h.can_cache, df=h.can_df,
                 read_only=h.is_read_only)
    return " ".join(name for name, ask in asked.items() if ask())

# Ask for what the server does not offer as well.
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(args[0])
with open(args[1]) as log:
    for row in sys.stdin:
        log.read()
        try:
            told = eval(row) or "ok"
        except nbd.Error as error:
            told = error.errno
        print(json.dumps([told, log.read().splitlines()]), flush=True)
"#;

/// What the client does, what it is told, what the plugin is called with.
type Row<'a> = (&'a str, &'a str, &'a [&'a str]);

#[track_caller]
fn table(parts: &[&str], rows: &[Row<'_>]) {
    let home = support::home::Home::new();
    let script = home.script("plugin.py", &(RECORDER.to_owned() + &parts.concat()));
    let log = home.path("calls").display().to_string();
    std::fs::write(&log, "").unwrap();
    let server = Server::in_home(home, script.to_str().unwrap(), &[&format!("log={log}")]);
    let mut client = libnbd_command(CLIENT, &[&server.export(""), &log])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = client.stdin.take().unwrap();
    for (act, ..) in rows {
        writeln!(asked, "{act}").unwrap();
    }
    drop(asked);
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = text.lines().map(json).collect();
    let mut wrong = String::new();
    for (index, &(act, told, calls)) in rows.iter().enumerate() {
        let seen = answers.get(index).cloned().unwrap_or_default();
        if seen != serde_json::json!([told, calls]) {
            wrong += &format!("{act}: expected {told:?} {calls:?}, seen {seen}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}{}", server.log());
}

/// How the plugin's way to FUA shows.
enum Durable {
    /// Refused, nothing is called.
    Refused,
    /// A flush follows.
    Flushed,
    /// `FLAG_FUA`, which is 2, is passed.
    Passed,
}

#[test]
fn fua_of_version_2() {
    if !clients(&["libnbd"]) {
        return;
    }
    let without: &[Row] = &[
        ("write()", "ok", &["pwrite 512 1024 0"]),
        ("trim()", "ok", &["trim 8192 4096 0"]),
        ("zero()", "ok", &["zero 8192 4096 1"]),
        ("zero(NO_HOLE)", "ok", &["zero 8192 4096 0"]),
        ("flush()", "ok", &["flush 0"]),
    ];
    let refused: &[Row] = &[
        ("promises()", "flush trim zero df", &[]),
        ("write(FUA)", "EINVAL", &[]),
        ("trim(FUA)", "EINVAL", &[]),
        ("zero(FUA)", "EINVAL", &[]),
        ("zero(FUA | NO_HOLE)", "EINVAL", &[]),
    ];
    let flushed: &[Row] = &[
        ("promises()", "fua flush trim zero df", &[]),
        ("write(FUA)", "ok", &["pwrite 512 1024 0", "flush 0"]),
        ("trim(FUA)", "ok", &["trim 8192 4096 0", "flush 0"]),
        ("zero(FUA)", "ok", &["zero 8192 4096 1", "flush 0"]),
        (
            "zero(FUA | NO_HOLE)",
            "ok",
            &["zero 8192 4096 0", "flush 0"],
        ),
    ];
    let passed: &[Row] = &[
        ("promises()", "fua flush trim zero df", &[]),
        ("write(FUA)", "ok", &["pwrite 512 1024 2"]),
        ("trim(FUA)", "ok", &["trim 8192 4096 2"]),
        ("zero(FUA)", "ok", &["zero 8192 4096 3"]),
        ("zero(FUA | NO_HOLE)", "ok", &["zero 8192 4096 2"]),
    ];
    for (can_fua, durable) in [
        (String::new(), Durable::Flushed),
        (fua("nbdkit.FUA_NONE"), Durable::Refused),
        (fua("nbdkit.FUA_EMULATE"), Durable::Flushed),
        (fua("True"), Durable::Flushed),
        (fua("nbdkit.FUA_NATIVE"), Durable::Passed),
    ] {
        let rows = match durable {
            Durable::Refused => refused,
            Durable::Flushed => flushed,
            Durable::Passed => passed,
        };
        table(
            &[V2, V2_FLUSH, V2_ZERO, &can_fua],
            &[rows, without].concat(),
        );
    }
}

#[test]
fn fua_of_version_1() {
    if !clients(&["libnbd"]) {
        return;
    }
    let without: &[Row] = &[
        ("write()", "ok", &["pwrite 512 1024"]),
        ("trim()", "ok", &["trim 8192 4096"]),
        ("zero()", "ok", &["zero 8192 4096 True"]),
        ("zero(NO_HOLE)", "ok", &["zero 8192 4096 False"]),
        ("flush()", "ok", &["flush"]),
    ];
    let refused: &[Row] = &[
        ("promises()", "flush trim zero df", &[]),
        ("write(FUA)", "EINVAL", &[]),
        ("trim(FUA)", "EINVAL", &[]),
        ("zero(FUA)", "EINVAL", &[]),
    ];
    let flushed: &[Row] = &[
        ("promises()", "fua flush trim zero df", &[]),
        ("write(FUA)", "ok", &["pwrite 512 1024", "flush"]),
        ("trim(FUA)", "ok", &["trim 8192 4096", "flush"]),
        ("zero(FUA)", "ok", &["zero 8192 4096 True", "flush"]),
        (
            "zero(FUA | NO_HOLE)",
            "ok",
            &["zero 8192 4096 False", "flush"],
        ),
    ];
    for (can_fua, rows) in [
        (String::new(), flushed),
        (fua("nbdkit.FUA_NONE"), refused),
        (fua("nbdkit.FUA_EMULATE"), flushed),
        // Version 1 cannot be told of FUA: nbdkit loses it, here a flush follows.
        (fua("nbdkit.FUA_NATIVE"), flushed),
    ] {
        table(&[V1, &can_fua], &[rows, without].concat());
    }
}

#[test]
fn without_flush_there_is_no_fua_unless_native() {
    if !clients(&["libnbd"]) {
        return;
    }
    table(
        &[V2, V2_ZERO],
        &[
            ("promises()", "trim zero df", &[]),
            ("write(FUA)", "EINVAL", &[]),
            ("flush()", "EINVAL", &[]),
        ],
    );
    table(
        &[V2, V2_ZERO, &fua("nbdkit.FUA_NATIVE")],
        &[
            ("promises()", "fua trim zero df", &[]),
            ("write(FUA)", "ok", &["pwrite 512 1024 2"]),
        ],
    );
}

#[test]
fn fua_is_flushed_for_also_by_a_plugin_that_offers_no_flush() {
    if !clients(&["libnbd"]) {
        return;
    }
    table(
        &[V2, V2_FLUSH, "def can_flush(h): return False\n"],
        &[
            ("promises()", "fua trim zero fast_zero df", &[]),
            ("write(FUA)", "ok", &["pwrite 512 1024 0", "flush 0"]),
            ("flush()", "EINVAL", &[]),
        ],
    );
}

#[test]
fn zeroes_where_the_plugin_cannot() {
    if !clients(&["libnbd"]) {
        return;
    }
    let missing: &[Row] = &[
        ("promises()", "fua flush trim zero fast_zero df", &[]),
        ("zero()", "ok", &["pwrite 8192 4096 0"]),
        ("zero(NO_HOLE)", "ok", &["pwrite 8192 4096 0"]),
        ("zero(FAST)", "ENOTSUP", &[]),
        ("zero(FAST | NO_HOLE)", "ENOTSUP", &[]),
        ("zero(FAST | FUA)", "ENOTSUP", &[]),
    ];
    let flushed: &[Row] = &[("zero(FUA)", "ok", &["pwrite 8192 4096 0", "flush 0"])];
    let passed: &[Row] = &[("zero(FUA)", "ok", &["pwrite 8192 4096 2"])];
    let never = "def can_zero(h): return False\n";
    let native = fua("nbdkit.FUA_NATIVE");
    table(&[V2, V2_FLUSH], &[missing, flushed].concat());
    table(&[V2, V2_FLUSH, &native], &[missing, passed].concat());
    table(
        &[V2, V2_FLUSH, V2_ZERO, never],
        &[missing, flushed].concat(),
    );

    let declined = "zero 8192 4096 1";
    table(
        &[V2, V2_FLUSH, V2_ZERO_DECLINES, CAN_FAST_ZERO],
        &[
            ("zero()", "ok", &[declined, "pwrite 8192 4096 0"]),
            (
                "zero(NO_HOLE)",
                "ok",
                &["zero 8192 4096 0", "pwrite 8192 4096 0"],
            ),
            (
                "zero(FUA)",
                "ok",
                &[declined, "pwrite 8192 4096 0", "flush 0"],
            ),
            ("zero(FAST)", "ENOTSUP", &["zero 8192 4096 9"]),
        ],
    );
    table(
        &[V2, V2_FLUSH, V2_ZERO_DECLINES, &native],
        &[(
            "zero(FUA)",
            "ok",
            &["zero 8192 4096 3", "pwrite 8192 4096 2"],
        )],
    );
}

#[test]
fn fast_zeroes() {
    if !clients(&["libnbd"]) {
        return;
    }
    // Who says no means it, whatever becomes of zeroes.
    table(
        &[V2, V2_FLUSH, "def can_fast_zero(h): return False\n"],
        &[
            ("promises()", "fua flush trim zero df", &[]),
            ("zero(FAST)", "EINVAL", &[]),
        ],
    );
    // With `zero` and without `can_fast_zero` it is not offered.
    table(&[V2, V2_FLUSH, V2_ZERO], &[("zero(FAST)", "EINVAL", &[])]);
    table(
        &[V2, V2_FLUSH, V2_ZERO, CAN_FAST_ZERO],
        &[
            ("promises()", "fua flush trim zero fast_zero df", &[]),
            ("zero(FAST)", "ok", &["zero 8192 4096 9"]),
            ("zero(FAST | NO_HOLE)", "ok", &["zero 8192 4096 8"]),
            ("zero(FAST | FUA)", "ok", &["zero 8192 4096 9", "flush 0"]),
        ],
    );
    table(
        &[
            V2,
            V2_FLUSH,
            V2_ZERO,
            CAN_FAST_ZERO,
            &fua("nbdkit.FUA_NATIVE"),
        ],
        &[
            ("zero(FAST | FUA)", "ok", &["zero 8192 4096 11"]),
            ("zero(FAST | FUA | NO_HOLE)", "ok", &["zero 8192 4096 10"]),
        ],
    );
    // Version 1 cannot be told that it must be fast.
    table(
        &[V1, CAN_FAST_ZERO],
        &[
            ("zero(FAST)", "ENOTSUP", &[]),
            ("zero()", "ok", &["zero 8192 4096 True"]),
        ],
    );
}

#[test]
fn cache_hints() {
    if !clients(&["libnbd"]) {
        return;
    }
    let passed: &[Row] = &[("cache()", "ok", &["cache 4096 512 0"])];
    let level = |level: &str| format!("def can_cache(h): return nbdkit.CACHE_{level}\n");
    table(&[V2, CACHE], passed);
    table(&[V1, CACHE], passed);
    table(&[V2, CACHE, &level("NATIVE")], passed);
    // A number without a meaning, as nbdkit has it.
    table(&[V2, CACHE, "def can_cache(h): return 3\n"], passed);
    table(
        &[V2, CACHE, &level("EMULATE")],
        &[("cache()", "ok", &["pread 4096 512 0"])],
    );
    for parts in [vec![V2], vec![V2, CACHE, &level("NONE")], vec![V1]] {
        table(&parts, &[("cache()", "EINVAL", &[])]);
    }
}

#[test]
fn extents_with_and_without_req_one() {
    if !clients(&["libnbd"]) {
        return;
    }
    let all = "65536:0 65536:3 65536:0 65536:3";
    for version in [V2, V1] {
        table(
            &[version, EXTENTS],
            &[
                ("status()", all, &["extents 262144 0 0"]),
                ("status(ONE)", "65536:0", &["extents 262144 0 4"]),
            ],
        );
    }
    // Without the callback all is data, and REQ_ONE changes nothing; nor does a promise to have it.
    for parts in [&[V2][..], &[V2, "def can_extents(h): return True\n"]] {
        table(
            parts,
            &[
                ("status()", "262144:0", &[]),
                ("status(ONE)", "262144:0", &[]),
            ],
        );
    }
}

#[test]
fn reads_in_chunks_and_with_df() {
    if !clients(&["libnbd"]) {
        return;
    }
    table(
        &[V2, EXTENTS],
        &[
            (
                "read(131072)",
                "data:65536 hole:65536",
                &["extents 131072 0 0", "pread 65536 0 0"],
            ),
            ("read(131072, DF)", "data:131072", &["pread 131072 0 0"]),
            ("read(4096)", "data:4096", &["pread 4096 0 0"]),
        ],
    );
    table(
        &[V1, EXTENTS],
        &[
            (
                "read(131072)",
                "data:65536 hole:65536",
                &["extents 131072 0 0", "pread 65536 0"],
            ),
            ("read(131072, DF)", "data:131072", &["pread 131072 0"]),
        ],
    );
    for flags in ["0", "DF"] {
        let act = format!("read(131072, {flags})");
        table(&[V2], &[(&act, "data:131072", &["pread 131072 0 0"])]);
    }
}

#[test]
fn nothing_writes_to_a_read_only_export() {
    if !clients(&["libnbd"]) {
        return;
    }
    let native = fua("nbdkit.FUA_NATIVE");
    table(
        &[V2, V2_FLUSH, V2_ZERO, &native, READ_ONLY],
        &[
            ("promises()", "flush df read_only", &[]),
            ("write()", "EPERM", &[]),
            ("write(FUA)", "EPERM", &[]),
            ("zero()", "EPERM", &[]),
            ("zero(FAST)", "EPERM", &[]),
            ("trim()", "EPERM", &[]),
            ("trim(FUA)", "EPERM", &[]),
            ("flush()", "ok", &["flush 0"]),
        ],
    );
}
