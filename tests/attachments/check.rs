//! `pydisk check` on plugins that are broken on purpose: each is found, by name and line; and on
//! plugins that are not.

use std::process::Output;

use support::device::pydisk;
use support::{repository, script};

/// A disk of 256 KiB in memory that does everything right. Parts of it are replaced by mistakes.
const RIGHT: &str = "import nbdkit
API_VERSION = 2
data = bytearray(256 << 10)
def open(readonly): return None
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
def flush(h, flags): pass
def trim(h, count, offset, flags): data[offset:offset + count] = bytes(count)
def zero(h, count, offset, flags): data[offset:offset + count] = bytes(count)
def extents(h, count, offset, flags): yield (offset, count, 0)
def can_fua(h): return nbdkit.FUA_NATIVE
";

struct Checked {
    status: i32,
    said: String,
    complaints: String,
}

fn checked(text: &str, options: &[&str]) -> Checked {
    let (folder, path) = script(text);
    let mut args = vec!["check", "--steps", "100"];
    if !options.contains(&"--seed") {
        args.extend(["--seed", "5"]);
    }
    args.extend(options);
    args.push(path.to_str().unwrap());
    let Output {
        status,
        stdout,
        stderr,
    } = pydisk(args);
    let folder = format!("{}/", folder.path().display());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder, "");
    Checked {
        status: status.code().unwrap(),
        said: text(&stdout),
        complaints: text(&stderr),
    }
}

/// One test a mistake: what of the right plugin is replaced by what, and how the report begins.
macro_rules! broken {
    ($($name:ident: $right:expr => $wrong:expr, $said:expr;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!(RIGHT.matches($right).count(), 1, "`{}`", $right);
            let text = RIGHT.replace($right, $wrong);
            let Checked { status, said, complaints } = checked(&text, &["--write"]);
            assert_eq!(status, 1, "{said}{complaints}");
            assert!(
                said.lines().any(|line| line.starts_with(concat!("plugin.py:", $said))),
                "{said}{complaints}"
            );
            assert!(said.contains("seed 5: "), "{said}");
        }
    )*};
}

