//! The Python host without any front end: loading rules, callbacks, flags, errors, buffers.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pydisk::Refusal;
use pydisk::disk::{
    Cancel, Disk, Errno, Extents, Flags, Fua, Limits, Op, OpenDisk, Owner, Request,
};
use pydisk::python::{Plugin, ThreadModel};
use support::{scale, script};

/// The least that a plugin needs, with the calls of everything recorded in `CALLS`.
const BASE: &str = "
import nbdkit
CALLS = []
data = bytearray(1 << 20)
def open(readonly): CALLS.append(('open', readonly)); return 'H'
def get_size(h): return len(data)
";

const PREAD2: &str = "
API_VERSION = 2
def pread(h, buf, offset, flags):
    CALLS.append(('pread', h, len(buf), offset, flags))
    buf[:] = data[offset:offset + len(buf)]
";

const PREAD1: &str = "
def pread(h, count, offset):
    CALLS.append(('pread', h, count, offset))
    return data[offset:offset + count]
";

/// Reports `CALLS` through an exception, the one way out that every plugin has.
const TELL: &str = "
def cache(h, count, offset, flags):
    text = repr(CALLS); CALLS.clear()
    raise RuntimeError(text)
";

fn load(text: &str) -> Result<Arc<Plugin>, Refusal> {
    let (_folder, path) = script(text);
    let plugin = Plugin::load(&path)?;
    plugin.configure(&[])?;
    Ok(plugin)
}

fn open(text: &str) -> Arc<dyn OpenDisk> {
    load(text).unwrap().open(false).unwrap()
}

fn limits(text: &str) -> Limits {
    open(text).limits().clone()
}

/// The sentence with which a script is refused, wherever that happens before it is attached.
fn refusal(text: &str) -> String {
    let outcome = load(text).and_then(|plugin| plugin.open(false));
    outcome.expect_err("it is refused").to_string()
}

fn calls(disk: &dyn Disk) -> String {
    let error = disk
        .serve(Request::new(Op::Cache(1), 0))
        .unwrap_err()
        .to_string();
    let line = error.lines().next().unwrap();
    line.split_once("RuntimeError: ").unwrap().1.to_owned()
}

fn serve(disk: &dyn Disk, op: Op<'_>, at: u64, flags: Flags) -> Result<(), Errno> {
    disk.serve(Request::new(op, at).with_flags(flags))
        .map_err(|error| error.errno)
}

fn failure(disk: &dyn Disk, op: Op<'_>) -> (Errno, String) {
    let error = disk.serve(Request::new(op, 0)).unwrap_err();
    (error.errno, error.to_string())
}

#[test]
fn version_2_callbacks_get_handle_buffer_offset_and_flags() {
    let disk = open(&format!(
        "{BASE}{PREAD2}{TELL}
def can_fua(h): return nbdkit.FUA_NATIVE
def pwrite(h, buf, offset, flags):
    CALLS.append(('pwrite', h, bytes(buf[:2]), len(buf), offset, flags, buf.readonly))
def flush(h, flags): CALLS.append(('flush', h, flags))
def trim(h, count, offset, flags): CALLS.append(('trim', h, count, offset, flags))
def zero(h, count, offset, flags): CALLS.append(('zero', h, count, offset, flags))
"
    ));
    assert_eq!(calls(&*disk), "[('open', False)]");
    serve(&*disk, Op::Read(&mut [1; 4096]), 512, Flags::empty()).unwrap();
    serve(&*disk, Op::Write(&[65; 512]), 1024, Flags::empty()).unwrap();
    serve(&*disk, Op::Write(&[65; 512]), 1024, Flags::FUA).unwrap();
    serve(&*disk, Op::Flush, 0, Flags::empty()).unwrap();
    serve(&*disk, Op::Trim(8192), 4096, Flags::empty()).unwrap();
    serve(&*disk, Op::Zero(8192), 4096, Flags::MAY_TRIM).unwrap();
    serve(&*disk, Op::Zero(8192), 4096, Flags::empty()).unwrap();
    serve(&*disk, Op::Zero(8192), 4096, Flags::FAST_ZERO | Flags::FUA).unwrap();
    assert_eq!(
        calls(&*disk),
        "[('pread', 'H', 4096, 512, 0), ('pwrite', 'H', b'AA', 512, 1024, 0, True), \
         ('pwrite', 'H', b'AA', 512, 1024, 2, True), ('flush', 'H', 0), \
         ('trim', 'H', 8192, 4096, 0), ('zero', 'H', 8192, 4096, 1), \
         ('zero', 'H', 8192, 4096, 0), ('zero', 'H', 8192, 4096, 10)]"
    );
}

