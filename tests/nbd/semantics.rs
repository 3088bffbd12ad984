//! The table "From an NBD client to the plugin" of `docs/semantics.md`, replayed: libnbd asks for what a row
//! says, and the plugin must be called, and the client told, as the row says. What this file does not
//! understand fails. Below stands by hand what the table leaves out: what the server advertises, odd answers
//! of `can_fua` and `can_cache`, and what a reply consists of.

use std::io::Write;
use std::process::Stdio;

use support::nbd::{Server, clients, json, libnbd, libnbd_command};
use support::semantics::{
    Asked, Errors, headings, not_understood, promised, table as document, version_1,
};

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
";
const V2_TRIM: &str = "
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
";
const V1_TRIM: &str = "
def trim(h, count, offset): say('trim', count, offset)
";
const V1_FLUSH: &str = "
def flush(h): say('flush')
";
const V1_ZERO: &str = "
def zero(h, count, offset, may_trim):
    say('zero', count, offset, may_trim)
    store[offset:offset + count] = bytes(count)
";
const V1_ZERO_DECLINES: &str = "
def zero(h, count, offset, may_trim):
    say('zero', count, offset, may_trim)
    nbdkit.set_error(errno.EOPNOTSUPP)
    raise OSError(errno.EOPNOTSUPP, 'not here')
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

def write(flags=0, at=1024, count=512): h.pwrite(b"x" * count, at, flags)
def trim(flags=0, at=4096, count=8192): h.trim(count, at, flags)
def zero(flags=0, at=4096, count=8192): h.zero(count, at, flags)
def flush(): h.flush()
def cache(at=512, count=4096): h.cache(count, at)

