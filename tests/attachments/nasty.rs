//! No script, however wrong, ends the process that serves it, except by design: a table of nasty
//! scripts, each served to libnbd.
//!
//! A row says what the script adds to a plugin that works, what a client asks and is told, what the log
//! says, and how it ends: refused, detached, detached by force, or ended by itself.

mod buffers;
mod ending;
mod loading;
mod opening;
mod process;
mod python;
mod raising;
mod returning;

use std::collections::VecDeque;
use std::sync::Mutex;

use support::home::{runs, until};
use support::nbd::{Home, Said, clients, libnbd_command};

/// A plugin of API version 2 that works.
const BASE: &str = "
import builtins, errno, gc, io, json, os, sys, threading, time, traceback, warnings, weakref
import nbdkit
API_VERSION = 2
data = bytearray(1 << 20)
def open(readonly): return 'H'
def get_size(h): return len(data)
def pread(h, buf, offset, flags): buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags): data[offset:offset + len(buf)] = buf
def zero(h, count, offset, flags): data[offset:offset + count] = bytes(count)
def trim(h, count, offset, flags): data[offset:offset + count] = bytes(count)
def cache(h, count, offset, flags): pass
def flush(h, flags): pass
def extents(h, count, offset, flags): return [(offset, count, 0)]
";

/// What clients ask by: a word for each outcome, `done` or the errno.
const ASK: &str = "
def word(call, *words):
    try: call(*words)
    except nbd.Error as error: return error.errno or 'gone'
    return 'done'
def r(at=0, n=512): return word(h.pread, n, at)
def w(at=0, n=512): return word(h.pwrite, b'w' * n, at)
def z(at=0, n=512): return word(h.zero, n, at)
def t(at=0, n=512): return word(h.trim, n, at)
def c(at=0, n=512): return word(h.cache, n, at)
def f(): return word(h.flush)
def x(at=0, n=512): return word(h.block_status, n, at, lambda *a: 0)
def begin(): return h.aio_pread(nbd.Buffer(512), 0) and 'begun'
def everything(): return [r(), w(), z(), t(), c(), f(), x()]
def again():
    'Another connection.'
    global h
    h = nbd.NBD()
    return connect()
def connect():
    h.add_meta_context('base:allocation')
    return 'open' if word(h.connect_uri, args[0]) == 'done' else 'refused'
def names():
    found = []
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(args[0])
    try: h.opt_list(lambda name, text: found.append(name))
    except nbd.Error as error: return 'refused'
    return ','.join(found)
def flat(values):
    for value in values:
        yield from flat(value) if isinstance(value, list) else [str(value)]
print(connect(), *flat(eval(args[1])))
";

fn rows() -> impl Iterator<Item = &'static Row> {
    [
        loading::ROWS,
        opening::ROWS,
        returning::ROWS,
        raising::ROWS,
        python::ROWS,
        buffers::ROWS,
        process::ROWS,
        ending::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// One script, what is done to it, and what is expected.
struct Row {
    name: &'static str,
    /// Added to the plugin that works.
    script: &'static str,
    end: End,
    /// A list of questions, in Python.
    ask: &'static str,
    /// The answers.
    told: &'static str,
    /// Words that the log has, one each line; for a refusal, standard error.
    log: &'static str,
}

/// How a row ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is not attached: exit status 1 and these words.
    Refused,
    /// The process lives on through all of it, and is detached.
    Detached,
    /// The same, but the plugin complains at the end: `detach` says so and exits with 1.
    Complains,
    /// The plugin hangs: `detach --force` ends it.
    Forced,
    /// The script ends its own process, by design: the attachment is cleaned up after.
    Gone,
}

const fn refused(name: &'static str, script: &'static str, log: &'static str) -> Row {
    Row {
        name,
        script,
        end: End::Refused,
        ask: "[]",
        told: "",
        log,
    }
}