#[test]
fn version_1_callbacks_get_no_flags() {
    let disk = open(&format!(
        "{BASE}{PREAD1}{TELL}
def pwrite(h, buf, offset): CALLS.append(('pwrite', h, bytes(buf[:2]), len(buf), offset))
def flush(h): CALLS.append(('flush', h))
def trim(h, count, offset): CALLS.append(('trim', h, count, offset))
def zero(h, count, offset, may_trim): CALLS.append(('zero', h, count, offset, may_trim))
"
    ));
    assert_eq!(disk.limits().fua, Fua::Emulate);
    serve(&*disk, Op::Read(&mut [1; 4096]), 512, Flags::empty()).unwrap();
    serve(&*disk, Op::Write(&[65; 512]), 1024, Flags::empty()).unwrap();
    serve(&*disk, Op::Flush, 0, Flags::empty()).unwrap();
    serve(&*disk, Op::Trim(8192), 4096, Flags::empty()).unwrap();
    serve(&*disk, Op::Zero(8192), 4096, Flags::MAY_TRIM).unwrap();
    serve(&*disk, Op::Zero(8192), 4096, Flags::empty()).unwrap();
    let fast = serve(&*disk, Op::Zero(8192), 4096, Flags::FAST_ZERO);
    assert_eq!(fast, Err(Errno::OPNOTSUPP));
    assert_eq!(
        calls(&*disk),
        "[('open', False), ('pread', 'H', 4096, 512), ('pwrite', 'H', b'AA', 512, 1024), \
         ('flush', 'H'), ('trim', 'H', 8192, 4096), ('zero', 'H', 8192, 4096, True), \
         ('zero', 'H', 8192, 4096, False)]"
    );
}

#[test]
fn the_life_of_a_plugin_goes_in_nbdkits_order() {
    let (folder, path) = script(&format!(
        "{BASE}{PREAD2}
LOG = __file__ + '.log'
def log(*what):
    import builtins
    with builtins.open(LOG, 'a') as f: f.write(' '.join(map(str, what)) + '\\n')
log('top', __name__)
def config(key, value): log('config', key, value)
def config_complete(): log('config_complete')
def thread_model(): log('thread_model'); return nbdkit.THREAD_MODEL_PARALLEL
def get_ready(): log('get_ready')
def after_fork(): log('after_fork')
def preconnect(readonly): log('preconnect', readonly)
def open(readonly): log('open', readonly, repr(nbdkit.export_name())); return 1
def can_write(h): log('can_write')
def close(h): log('close', h)
def cleanup(): log('cleanup')
import atexit; atexit.register(lambda: log('atexit'))
"
    ));
    let plugin = Plugin::load(&path).unwrap();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    plugin
        .configure(&[pair("a", "1"), pair("b", "x=y"), pair("script", "z")])
        .unwrap();
    assert_eq!(plugin.thread_model(), ThreadModel::Parallel);
    plugin.get_ready().unwrap();
    plugin.after_fork().unwrap();
    let disk = plugin.open(true).unwrap();
    assert!(disk.limits().read_only && disk.limits().parallel);
    drop(disk);
    plugin.cleanup();
    plugin.cleanup();
    let log = std::fs::read_to_string(folder.path().join("plugin.py.log")).unwrap();
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        [
            "top __main__",
            "config a 1",
            "config b x=y",
            "config script z",
            "config_complete",
            "thread_model",
            "get_ready",
            "after_fork",
            "preconnect True",
            "open True ''",
            "close 1",
            "cleanup",
            "atexit",
        ]
    );
}

#[test]
fn a_plugin_without_pwrite_is_read_only_and_can_do_nothing_else() {
    let limits = limits(&format!("{BASE}{PREAD2}"));
    let least = Limits {
        strict_blocks: true,
        fast_zero: false,
        ..Limits::read_only(1 << 20)
    };
    assert_eq!(
        Limits {
            block: least.block,
            ..limits
        },
        least
    );
}

#[test]
fn pwrite_and_flush_bring_emulated_fua_and_zeroing_by_the_host() {
    let limits = limits(&format!(
        "{BASE}{PREAD2}
def pwrite(h, buf, offset, flags): pass
def flush(h, flags): pass
"
    ));
    assert!(!limits.read_only && limits.flush && !limits.zero && limits.fast_zero && !limits.trim);
    assert_eq!(limits.fua, Fua::Emulate);
}

#[test]
fn only_the_object_true_is_a_yes() {
    let limits = limits(&format!(
        "{BASE}{PREAD2}
def pwrite(h, buf, offset, flags): pass
def can_write(h): return 1
def is_rotational(h): return True
def can_multi_conn(h): return 'yes'
"
    ));
    assert!(limits.read_only && limits.rotational && !limits.multi_conn);
}

#[test]
fn can_fua_true_means_emulate() {
    let limits = limits(&format!(
        "{BASE}{PREAD2}
def pwrite(h, buf, offset, flags): pass
def flush(h, flags): pass
def can_fua(h): return True
"
    ));
    assert_eq!(limits.fua, Fua::Emulate);
}

#[test]
fn native_fua_of_a_version_1_plugin_is_emulated() {
    let limits = limits(&format!(
        "{BASE}{PREAD1}
def pwrite(h, buf, offset): pass
def flush(h): pass
def can_fua(h): return nbdkit.FUA_NATIVE
"
    ));
    assert_eq!(limits.fua, Fua::Emulate);
}

#[test]
fn block_size_may_be_a_tuple_or_a_list() {
    let block = limits(&format!(
        "{BASE}{PREAD2}\ndef block_size(h): return [4096, 65536, 1 << 20]"
    ))
    .block;
    assert_eq!(
        (block.minimum, block.preferred, block.maximum),
        (4096, 65536, 1 << 20)
    );
}

#[test]
fn nothing_is_imported_to_show_an_exception() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
import sys
def pread(h, buf, offset, flags): raise OSError(5, 'x')
def pwrite(h, buf, offset, flags): raise RuntimeError(set(sys.modules) - before)
def get_size(h):
    global before
    before = set(sys.modules)
    return len(data)