broken! {
    a_write_that_loses_its_last_byte:
        "data[offset:offset + len(buf)] = buf" => "data[offset:offset + len(buf) - 1] = buf[:-1]",
        "7: pwrite: byte ";
    a_write_to_the_wrong_place:
        "data[offset:offset + len(buf)] = buf" =>
        "offset = offset // 8192 * 8192; data[offset:offset + len(buf)] = buf",
        "7: pwrite: byte ";
    a_disk_that_grows:
        "data[offset:offset + len(buf)] = buf" => "data[offset:offset] = buf",
        "7: pwrite: byte ";
    a_read_that_fills_too_little:
        "buf[:] = data[offset:offset + len(buf)]" =>
        "n = min(len(buf), 4096); buf[:n] = data[offset:offset + n]",
        "7: pwrite: byte ";
    a_read_that_fails_at_the_end:
        "buf[:] = data[offset:offset + len(buf)]" => "buf[:] = data[offset:offset + len(buf)][:262143 - offset]",
        "6: pread: 1 bytes at 262143: ValueError: ";
    a_read_that_is_never_the_same:
        "buf[:] = data[offset:offset + len(buf)]" => "import os; buf[:] = os.urandom(len(buf))",
        "6: pread: byte ";
    a_zero_that_does_nothing:
        "def zero(h, count, offset, flags): data[offset:offset + count] = bytes(count)" =>
        "def zero(h, count, offset, flags): pass",
        "10: zero: byte ";
    a_zero_that_only_trims_when_it_may:
        "def zero(h, count, offset, flags): data[offset:offset + count] = bytes(count)" =>
        "def zero(h, count, offset, flags):
    if flags & nbdkit.FLAG_MAY_TRIM: data[offset:offset + count] = bytes(count)",
        "10: zero: byte ";
    a_trim_that_raises:
        "def trim(h, count, offset, flags): data[offset:offset + count] = bytes(count)" =>
        "def trim(h, count, offset, flags): raise OSError(28, 'full')",
        "9: trim: ";
    a_flush_that_raises: "def flush(h, flags): pass" => "def flush(h, flags): h.sync()",
        "8: flush: called: AttributeError: ";
    a_trim_that_reaches_too_far:
        "def trim(h, count, offset, flags): data[offset:offset + count] = bytes(count)" =>
        "def trim(h, count, offset, flags): data[offset:offset + count + 1] = bytes(len(data[offset:offset + count + 1]))",
        "7: pwrite: byte ";
    extents_that_lie: "yield (offset, count, 0)" => "yield (offset, count, 2)",
        "11: extents: ";
    extents_with_a_gap: "yield (offset, count, 0)" => "yield (offset, 1, 0); yield (offset + 2, 1, 0)",
        "11: extents: ";
    extents_as_lists: "yield (offset, count, 0)" => "yield [offset, count, 0]",
        "11: extents: gives the list `[offset, count, 0]`";
    a_kept_buffer: "data[offset:offset + len(buf)] = buf" => "kept.append(buf[:1]); data[offset:offset + len(buf)] = buf
kept = []",
        "7: pwrite: keeps its buffer";
    a_truthy_answer: "def can_fua(h): return nbdkit.FUA_NATIVE" => "def can_flush(h): return len(data)",
        "12: can_flush: returned `262144`, which counts as False";
    a_set_error_without_raising: "def flush(h, flags): pass" => "def flush(h, flags): nbdkit.set_error(5)",
        "8: flush: called: called nbdkit.set_error and returned without raising";
    a_typo: "def flush(h, flags): pass" => "def fulsh(h, flags): pass",
        "8: fulsh: is no callback and nothing uses it: is `flush` meant?";
    a_close_that_raises: "def flush(h, flags): pass" => "def close(h): h.close()",
        "8: close: AttributeError: ";
    a_cleanup_that_raises: "def flush(h, flags): pass" => "def cleanup(): raise OSError('no')",
        "8: cleanup: OSError: no";
    an_empty_disk: "def get_size(h): return len(data)" => "def get_size(h): return 0",
        "5: get_size: returns 0";
    a_size_that_is_no_multiple_of_the_block:
        "def can_fua(h): return nbdkit.FUA_NATIVE" => "def block_size(h): return (65536, 65536, 65536 * 5)
data = bytearray(70000)",
        "12: block_size: the minimum is 65536, but the size of 70000";
    a_parallel_plugin_that_shares_a_position:
        "def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]" =>
        "import io, time
file = None
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def get_ready():
    global file
    file = io.BytesIO(bytes(range(256)) * 1024)
def pread(h, buf, offset, flags):
    file.seek(offset)
    time.sleep(0.0001)
    file.readinto(buf)",
        "8: thread_model: says that callbacks may overlap, but byte ";
}

#[test]
fn connections_that_do_not_see_each_other() {
    let text = RIGHT.replace("data[offset", "h[offset").replace(
        "return None",
        "return bytearray(data)\ndef can_multi_conn(h): return True",
    );
    let Checked { status, said, .. } = checked(&text, &["--write"]);
    assert_eq!(status, 1, "{said}");
    let said_so = "plugin.py:5: can_multi_conn: returned True, but byte ";
    assert!(said.contains(said_so), "{said}");
    assert!(
        said.contains("note: what was written is not there when the disk is closed"),
        "{said}"
    );
}

#[test]
fn a_right_plugin_has_no_problem() {
    for options in [&["--write"][..], &[]] {
        let Checked {
            status,
            said,
            complaints,
        } = checked(RIGHT, options);
        assert_eq!((status, &*complaints), (0, ""), "{said}");
        assert!(said.ends_with("nothing wrong was found\n"), "{said}");
    }
}

/// As a device would: a plugin that needs the main thread is found out.
#[test]
fn a_handle_has_a_thread_of_its_own() {
    let its_own = RIGHT
        .replace("import nbdkit", "import nbdkit, threading")
        .replace("return None", "return threading.get_ident()")
        .replace(
            "flags): buf[:]",
            "flags): assert threading.get_ident() == h; buf[:]",
        )
        + "def close(h): assert threading.get_ident() == h\n";
    let right = checked(&its_own, &["--write"]);
    assert_eq!(right.status, 0, "{}", right.said);
    let needs_main = "import signal\n    return signal.signal(signal.SIGUSR1, signal.SIG_IGN)";
    let wrong = checked(
        &RIGHT.replace("return None", &format!("\n    {needs_main}")),
        &[],
    );
    assert_eq!(wrong.status, 1, "{}", wrong.said);
    let why = "open: ValueError: signal only works in main thread";
    assert!(wrong.complaints.contains(why), "{}", wrong.complaints);
}