/// A script with what is asked, what is told, and what the log says.
const fn served(
    name: &'static str,
    script: &'static str,
    [ask, told, log]: [&'static str; 3],
) -> Row {
    Row {
        name,
        script,
        end: End::Detached,
        ask,
        told,
        log,
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a const fn cannot drop what it was lent"
)]
const fn ends(end: End, row: Row) -> Row {
    Row { end, ..row }
}

fn ask(row: &Row, uri: &str) -> Result<String, String> {
    let mut command = libnbd_command(ASK, &[uri, row.ask]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the client failed: {text}\n{complaint}"));
    }
    Ok(text)
}

fn has_all(text: &str, words: &str) -> Result<(), String> {
    for word in words.lines() {
        if !text.contains(word) {
            let end = text.ceil_char_boundary(text.len().saturating_sub(3000));
            return Err(format!("`{word}` is not in the log: ..{}", &text[end..]));
        }
    }
    Ok(())
}

fn attach(home: &Home, row: &Row) -> (Said, String) {
    let script = home.script("plugin.py", &format!("{BASE}{}", row.script));
    let uri = format!("nbd+unix:///?socket={}", home.path("socket").display());
    let words = ["attach", "--name", "disk", script.to_str().unwrap(), &uri];
    (home.run(words), uri)
}

/// Whether a row comes out as it says; why not.
fn outcome(row: &Row) -> Result<(), String> {
    let home = Home::new();
    let (said, uri) = attach(&home, row);
    if row.end == End::Refused {
        if said.code != 1 {
            return Err(format!("it was not refused: {said:?}"));
        }
        if home.path("socket").exists() || !home.attachments().is_empty() {
            return Err("something is left behind".to_owned());
        }
        return has_all(&said.stderr, row.log);
    }
    if said.code != 0 {
        return Err(format!("it was refused: {said:?}"));
    }
    let worker = home.pid("disk", "worker_pid");
    let told = ask(row, &uri)?;
    let log = home.state("disk").join("log");
    if told != row.told {
        let kept = || std::fs::read(home.path("state/.failed/disk.log"));
        let text = std::fs::read(&log).or_else(|_ended| kept());
        let text = text.unwrap_or_default();
        let (wanted, text) = (row.told, String::from_utf8_lossy(&text));
        return Err(format!(
            "the client was told `{told}`, not `{wanted}`; the log:\n{text}"
        ));
    }
    if row.end == End::Gone {
        until("the attachment is gone", || home.attachments().is_empty());
        let log = std::fs::read_to_string(home.path("state/.failed/disk.log"));
        return has_all(&log.unwrap_or_default(), row.log);
    }
    if !runs(worker) || home.pid("disk", "worker_pid") != worker {
        return Err("the process ended".to_owned());
    }
    let text = std::fs::read(&log).unwrap_or_default();
    has_all(&String::from_utf8_lossy(&text), row.log)?;
    let force = if row.end == End::Forced {
        &["--force"][..]
    } else {
        &[]
    };
    let said = home.run(["detach", "disk"].iter().chain(force));
    let complains = match row.end {
        // What one had not stored that had to be killed.
        End::Forced => said.stderr.contains("is lost"),
        end => end == End::Complains,
    };
    if said.code != i32::from(complains) {
        return Err(format!("detach: {said:?}"));
    }
    if runs(worker) || home.path("socket").exists() || !home.attachments().is_empty() {
        return Err("something is left behind".to_owned());
    }
    Ok(())
}

#[test]
fn no_script_ends_the_process_except_by_design() {
    if !clients(&["libnbd"]) {
        return;
    }
    let only = std::env::var("PYDISK_TEST_ROW").ok();
    let wanted = |row: &&Row| only.as_ref().is_none_or(|only| row.name.contains(only));
    let left: Mutex<VecDeque<&Row>> = Mutex::new(rows().filter(wanted).collect());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(row) = left.lock().unwrap().pop_front() else {
                        break;
                    };
                    let tried = std::panic::catch_unwind(|| outcome(row));
                    if let Err(why) = tried.unwrap_or(Err("a panic".to_owned())) {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{}: {why}", row.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}