"
    ));
    failure(&*disk, Op::Read(&mut [0; 512]));
    let (_, text) = failure(&*disk, Op::Write(&[0; 512]));
    assert!(text.contains("RuntimeError: set()"), "{text}");
}

#[test]
fn a_decorator_may_add_arguments() {
    // inspect.signature shows the arguments of the function inside.
    let disk = open(&format!(
        "{BASE}{PREAD2}
import functools
def with_fill(callback):
    @functools.wraps(callback)
    def wrapper(*args): return callback(b'x', *args)
    return wrapper
@with_fill
def pread(fill, h, buf, offset, flags): buf[:] = fill * len(buf)
"
    ));
    let mut data = [0; 512];
    serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
    assert_eq!(data, [b'x'; 512]);
}

/// One test a refusal: the script's addition, and what the sentence must say.
macro_rules! refused {
    ($($name:ident: $addition:expr => $words:expr;)*) => {
        $(#[test]
        fn $name() {
            let sentence = refusal(&format!("{BASE}{PREAD2}{}", $addition));
            let first = sentence.lines().next().unwrap();
            assert!(first.contains("plugin.py: "), "{first}");
            assert!(first.contains($words), "{first}");
        })*
    };
}

refused! {
    a_syntax_error_is_refused: "def broken(:" => "SyntaxError: invalid syntax";
    a_script_that_raises_is_refused: "1/0" => "error running this script: ZeroDivisionError";
    a_script_that_exits_is_refused: "import sys; sys.exit(3)" => "ended itself: SystemExit: 3";
    a_missing_callback_is_refused: "del pread" => "`pread` is missing";
    a_callback_that_cannot_be_called_is_missing: "pread = 5" => "`pread` is missing";
    api_version_3_is_refused: "API_VERSION = 3" => "API_VERSION is `3`: versions 1 and 2 are supported";
    api_version_as_text_is_refused: "API_VERSION = '2'" => "API_VERSION is `'2'`";
    version_1_pread_under_version_2_is_refused: "def pread(h, count, offset): pass"
        => "pread: API version 2 calls it as `pread(h, buf, offset, flags)`";
    open_without_argument_is_refused: "def open(): pass" => "calls it as `open(readonly)`";
    an_async_generator_is_refused: "async def extents(h, count, offset, flags): yield 1"
        => "extents: an `async def` with `yield` in it cannot be awaited";
    an_async_generator_for_pread_is_refused: "async def pread(h, buf, offset, flags): yield 1"
        => "pread: an `async def` with `yield`";
    async_def_with_wrong_arguments_is_refused: "async def pread(h): pass"
        => "pread: API version 2 calls it as";
    a_generator_for_pread_is_refused: "def pread(h, buf, offset, flags): yield 1" => "`yield`";
    an_open_that_raises_is_refused: "def open(readonly): raise KeyError('no')" => "open: KeyError: 'no'";
    a_negative_size_is_refused: "def get_size(h): return -5" => "get_size: returned `-5`";
    a_size_of_a_float_is_refused: "def get_size(h): return 1e6" => "get_size: returned `1000000.0`";
    a_size_of_none_is_refused: "def get_size(h): return None" => "get_size: returned `None`";
    a_size_above_63_bits_is_refused: "def get_size(h): return 1 << 63" => "get_size: returned `92233";
    can_write_that_raises_is_refused: "def can_write(h): raise OSError(5, 'x')" => "can_write: OSError: [Errno 5] x";
    can_fua_none_is_refused: "def pwrite(h, b, o, f): pass\ndef can_fua(h): pass"
        => "can_fua: returned `None`";
    fua_emulate_without_flush_is_refused: "def pwrite(h, b, o, f): pass\ndef can_fua(h): return 1"
        => "no `flush`";
    thread_model_text_is_refused: "def thread_model(): return 'x'" => "thread_model: returned `'x'`";
    config_complete_that_raises_is_refused: "def config_complete(): raise ValueError('size= is needed')"
        => "config_complete: ValueError: size= is needed";
    block_size_int_is_refused: "def block_size(h): return 4096" => "block_size: returned `4096`: a tuple";
    block_size_rules_are_checked: "def block_size(h): return (3, 4096, 8192)" => "power of two";
    a_preferred_size_above_the_maximum_is_refused: "def block_size(h): return (1, 4096, 1024)"
        => "the preferred size must not be above the maximum";
    a_maximum_below_the_minimum_is_refused: "def block_size(h): return (4096, 4096, 512)" => "multiple of the minimum";
}

/// The whole refusal of a script of these lines, without the place where it lies.
fn refusal_of(text: &str) -> String {
    let (folder, path) = script(text);
    let outcome = Plugin::load(&path).and_then(|plugin| {
        plugin.configure(&[])?;
        plugin.open(false)
    });
    let folder = format!("{}/", folder.path().display());
    outcome
        .expect_err("it is refused")
        .to_string()
        .replace(&folder, "")
}

#[test]
fn a_syntax_error_is_shown_with_line_and_caret() {
    let refusal = refusal_of("x = 1\ndef broken(:\n    pass\n");
    let first =
        "plugin.py: error running this script: SyntaxError: invalid syntax (plugin.py, line 2)\n";
    let place = "  File \"plugin.py\", line 2\n    def broken(:\n               ^";
    assert_eq!(refusal, format!("{first}{place}"));
}