#[test]
fn nothing_is_written_unless_it_is_said() {
    let text = RIGHT
        .replace(
            "open(readonly): return None",
            "open(readonly): assert readonly",
        )
        .replace(
            "def pwrite",
            "def pwrite(h, buf, offset, flags): raise SystemError('written')\ndef unused_",
        );
    let text = text
        .replace(
            "def trim",
            "def trim(*args): raise SystemError('trimmed')\ndef unused_2",
        )
        .replace(
            "def zero",
            "def zero(*args): raise SystemError('zeroed')\ndef unused_3",
        )
        .replace(
            "def flush",
            "def flush(*args): raise SystemError('flushed')\ndef unused_4",
        );
    let Checked { status, said, .. } = checked(&text, &[]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("note: nothing was written"), "{said}");
}

#[test]
fn a_file_is_not_changed_unless_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.img");
    let content: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    std::fs::write(&file, &content).unwrap();
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    let parameter = format!("file={}", file.display());
    let output = pydisk(["check", "file", &parameter]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(&file).unwrap(), content);
    let after = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(before, after);
    let output = pydisk(["check", "--write", "--steps=50", "file", &parameter]);
    assert!(output.status.success(), "{output:?}");
    assert_ne!(std::fs::read(&file).unwrap(), content);
}

#[test]
fn the_same_seed_sends_the_same_requests() {
    let text = RIGHT.replace(
        "buf[:] = data[offset:offset + len(buf)]",
        "print(offset, len(buf)); buf[:] = data[offset:offset + len(buf)]",
    );
    let requests = |seed| {
        let Checked { complaints, .. } = checked(&text, &["--write", "--seed", seed]);
        assert!(complaints.lines().count() > 100, "{complaints}");
        complaints
    };
    assert_eq!(requests("1"), requests("1"));
    assert_ne!(requests("1"), requests("2"));
}

#[test]
fn a_plugin_that_hangs_is_named() {
    let text = RIGHT.replace(
        "def pread(h, buf, offset, flags):",
        "def pread(h, buf, offset, flags):\n  import time\n  while offset: time.sleep(1)\n ",
    );
    let Checked { status, said, .. } = checked(&text, &["--patience", "1"]);
    assert_eq!(status, 1, "{said}");
    assert!(
        said.contains("plugin.py:6: pread: 1 bytes at 262143: has not returned for 1s"),
        "{said}"
    );
}

/// Python tells of a task that failed once it is dropped; those that a plugin holds never are.
#[test]
fn what_ended_a_task_in_the_background_is_told_at_the_end() {
    let text = RIGHT.replace(
        "def open(readonly): return None",
        "import asyncio
kept = []
async def dies(): raise ValueError('in the background')
async def is_asked(): raise KeyError('was asked')
async def goes_on(): await asyncio.sleep(3600)
async def open(readonly):
    for work in dies(), is_asked(), goes_on(): kept.append(asyncio.create_task(work))
    await asyncio.wait(kept[:2])
    kept[1].exception()",
    );
    let Checked { status, said, .. } = checked(&text, &[]);
    assert_eq!(status, 1, "{said}");
    let told =
        "(dies): failed, and nothing waited for it: ValueError: in the background\n    Traceback";
    assert_eq!(said.matches(told).count(), 1, "{said}");
    assert!(said.ends_with("\n1 problem\n"), "{said}");
}

#[test]
fn an_export_is_opened_by_its_name() {
    let text = RIGHT.replace(
        "def open(readonly): return None",
        "def default_export(readonly, is_tls): return 'usual'
def open(readonly): assert nbdkit.export_name() == 'usual', nbdkit.export_name()",
    );
    let usual = checked(&text, &[]);
    assert_eq!(usual.status, 0, "{}{}", usual.said, usual.complaints);
    let other = checked(&text, &["--export", "other"]);
    assert_eq!(other.status, 1, "{}", other.said);
    assert!(
        other.complaints.contains("AssertionError: other"),
        "{}",
        other.complaints
    );
}