def read(count, flags=0, at=0):
    """The chunks of the reply, in the order of the disk."""
    chunks = []
    def chunk(data, offset, status, error):
        kind = {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole"}.get(status, "error")
        chunks.append((offset, kind, len(data)))
    h.pread_structured(count, at, chunk, flags)
    return " ".join(f"{kind}:{length}" for _, kind, length in sorted(chunks))

def status(flags=0, at=0, count=262144):
    found = []
    def extents(context, offset, entries, error): found.extend(entries)
    h.block_status(count, at, extents, flags)
    pairs = zip(found[::2], found[1::2])
    return " ".join(f"{length}:{kind}" for length, kind in pairs)

def promises():
    asked = dict(fua=h.can_fua, flush=h.can_flush, trim=h.can_trim, zero=h.can_zero,
                 fast_zero=h.can_fast_zero, cache=h.can_cache, df=h.can_df,
                 read_only=h.is_read_only)
    return " ".join(name for name, ask in asked.items() if ask())

END = 1 << 20

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
    let acts: Vec<_> = rows.iter().map(|(act, ..)| *act).collect();
    let (seen, log) = asked(parts, &acts);
    let mut wrong = String::new();
    for (&(act, told, calls), seen) in rows.iter().zip(seen) {
        if seen != serde_json::json!([told, calls]) {
            wrong += &format!("{act}: expected {told:?} {calls:?}, seen {seen}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}{log}");
}

/// What one client is told and the plugin called with for each of `acts`, and the log.
#[track_caller]
fn asked(parts: &[&str], acts: &[&str]) -> (Vec<serde_json::Value>, String) {
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
    let mut input = client.stdin.take().unwrap();
    for act in acts {
        writeln!(input, "{act}").unwrap();
    }
    drop(input);
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut answers: Vec<_> = text.lines().map(json).collect();
    answers.resize(acts.len(), serde_json::Value::Null);
    (answers, server.log())
}

const fn of(len: u64, at: u64) -> Asked {
    Asked {
        len,
        at,
        data_len: len,
    }
}

const WRITE: Asked = of(512, 1024);
const BLOCKS: Asked = of(8192, 4096);
const STATUS: Asked = of(262_144, 0);
const HOLES: Asked = Asked {
    len: 131_072,
    at: 0,
    data_len: 65536,
};
/// Of what reaches no callback with a range.
const NONE: Asked = of(0, 0);

/// The requests of the first column, in the words of [`CLIENT`], and the range that each is about.
const REQUESTS: [(&str, Asked, &[&str]); 21] = [
    ("READ", of(4096, 0), &["read(4096)"]),
    ("READ of 64 KiB or more", HOLES, &["read(131072)"]),
    ("READ of 64 KiB or more, DF", HOLES, &["read(131072, DF)"]),
    ("WRITE", WRITE, &["write()"]),
    ("WRITE, FUA", WRITE, &["write(FUA)"]),
    ("FLUSH", NONE, &["flush()"]),
    ("TRIM", BLOCKS, &["trim()"]),
    ("TRIM, FUA", BLOCKS, &["trim(FUA)"]),
    ("WRITE_ZEROES", BLOCKS, &["zero()"]),
    ("WRITE_ZEROES, NO_HOLE", BLOCKS, &["zero(NO_HOLE)"]),
    ("WRITE_ZEROES, FUA", BLOCKS, &["zero(FUA)"]),
    (
        "WRITE_ZEROES, FUA, NO_HOLE",
        BLOCKS,
        &["zero(FUA | NO_HOLE)"],
    ),
    ("WRITE_ZEROES, FAST_ZERO", BLOCKS, &["zero(FAST)"]),
    (
        "WRITE_ZEROES, FAST_ZERO, NO_HOLE",
        BLOCKS,
        &["zero(FAST | NO_HOLE)"],
    ),
    (
        "WRITE_ZEROES, FAST_ZERO, FUA",
        BLOCKS,
        &["zero(FAST | FUA)"],
    ),
    ("CACHE", of(4096, 512), &["cache()"]),
    ("BLOCK_STATUS", STATUS, &["status()"]),
    ("BLOCK_STATUS, REQ_ONE", STATUS, &["status(ONE)"]),
    (
        "WRITE, TRIM, WRITE_ZEROES",
        NONE,
        &[
            "write()",
            "write(FUA)",
            "trim()",
            "trim(FUA)",
            "zero()",
            "zero(FAST)",
        ],
    ),
    (
        "READ, TRIM, CACHE, BLOCK_STATUS of no byte or past the end",
        NONE,
        &[
            "read(0)",
            "read(512, at=END - 511)",
            "trim(count=0)",
            "trim(at=END - 8191)",
            "cache(count=0)",
            "cache(at=END - 4095)",
            "status(count=0)",
            "status(at=END - 262143)",
        ],
    ),
    (
        "WRITE, WRITE_ZEROES of no byte or past the end",
        NONE,
        &[
            "write(count=0)",
            "write(at=END - 511)",
            "zero(count=0)",
            "zero(at=END - 8191)",
        ],
    ),
];

/// The plugins that a row can be about, each in both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plugin {
    /// Has every callback, and FUA and CACHE of its own.
    Whole,
    /// Has FUA and CACHE by the host, and does not speak of fast zeroes.
    Emulate,
    /// Does not speak of FUA.
    Silent,
    /// Does not speak of FUA, and cannot flush.
    Unflushed,
    NoFua,
    /// Has a `zero` that asks for pwrite.
    Declines,
    ReadOnly,
    /// Reads and writes, and has nothing else.
    Bare,
}

impl Plugin {
    const ALL: [Self; 8] = [
        Self::Whole,
        Self::Emulate,
        Self::Silent,
        Self::Unflushed,
        Self::NoFua,
        Self::Declines,
        Self::ReadOnly,
        Self::Bare,
    ];

    /// What stands behind the semicolon in the first column.
    fn of(condition: &str) -> &'static [Self] {
        match condition {
            ""
            | "`can_fua` NATIVE"
            | "`can_cache` NATIVE"
            | "`can_fast_zero`"
            | "`can_fast_zero`, `can_fua` NATIVE"
            | "`extents`" => &[Self::Whole],
            "EMULATE, or no `can_fua` with `flush`" => &[Self::Emulate, Self::Silent],
            "`can_cache` EMULATE" | "no `can_fast_zero`" => &[Self::Emulate],
            "NONE, or no `can_fua` and no `flush`" => &[Self::NoFua, Self::Unflushed],
            "no `flush`" => &[Self::Unflushed, Self::Bare],
            "`zero` declines" => &[Self::Declines],
            "`can_write` False" => &[Self::ReadOnly],
            "no `trim`" | "no `zero`" | "no `cache`" | "no `extents`" => &[Self::Bare],
            _ => not_understood(condition),
        }
    }

    fn parts(self, version: u32) -> Vec<String> {
        let (data, flush, trim, zero, declines) = match version {
            1 => (V1, V1_FLUSH, V1_TRIM, V1_ZERO, V1_ZERO_DECLINES),
            _ => (V2, V2_FLUSH, V2_TRIM, V2_ZERO, V2_ZERO_DECLINES),
        };
        let native = fua("nbdkit.FUA_NATIVE");
        let (emulate, none) = (fua("nbdkit.FUA_EMULATE"), fua("nbdkit.FUA_NONE"));
        let cache = |level| format!("def can_cache(h): return nbdkit.CACHE_{level}\n");
        let (cache_native, cache_emulate) = (cache("NATIVE"), cache("EMULATE"));
        let common = [data, trim, CACHE, EXTENTS];
        let own: &[&str] = match self {
            Self::Whole => &[flush, zero, CAN_FAST_ZERO, &native, &cache_native],
            Self::Emulate => &[flush, zero, &emulate, &cache_emulate],
            Self::Silent => &[flush, zero],
            Self::Unflushed => &[zero],
            Self::NoFua => &[flush, zero, &none],
            Self::Declines => &[flush, declines, CAN_FAST_ZERO],
            Self::ReadOnly => &[flush, zero, CAN_FAST_ZERO, &native, READ_ONLY],
            Self::Bare => return vec![data.to_owned()],
        };
        let parts = common.iter().chain(own);
        parts.map(|&part| part.to_owned()).collect()
    }
}