/// One test a refusal: the script's addition, how the sentence begins, and whether a traceback follows.
macro_rules! told {
    ($($name:ident: $addition:expr => $words:expr, $traced:expr;)*) => {
        $(#[test]
        fn $name() {
            let refusal = refusal_of(&format!("{BASE}{PREAD2}import json, os\n{}", $addition));
            assert!(refusal.starts_with(concat!("plugin.py: ", $words)), "{refusal}");
            assert_eq!(refusal.contains("\nTraceback "), $traced, "{refusal}");
            assert_eq!(refusal.lines().count() > 1, $traced, "{refusal}");
        })*
    };
}

told! {
    what_a_script_says_of_its_parameters_is_one_sentence:
        "def config_complete(): raise ValueError('size=SIZE is needed')" =>
        "config_complete: ValueError: size=SIZE is needed", false;
    what_nbdkit_says_of_a_parameter_is_one_sentence:
        "def config_complete(): nbdkit.parse_size('much')" =>
        "config_complete: ValueError: Unable to parse string as size: ", false;
    what_the_system_says_of_a_parameter_is_one_sentence:
        "def config_complete(): os.stat('/no/such')" =>
        "config_complete: FileNotFoundError: [Errno 2] No such file or directory: '/no/such'", false;
    a_file_that_cannot_be_opened_is_one_sentence:
        "def open(readonly): os.stat('/no/such')" =>
        "open: FileNotFoundError: [Errno 2] No such file or directory: '/no/such'", false;
    another_exception_of_config_has_its_traceback:
        "def config_complete(): {}['x']" => "config_complete: KeyError: 'x'", true;
    what_a_module_says_to_config_has_its_traceback:
        "def config_complete(): json.loads('{')" => "config_complete: JSONDecodeError: ", true;
    another_exception_of_open_has_its_traceback:
        "def open(readonly): int('x')" => "open: ValueError: ", true;
    an_exception_of_another_callback_has_its_traceback:
        "def thread_model(): raise OSError(5, 'x')" => "thread_model: OSError: [Errno 5] x", true;
}

#[test]
fn a_relative_path_is_not_hinted_at_in_the_folder_of_the_user() {
    let opens = "import os\ndef open(readonly): os.stat('no-such.img')";
    let refusal = refusal_of(&format!("{BASE}{PREAD2}{opens}"));
    assert!(!refusal.contains("hint: "), "{refusal}");
}

#[test]
fn a_relative_path_is_hinted_at_in_the_folder_of_a_worker() {
    std::env::set_current_dir("/").unwrap();
    let (_folder, path) = script(&format!(
        "{BASE}{PREAD2}
import builtins, os, subprocess
WAYS = [
    lambda: builtins.open('no-such.img'),
    lambda: os.stat(b'no-such.img'),
    lambda: builtins.open('/no-such.img'),
    lambda: subprocess.run(['no-such-program']),
    lambda: os.stat(99),
]
def open(readonly): WAYS.pop(0)()
"
    ));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    for hinted in [true, true, false, false, false] {
        let refusal = plugin.open(false).unwrap_err().to_string();
        let hint = "\nhint: `open` runs in the folder `/`: let `config`, which does not, make the path absolute by \
                    `os.path.abspath(value)`";
        assert_eq!(refusal.ends_with(hint), hinted, "{refusal}");
        assert_eq!(refusal.contains("hint: "), hinted, "{refusal}");
    }
}

#[test]
fn a_module_that_is_not_found_is_hinted_at() {
    let refusal = refusal_of("import no_such_module.part");
    let hint = "\nhint: install `no_such_module` for the Python that runs plugins, 3.";
    assert!(refusal.contains(hint), "{refusal}");
}

#[test]
fn a_module_that_a_callback_does_not_find_is_hinted_at() {
    let import = "def open(readonly): import no_such_module";
    let refusal = refusal_of(&format!("{BASE}{PREAD2}{import}"));
    assert!(
        refusal.contains("\nhint: install `no_such_module` for"),
        "{refusal}"
    );
}

#[test]
fn a_missing_part_of_a_module_that_is_there_is_no_matter_of_installing() {
    let refusal = refusal_of("import os.no_such_part");
    assert!(!refusal.contains("hint: "), "{refusal}");
}

#[test]
fn a_module_beside_the_plugin_is_hinted_at() {
    let (folder, path) = script("import helper");
    std::fs::write(folder.path().join("helper.py"), "").unwrap();
    let refusal = Plugin::load(&path).unwrap_err().to_string();
    assert!(
        refusal.contains("\nhint: `helper` lies beside the plugin, whose folder is not searched: "),
        "{refusal}"
    );
}

#[test]
fn a_missing_file_is_refused() {
    let refusal = Plugin::load(Path::new("/nowhere/x.py"))
        .unwrap_err()
        .to_string();
    assert_eq!(
        refusal,
        "/nowhere/x.py: cannot open file: No such file or directory"
    );
}

#[test]
fn parameters_for_a_plugin_without_config_are_refused() {
    let (_folder, path) = script(&format!("{BASE}{PREAD2}"));
    let plugin = Plugin::load(&path).unwrap();
    let refusal = plugin
        .configure(&[("a".to_owned(), "b".to_owned())])
        .unwrap_err()
        .to_string();
    assert!(
        refusal.ends_with("this plugin takes no parameters, but got `a=b`"),
        "{refusal}"
    );
}