/// A script that says nothing of whose errno counts declines zeroes by an `OSError` only where the
/// command line says so, and one that asks for its own only where the command line does not.
#[test]
fn the_errno_option_decides_what_is_declined() {
    let silent = RIGHT.replace(
        "def zero(h, count, offset, flags): data[offset:offset + count] = bytes(count)",
        "def zero(h, count, offset, flags): raise OSError(95, 'not here')",
    );
    let asking = format!("{silent}PYDISK_ERRNO = 'native'\n");
    for (text, option, status) in [
        (&silent, None, 1),
        (&silent, Some("nbdkit"), 1),
        (&silent, Some("native"), 0),
        (&asking, None, 0),
        (&asking, Some("native"), 0),
        (&asking, Some("nbdkit"), 1),
    ] {
        let mut options = vec!["--write"];
        options.extend(option.into_iter().flat_map(|word| ["--errno", word]));
        let checked = checked(text, &options);
        let said = &checked.said;
        assert_eq!(checked.status, status, "{option:?}: {said}");
        let complains = said.contains("plugin.py:10: zero: ") && said.contains("not here");
        assert_eq!(complains, status == 1, "{option:?}: {said}");
    }
    let Checked {
        status, complaints, ..
    } = checked(RIGHT, &["--errno", "own"]);
    assert_eq!(status, 2, "wrong usage");
    assert!(complaints.contains("`native` and `nbdkit` are accepted"));
}

#[test]
fn a_plugin_that_crashes_is_told_so() {
    let text = RIGHT.replace(
        "buf[:] = data[offset:offset + len(buf)]",
        "import os; os.abort()",
    );
    let Checked {
        status, complaints, ..
    } = checked(&text, &[]);
    assert_eq!(status, 1);
    assert!(
        complaints.contains("Python was killed by SIGABRT"),
        "{complaints}"
    );
}

#[test]
fn a_plugin_that_cannot_be_loaded_is_refused() {
    let text = RIGHT.replace("def pread(h, buf, offset, flags)", "def pread(h)");
    let Checked {
        status, complaints, ..
    } = checked(&text, &[]);
    assert_eq!(status, 1);
    assert!(
        complaints.contains("plugin.py: pread: ") && complaints.contains("(line 6)"),
        "{complaints}"
    );
    let Checked { status, .. } = checked(RIGHT, &["--patience", "0"]);
    assert_eq!(status, 2, "wrong usage");
}

#[test]
fn coroutines_are_checked_as_other_callbacks_are() {
    let coroutines = RIGHT
        .replace("def p", "async def p")
        .replace("def flush", "async def flush")
        .replace("def extents", "async def extents")
        .replace("yield (offset, count, 0)", "return [(offset, count, 0)]");
    let Checked { status, said, .. } = checked(&coroutines, &["--write"]);
    assert_eq!(status, 0, "{said}");
    let wrong = coroutines.replace("buf[:] =", "await 5; buf[:] =");
    let Checked { status, said, .. } = checked(&wrong, &[]);
    assert_eq!(status, 1, "{said}");
    let place = "plugin.py:6: pread: 1 bytes at 0: TypeError: object int can't be used in 'await'";
    assert!(said.contains(place), "{said}");
}

#[test]
fn plugins_that_ship_have_no_problem() {
    for words in [
        &["--write", "memory", "size=1M"][..],
        &["--write", "memory", "size=1000000"],
        &["examples/pattern.py", "size=7E"],
        &["examples/hello.py"],
        &["--write", "examples/v1.py"],
        &["--write", "examples/ramdisk.py", "size=2M"],
        &["examples/pattern.py"],
    ] {
        let mut args = vec!["check".to_owned(), "--steps=60".to_owned()];
        args.extend(
            words
                .iter()
                .map(|word| match word.strip_prefix("examples/") {
                    Some(_) => repository(word).display().to_string(),
                    None => (*word).to_owned(),
                }),
        );
        let output = pydisk(&args);
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
}