/// A row of the document.
struct Said {
    request: usize,
    plugins: &'static [Plugin],
    cells: [String; 2],
}

fn said() -> Vec<Said> {
    let columns = ["the client says", "API version 2", "API version 1"];
    let rows = document("From an NBD client to the plugin", columns).into_iter();
    let rows: Vec<_> = rows
        .map(|[says, second, first]| {
            let (request, condition) = says.split_once("; ").unwrap_or((&says, ""));
            let index = REQUESTS.iter().position(|(name, ..)| *name == request);
            Said {
                request: index.unwrap_or_else(|| not_understood(request)),
                plugins: Plugin::of(condition),
                cells: [version_1(&first, &second), second],
            }
        })
        .collect();
    for (index, (request, ..)) in REQUESTS.iter().enumerate() {
        let is_said = rows.iter().any(|row| row.request == index);
        assert!(is_said, "no row of `{request}`");
    }
    rows
}

#[test]
fn requests_arrive_as_the_document_says() {
    if !clients(&["libnbd"]) {
        return;
    }
    let rows = said();
    let mut wrong = String::new();
    for (index, version) in [1, 2].into_iter().enumerate() {
        for plugin in Plugin::ALL {
            let rows = rows.iter().filter(|row| row.plugins.contains(&plugin));
            let cases = rows.flat_map(|row| {
                let (_, range, acts) = REQUESTS[row.request];
                let cell = &row.cells[index];
                acts.iter()
                    .map(move |act| (*act, cell, promised(cell, range)))
            });
            let cases: Vec<_> = cases.collect();
            let parts = plugin.parts(version);
            let parts: Vec<_> = parts.iter().map(String::as_str).collect();
            let acts: Vec<_> = cases.iter().map(|(act, ..)| *act).collect();
            let (seen, log) = asked(&parts, &acts);
            for ((act, cell, promised), seen) in cases.iter().zip(seen) {
                let failed = seen[0].as_str().filter(|told| told.starts_with('E'));
                let calls = serde_json::json!(promised.calls);
                if failed != promised.errno.as_deref() || seen[1] != calls {
                    wrong += &format!(
                        "{act}, {plugin:?}, version {version}: promised {cell}, seen {seen}\n{log}"
                    );
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A new table is replayed, or stands here with what holds it.
#[test]
fn no_table_of_the_document_is_overlooked() {
    let known = [
        // Each row is a rule that many tests hold.
        "The promises",
        // Replayed by tests/devices/semantics.rs.
        "From the kernel to the plugin",
        // Replayed above.
        "From an NBD client to the plugin",
        // The tests of src/disk/emulate.
        "What the host makes up for",
        // Replayed by tests/devices/errors.rs, and below.
        "Errors",
        // tests/attachments/attach.rs, tests/nbd/server.rs and tests/devices/killed.rs.
        "When things end",
        // tests/devices/killed.rs.
        "nbd devices whose worker dies",
    ];
    assert_eq!(headings(), known);
}

/// Block N of 4 KiB fails with errno N, whatever is asked, and a flush with what was written last to block 0.
const FAILING: &str = "
import nbdkit
API_VERSION = 2
last = 0
def open(readonly): return 1
def get_size(h): return 1 << 20
def fail(code):
    nbdkit.set_error(code)
    raise RuntimeError('chosen')
def pread(h, buf, offset, flags): fail(offset // 4096)
def pwrite(h, buf, offset, flags):
    global last
    if offset: fail(offset // 4096)
    last = buf[0]
def flush(h, flags): fail(last)
def trim(h, count, offset, flags): fail(offset // 4096)
def zero(h, count, offset, flags): fail(offset // 4096)
def can_fast_zero(h): return True
def cache(h, count, offset, flags): fail(offset // 4096)
def extents(h, count, offset, flags): fail(offset // 4096)
";

const FAIL: &str = "
h.add_meta_context('base:allocation')
h.connect_uri(args[0])
def errnum(call, *words):
    try: call(*words)
    except nbd.Error as error: return error.errnum
    return 0
for n in range(1, 134):
    at = n * 4096
    h.pwrite(bytes([n]) * 512, 0)
    print(errnum(h.pread, 512, at), errnum(h.pread_structured, 512, at, lambda *a: 0, nbd.CMD_FLAG_DF),
          errnum(h.pwrite, bytes(512), at), errnum(h.flush), errnum(h.trim, 512, at),
          errnum(h.zero, 512, at), errnum(h.zero, 512, at, nbd.CMD_FLAG_FAST_ZERO),
          errnum(h.cache, 512, at), errnum(h.block_status, 512, at, lambda *a: 0))
";

#[test]
fn a_client_is_told_the_errnos_of_the_document() {
    if !clients(&["libnbd"]) {
        return;
    }
    let asked = [
        ("pread", ""),
        ("pread", "DF"),
        ("pwrite", ""),
        ("flush", ""),
        ("trim", ""),
        ("zero", ""),
        ("zero", "FAST_ZERO"),
        ("cache", ""),
        ("extents", ""),
    ];
    let promised = Errors::seen_by("NBD client");
    let server = Server::of_script(FAILING, &[]);
    let told = libnbd(FAIL, &[server.uri()]);
    assert_eq!(told.lines().count(), 133, "{told}");
    for (number, line) in (1..).zip(told.lines()) {
        let words = line.split(' ').map(|word| word.parse::<i32>().unwrap());
        for ((callback, with), seen) in asked.into_iter().zip(words) {
            let expected = promised.of(callback, number, with);
            assert_eq!(expected, [seen], "{callback} {with}: errno {number}");
        }
    }
    server.detach();
}

/// What is promised for FUA depends on `can_fua` and `flush`; odd answers count as EMULATE.
#[test]
fn fua_is_advertised_as_the_plugin_has_it() {
    if !clients(&["libnbd"]) {
        return;
    }
    let without: &[Row] = &[("promises()", "flush trim zero df", &[])];
    let with: &[Row] = &[("promises()", "fua flush trim zero df", &[])];
    let native = fua("nbdkit.FUA_NATIVE");
    for (can_fua, rows) in [
        ("", with),
        (&fua("nbdkit.FUA_NONE"), without),
        (&native, with),
    ] {
        table(&[V2, V2_TRIM, V2_FLUSH, V2_ZERO, can_fua], rows);
        table(&[V1, V1_TRIM, V1_FLUSH, V1_ZERO, can_fua], rows);
    }
    let flushed: Row = ("write(FUA)", "ok", &["pwrite 512 1024 0", "flush 0"]);
    table(
        &[V2, V2_TRIM, V2_FLUSH, V2_ZERO, &fua("True")],
        &[with[0], flushed],
    );
    table(
        &[V2, V2_TRIM, V2_ZERO],
        &[("promises()", "trim zero df", &[])],
    );
    table(
        &[V2, V2_TRIM, V2_ZERO, &native],
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
        &[V2, V2_TRIM, V2_FLUSH, "def can_flush(h): return False\n"],
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
        ("zero(NO_HOLE)", "ok", &["pwrite 8192 4096 0"]),
        ("zero(FAST | NO_HOLE)", "ENOTSUP", &[]),
        ("zero(FAST | FUA)", "ENOTSUP", &[]),
    ];
    let flushed: &[Row] = &[("zero(FUA)", "ok", &["pwrite 8192 4096 0", "flush 0"])];
    let passed: &[Row] = &[("zero(FUA)", "ok", &["pwrite 8192 4096 2"])];
    let never = "def can_zero(h): return False\n";
    let native = fua("nbdkit.FUA_NATIVE");
    table(&[V2, V2_TRIM, V2_FLUSH], &[missing, flushed].concat());
    table(
        &[V2, V2_TRIM, V2_FLUSH, &native],
        &[missing, passed].concat(),
    );
    table(
        &[V2, V2_TRIM, V2_FLUSH, V2_ZERO, never],
        &[missing, flushed].concat(),
    );
    table(
        &[V2, V2_FLUSH, V2_ZERO_DECLINES],
        &[
            (
                "zero(NO_HOLE)",
                "ok",
                &["zero 8192 4096 0", "pwrite 8192 4096 0"],
            ),
            (
                "zero(FUA)",
                "ok",
                &["zero 8192 4096 1", "pwrite 8192 4096 0", "flush 0"],
            ),
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
        &[
            V2,
            V2_TRIM,
            V2_FLUSH,
            "def can_fast_zero(h): return False\n",
        ],
        &[
            ("promises()", "fua flush trim zero df", &[]),
            ("zero(FAST)", "EINVAL", &[]),
        ],
    );
    let native = fua("nbdkit.FUA_NATIVE");
    let whole = [V2, V2_TRIM, V2_FLUSH, V2_ZERO, CAN_FAST_ZERO];
    table(
        &whole,
        &[
            ("promises()", "fua flush trim zero fast_zero df", &[]),
            ("zero(FAST | FUA)", "ok", &["zero 8192 4096 9", "flush 0"]),
        ],
    );
    table(
        &[&whole[..], &[&native]].concat(),
        &[("zero(FAST | FUA | NO_HOLE)", "ok", &["zero 8192 4096 10"])],
    );
}

#[test]
fn cache_hints_of_odd_plugins() {
    if !clients(&["libnbd"]) {
        return;
    }
    let passed: &[Row] = &[("cache()", "ok", &["cache 4096 512 0"])];
    table(&[V2, CACHE], passed);
    // A number without a meaning, as nbdkit has it.
    table(&[V2, CACHE, "def can_cache(h): return 3\n"], passed);
    let none = "def can_cache(h): return nbdkit.CACHE_NONE\n";
    table(&[V2, CACHE, none], &[("cache()", "EINVAL", &[])]);
}

#[test]
fn extents_with_and_without_req_one() {
    if !clients(&["libnbd"]) {
        return;
    }
    let all = "65536:0 65536:3 65536:0 65536:3";
    table(
        &[V2, EXTENTS],
        &[
            ("status()", all, &["extents 262144 0 0"]),
            ("status(ONE)", "65536:0", &["extents 262144 0 4"]),
        ],
    );
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
        ],
    );
    for flags in ["0", "DF"] {
        let act = format!("read(131072, {flags})");
        table(&[V2], &[(&act, "data:131072", &["pread 131072 0 0"])]);
    }
}

#[test]
fn a_read_only_export_advertises_no_change() {
    if !clients(&["libnbd"]) {
        return;
    }
    let native = fua("nbdkit.FUA_NATIVE");
    table(
        &[V2, V2_TRIM, V2_FLUSH, V2_ZERO, &native, READ_ONLY],
        &[
            ("promises()", "flush df read_only", &[]),
            ("flush()", "ok", &["flush 0"]),
        ],
    );
}