#[test]
fn close_is_called_when_a_capability_is_refused() {
    let (folder, path) = script(&format!(
        "{BASE}{PREAD2}
import os
def get_size(h): raise OSError(1, 'no')
def close(h): os.mkdir(__file__ + '.closed')
"
    ));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    plugin.open(false).unwrap_err();
    assert!(folder.path().join("plugin.py.closed").is_dir());
}

#[test]
fn an_exception_is_eio_with_its_traceback() {
    let disk = open(&format!(
        "{BASE}{PREAD2}\ndef pread(h, buf, offset, flags): raise OSError(28, 'full')"
    ));
    let (errno, text) = failure(&*disk, Op::Read(&mut [0; 512]));
    assert_eq!(errno, Errno::IO);
    let first = text.lines().next().unwrap();
    assert!(
        first.ends_with("plugin.py: pread: OSError: [Errno 28] full"),
        "{text}"
    );
    assert!(
        text.contains("Traceback (most recent call last):"),
        "{text}"
    );
    assert!(text.contains("in pread"), "{text}");
}

#[test]
fn set_error_chooses_the_errno() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
codes = []
def config(k, v): pass
def pread(h, buf, offset, flags):
    code = [28, 30, 1, 0, 9999, -3, 95, 133, 134, 512][offset // 512]
    nbdkit.set_error(code); raise RuntimeError('x')
"
    ));
    let expected = [
        Errno::NOSPC,
        Errno::ROFS,
        Errno::PERM,
        Errno::IO,
        Errno::INVAL,
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::HWPOISON,
        // Above the last error number; 512 is the kernel's own ERESTARTSYS.
        Errno::INVAL,
        Errno::INVAL,
    ];
    for (block, errno) in (0..).zip(expected) {
        let outcome = serve(&*disk, Op::Read(&mut [0; 512]), block * 512, Flags::empty());
        assert_eq!(outcome, Err(errno), "block {block}");
    }
}

#[test]
fn set_error_without_an_exception_fails_the_request() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def pread(h, buf, offset, flags): nbdkit.set_error(28)
"
    ));
    let (errno, text) = failure(&*disk, Op::Read(&mut [0; 512]));
    assert_eq!(errno, Errno::NOSPC);
    assert!(text.contains("returned without raising"), "{text}");
}

#[test]
fn an_error_is_forgotten_when_the_next_request_starts() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def pread(h, buf, offset, flags):
    if offset == 0: nbdkit.set_error(28); raise RuntimeError('x')
    raise RuntimeError('y')
"
    ));
    assert_eq!(
        serve(&*disk, Op::Read(&mut [0; 512]), 0, Flags::empty()),
        Err(Errno::NOSPC)
    );
    assert_eq!(
        serve(&*disk, Op::Read(&mut [0; 512]), 512, Flags::empty()),
        Err(Errno::IO)
    );
}

#[test]
fn odd_exceptions_are_eio_and_the_process_lives() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
import sys
class Bad(Exception):
    def __str__(self): raise ValueError('no text')
def deep(): deep()
def pread(h, buf, offset, flags):
    n = offset // 512
    if n == 0: raise Exception('\\udc80 surrogate')
    if n == 1: raise Bad()
    if n == 2: deep()
    if n == 3: sys.exit(7)
    if n == 4: raise KeyboardInterrupt
    if n == 5: raise BaseException
    if n == 6: buf[:] = b'too short'
    if n == 7: raise Exception('many\\nlines')
    if n == 8: raise ExceptionGroup('g', [ValueError(1), KeyError(2)])
    if n == 9: del globals()['pread']
"
    ));
    for block in 0..9 {
        let outcome = serve(&*disk, Op::Read(&mut [0; 512]), block * 512, Flags::empty());
        assert_eq!(outcome, Err(Errno::IO), "case {block}");
    }
    assert_eq!(
        serve(&*disk, Op::Read(&mut [0; 512]), 9 * 512, Flags::empty()),
        Ok(())
    );
    let (errno, text) = failure(&*disk, Op::Read(&mut [0; 512]));
    assert_eq!(errno, Errno::IO);
    assert!(text.contains("pread not implemented"), "{text}");
}

#[test]
fn a_callback_bound_anew_is_used_from_then_on() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def second(h, buf, offset, flags): buf[:] = b'2' * len(buf)
def pread(h, buf, offset, flags):
    global pread
    pread = second
    buf[:] = b'1' * len(buf)
"
    ));
    let mut data = [0; 4];
    serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
    assert_eq!(&data, b"1111");
    serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
    assert_eq!(&data, b"2222");
}

#[test]
fn version_1_pread_returns_any_buffer_of_enough_bytes() {
    let disk = open(&format!(
        "{BASE}
import array
def pread(h, count, offset):
    n = offset // 512
    if n == 0: return b'x' * count
    if n == 1: return bytearray(b'x' * count)
    if n == 2: return b'x' * (count + 10)
    if n == 3: return memoryview(b'x' * count)
    if n == 4: return array.array('I', [0x78787878] * (count // 4))
    if n == 5: return b'x' * (count - 1)
    if n == 6: return 'x' * count
    if n == 7: return None
    if n == 8: return memoryview(b'x' * (2 * count))[::2]
"
    ));
    for block in 0..9 {
        let mut data = [0; 512];
        let outcome = serve(&*disk, Op::Read(&mut data), block * 512, Flags::empty());
        if block < 5 {
            assert_eq!((outcome, data), (Ok(()), [b'x'; 512]), "case {block}");
        } else {
            assert_eq!(outcome, Err(Errno::IO), "case {block}");
        }
    }
}

#[test]
fn what_pread_does_not_fill_reads_as_zeroes() {
    let disk = open(&format!(
        "{BASE}{PREAD2}\ndef pread(h, buf, offset, flags): buf[:2] = b'ab'"
    ));
    let mut data = [0xAA; 512];
    serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
    assert_eq!((&data[..2], &data[2..]), (&b"ab"[..], &[0; 510][..]));
}

#[test]
fn declining_to_zero_is_enotsup_however_it_is_said() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def pwrite(h, buf, offset, flags): pass
def zero(h, count, offset, flags):
    if offset == 0: nbdkit.set_error(95); raise RuntimeError('x')
    if offset == 512: nbdkit.set_error(95)
    if offset == 1024: raise OSError(95, 'not chosen by set_error')
"
    ));
    assert_eq!(
        serve(&*disk, Op::Zero(512), 0, Flags::empty()),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(
        serve(&*disk, Op::Zero(512), 512, Flags::empty()),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(
        serve(&*disk, Op::Zero(512), 1024, Flags::empty()),
        Err(Errno::IO)
    );
}

#[test]
fn lengths_above_32_bits_come_in_pieces() {
    let disk = open(&format!(
        "{BASE}{PREAD2}{TELL}
def get_size(h): return 1 << 40
def pwrite(h, buf, offset, flags): pass
def trim(h, count, offset, flags): CALLS.append((count, offset))
"
    ));
    serve(&*disk, Op::Trim(10 << 30), 4096, Flags::empty()).unwrap();
    assert_eq!(
        calls(&*disk),
        "[('open', False), (4294901760, 4096), (4294901760, 4294905856), (2147614720, 8589807616)]"
    );
}

#[test]
fn extents_follow_nbdkits_rules() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def generated(n, offset):
    if n == 1: yield (65536, 10, 0); yield (80000, 100, 0)
    if n == 2: return
    if n == 3: yield [offset, 65536, 0]
    if n == 4: yield (offset, 10, 0); raise ValueError('midway')
    if n == 5: yield (offset + 1, 10, 0)
    if n == 6: yield (0, 1 << 20, 2)
    if n == 7: yield (offset, 65536, 0); nbdkit.set_error(28)
def extents(h, count, offset, flags):
    if offset < 65536: return [(0, 65536, 3), (65536, 1 << 19, 0)]
    return generated(offset // 65536, offset)
"
    ));
    let ask = |range: std::ops::Range<u64>| {
        let mut found = Extents::starting_at(range.start);
        disk.extents(range, &mut found).map(|()| {
            found
                .list()
                .iter()
                .map(|extent| (extent.at, extent.len, extent.kind.bits()))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        ask(4096..131072).unwrap(),
        [(4096, 61440, 3), (65536, 65536, 0)]
    );
    for (block, words) in [
        (1, "without gaps"),
        (2, "not be empty"),
        (3, "must be a tuple"),
        (4, "midway"),
        (5, "at or before"),
    ] {
        let error = ask(block * 65536..(block + 1) * 65536).unwrap_err();
        assert_eq!(error.errno, Errno::IO);
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = ask(7 * 65536..8 * 65536).unwrap_err();
    assert_eq!(error.errno, Errno::NOSPC, "{error}");
    assert_eq!(ask(6 * 65536..7 * 65536).unwrap(), [(6 * 65536, 65536, 2)]);
}

#[test]
fn a_kept_buffer_never_shows_another_requests_bytes() {
    let disk = open(&format!(
        "{BASE}
API_VERSION = 2
import threading
import numpy
kept = []
found = []
def check():
    for way, thing, byte in kept:
        try:
            seen = bytes(thing)
        except ValueError:
            if way != 'plain': found.append((way, 'released'))
            continue
        if way == 'plain': found.append((way, 'still usable'))
        if any(b != byte for b in seen): found.append((way, 'foreign bytes'))
def keep(buf, byte, n):
    if len(kept) > 60: check(); del kept[:50]
    way = ['plain', 'slice', 'cast', 'numpy', 'object', 'thread'][n % 6]
    if way == 'plain': kept.append((way, buf, byte))
    elif way == 'slice': kept.append((way, buf[8:16], byte))
    elif way == 'cast': kept.append((way, buf.cast('B', (buf.nbytes // 16, 16)), byte))
    elif way == 'numpy': kept.append((way, numpy.frombuffer(buf, 'u1')[::3], byte))
    elif way == 'object':
        try:
            memoryview(buf.obj)
            found.append((way, 'exported again'))
        except BufferError: pass
    elif way == 'thread':
        t = threading.Thread(target=lambda piece=buf[1:]: sum(piece))
        t.start(); kept.append((way, buf[2:3], byte))
count = 0
def pread(h, buf, offset, flags):
    global count
    count += 1
    if bytes(buf) != bytes(len(buf)): found.append(('pread', 'not zeroed'))
    byte = offset // 512 % 251 + 1
    buf[:] = bytes([byte]) * len(buf)
    keep(buf, byte, count)
def pwrite(h, buf, offset, flags):
    global count
    count += 1
    keep(buf, buf[0], count // 3)
def flush(h, flags):
    check()
    assert not found, found[:5]
"
    ));
    let mut own = [0_u8; 4096];
    for request in 0..u64::from(scale(100_000)) {
        let len = if request % 7 == 0 { 4096 } else { 512 };
        if request % 2 == 0 {
            serve_kept(&*disk, &mut own[..len], None, request);
        } else {
            // Memory that lives on, as a front end lends it: never used for a second request.
            let owner: Owner = Arc::new(());
            serve_kept(
                &*disk,
                Box::leak(vec![0_u8; len].into()),
                Some(&owner),
                request,
            );
        }
    }
    disk.serve(Request::new(Op::Flush, 0))
        .unwrap_or_else(|error| panic!("{error}"));
}

/// One write in three, else a read; the plugin derives the byte from the offset.
fn serve_kept(disk: &dyn Disk, data: &mut [u8], owner: Option<&Owner>, request: u64) {
    let block = request % 2000;
    let byte = u8::try_from(block % 251 + 1).unwrap();
    if request.is_multiple_of(3) {
        data.fill(byte);
        disk.serve(Request {
            owner,
            ..Request::new(Op::Write(data), block * 512)
        })
        .unwrap();
    } else {
        disk.serve(Request {
            owner,
            ..Request::new(Op::Read(data), block * 512)
        })
        .unwrap();
    }
    assert!(data.iter().all(|seen| *seen == byte), "request {request}");
}

#[test]
fn extents_of_an_endless_hole_come_in_parts() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def get_size(h): return 1 << 50
def extents(h, count, offset, flags):
    CALLS.append(offset)
    return [(offset, count, 3)]
def pwrite(h, buf, offset, flags): raise RuntimeError(len(CALLS))
"
    ));
    let mut found = Extents::starting_at(4096);
    disk.extents(4096..1 << 50, &mut found).unwrap();
    assert!((1 << 40..1 << 49).contains(&found.end()), "{found:?}");
    let (_, text) = failure(&*disk, Op::Write(&[0; 512]));
    assert!(text.contains("RuntimeError: 4097"), "{text}");
}

#[test]
fn a_view_that_is_stolen_keeps_its_memory() {
    // A finaliser that runs while the view is being made (CPython runs the collector there up to
    // 3.11) takes the one export. The request fails, and the thief sees its memory, nobody else's.
    let disk = open(&format!(
        "{BASE}
API_VERSION = 2
import gc
exporter = None
stolen = []
class Thief:
    def __init__(self): self.me = self
    def __del__(self):
        try: stolen.append(memoryview(exporter))
        except BufferError: pass
def pread(h, buf, offset, flags):
    global exporter
    exporter = buf.obj
    gc.collect()
    Thief(); Thief()
    gc.set_threshold(1, 1, 1)
"
    ));
    for _ in 0..1000 {
        let bytes: Arc<[u8; 512]> = Arc::new([0; 512]);
        let owner: Owner = bytes.clone();
        let mut data = [0; 512];
        let request = Request {
            owner: Some(&owner),
            ..Request::new(Op::Read(&mut data), 0)
        };
        let stolen = disk.serve(request).is_err();
        // Ours are two.
        assert_eq!(Arc::strong_count(&bytes), if stolen { 3 } else { 2 });
    }
}

/// What the plugin's threads get of the interpreter before a request may have it, in microseconds.
fn switch_interval_us(addition: &str) -> u32 {
    let disk = open(&format!(
        "{BASE}
API_VERSION = 2
import sys
{addition}
def pread(h, buf, offset, flags):
    buf[:4] = round(sys.getswitchinterval() * 1e6).to_bytes(4, 'little')
"
    ));
    let mut data = [0; 512];
    serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
    u32::from_le_bytes(data[..4].try_into().unwrap())
}

/// A thread of the plugin that computes does not starve requests: CPython's own interval is 5 ms.
#[test]
fn threads_that_compute_give_way_after_half_a_millisecond() {
    assert_eq!(switch_interval_us(""), 500);
}

#[test]
fn a_script_may_have_a_switch_interval_of_its_own() {
    assert_eq!(switch_interval_us("sys.setswitchinterval(3)"), 3_000_000);
}

/// To Python it is one thread, too, whoever asks.
#[test]
fn the_thread_of_a_serialised_handle_keeps_what_open_left_in_it() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
import threading
local = threading.local()
def open(readonly): local.own = 7
def pread(h, buf, offset, flags): buf[:] = bytes([local.own]) * len(buf)
"
    ));
    let read = || {
        let mut data = [0; 16];
        serve(&*disk, Op::Read(&mut data), 0, Flags::empty()).unwrap();
        assert_eq!(data, [7; 16]);
    };
    read();
    std::thread::scope(|scope| {
        scope.spawn(|| disk.lane(&mut || read()));
        scope.spawn(read);
    });
    read();
}

/// The thread that asks is not the one that serves: the handle has its own.
#[test]
fn who_has_gone_is_heard_of_on_the_thread_of_the_handle() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def extents(h, count, offset, flags): return [(offset, 512, 0)]
"
    ));
    assert!(!disk.limits().parallel);
    let asked = AtomicU32::new(0);
    let cancel = Cancel::unless(move || asked.fetch_add(1, Ordering::Relaxed) < 3);
    let mut found = Extents::starting_at(0).with_cancel(Some(&cancel));
    let error = disk.extents(0..8192, &mut found).unwrap_err();
    assert_eq!(error.errno, Errno::SHUTDOWN);
    assert_eq!(found.end(), 3 * 512);
}

/// A million at full scale.
#[test]
fn memory_stays_flat_over_requests() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
"
    ));
    let mut data = vec![0; 4096];
    let run = |data: &mut [u8], count: u64| {
        for request in 0..count {
            let at = request % 256 * 4096;
            if request % 2 == 0 {
                serve(&*disk, Op::Write(data), at, Flags::empty()).unwrap();
            } else {
                serve(&*disk, Op::Read(data), at, Flags::empty()).unwrap();
            }
        }
    };
    run(&mut data, 20_000);
    let before = support::resident_bytes();
    run(&mut data, u64::from(scale(1_000_000)));
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 2 << 20, "grew by {grown} bytes");
}

/// A hundred thousand at full scale.
#[test]
fn memory_stays_flat_over_exceptions() {
    let disk = open(&format!(
        "{BASE}{PREAD2}
def pread(h, buf, offset, flags):
    big = bytearray(100000)
    try: int('x')
    except ValueError as e: raise OSError(5, 'failed') from e
"
    ));
    let run = |count: u32| {
        for _ in 0..count {
            serve(&*disk, Op::Read(&mut [0; 512]), 0, Flags::empty()).unwrap_err();
        }
    };
    run(1000);
    let before = support::resident_bytes();
    run(scale(100_000));
    let grown = support::resident_bytes().saturating_sub(before);
    assert!(grown < 2 << 20, "grew by {grown} bytes");
}

/// Memory of a request that tells how often it is held.
fn lent(len: usize) -> (Arc<Vec<u8>>, Owner) {
    let memory = Arc::new(vec![0; len]);
    let owner: Owner = memory.clone();
    (memory, owner)
}

#[test]
fn memory_that_many_threads_keep_is_let_go() {
    let disk = open(&format!(
        "{BASE}
API_VERSION = 2
import collections, threading, time
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def block_size(h): return (1, 4096, 1 << 20)
kept = collections.deque()
wrong = []
def look():
    for view, byte in list(kept):
        if bytes(view) != bytes([byte]) * len(view): wrong.append((byte, view[0]))
def watch():
    while True: look(); time.sleep(0.001)
threading.Thread(target=watch, daemon=True).start()
def pread(h, buf, offset, flags):
    byte = offset % 251
    if any(buf): wrong.append('not zeroed')
    buf[:5] = bytes([byte]) * 5
    time.sleep(0)
    buf[5:] = bytes([byte]) * (len(buf) - 5)
    if offset % 2:
        kept.append((buf[1:], byte))
        if len(kept) > 100: kept.popleft()
def pwrite(h, buf, offset, flags):
    look()
    kept.clear()
    if wrong: raise AssertionError(wrong[0])
"
    ));
    let after = std::sync::Mutex::new(Vec::new());
    // Threads come and go, as lanes do, and end without Python.
    for _ in 0..4 {
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let (disk, after) = (&disk, &after);
                scope.spawn(move || {
                    for round in 0..200_u64 {
                        let at = round * 16 + thread;
                        let (memory, owner) = lent(0);
                        let mut data = Box::new([0; 512]);
                        // The front end keeps a page as long as anybody else holds its owner.
                        let own = round % 3 == 0;
                        let request = Request {
                            owner: (!own).then_some(&owner),
                            ..Request::new(Op::Read(&mut *data), at)
                        };
                        disk.serve(request)
                            .unwrap_or_else(|error| panic!("{error}"));
                        let byte = u8::try_from(at % 251).unwrap();
                        assert!(data.iter().all(|seen| *seen == byte), "{at}");
                        drop(owner);
                        let keeps = at % 2 == 1 && !own;
                        if !keeps {
                            assert_eq!(Arc::strong_count(&memory), 1, "{at}");
                        }
                        after.lock().unwrap().push((memory, data));
                    }
                });
            }
        });
    }
    let after = after.into_inner().unwrap();
    let held = || {
        after
            .iter()
            .filter(|(memory, _)| Arc::strong_count(memory) > 1)
            .count()
    };
    assert!(held() > 0, "the plugin keeps some");
    serve(&*disk, Op::Write(&[0; 512]), 0, Flags::empty()).unwrap();
    // The watcher may hold the last views for a moment longer.
    for _ in 0..6000 {
        if held() == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(held(), 0, "memory is held after all views are gone");
}

#[test]
fn tracebacks_show_the_script_as_it_ran() {
    // By the time of the exception the file is gone.
    let disk = open(&format!(
        "{BASE}API_VERSION = 2\ndef pread(h, buf, offset, flags):\n    raise ValueError('x')  # this line\n"
    ));
    let (_, text) = failure(&*disk, Op::Read(&mut [0; 512]));
    assert!(
        text.contains("raise ValueError('x')  # this line"),
        "{text}"
    );
}
