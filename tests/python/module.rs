//! The `nbdkit` module as plugins see it, function by function.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pydisk::disk::{Certificate, Client, Disk, Exports, Op, Peer, Request};
use pydisk::python::Plugin;
use support::script;

/// Longest time that something may take which is not what the test is about.
const PATIENCE: Duration = Duration::from_secs(60);

/// A plugin that runs `step()` when it is read, and tells by the exception what came of it.
const BASE: &str = "
import nbdkit, os, threading, time
API_VERSION = 2
def open(readonly): return None
def get_size(h): return 1 << 20
def said(call, *args):
    try: return repr(call(*args))
    except Exception as error: return type(error).__name__ + ': ' + str(error)
def pread(h, buf, offset, flags):
    what = step()
    if what is not None: raise RuntimeError(what)
";

fn load(text: &str) -> Arc<Plugin> {
    let (folder, path) = script(&format!("{BASE}{text}"));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    drop(folder);
    plugin
}

/// What `step` returned when the disk was read.
fn told(disk: &dyn Disk) -> Option<String> {
    let error = disk
        .serve(Request::new(Op::Read(&mut [0; 512]), 0))
        .err()?
        .to_string();
    let line = error.lines().next().unwrap();
    Some(line.split_once("RuntimeError: ").unwrap().1.to_owned())
}

/// What an expression gives in a callback of a block device.
fn gives(expression: &str) -> String {
    let plugin = load(&format!("def step(): return str({expression})"));
    told(&*plugin.open(false).unwrap()).unwrap()
}

#[test]
fn the_module_has_every_name_of_nbdkit() {
    let names = gives("sorted(name for name in dir(nbdkit) if not name.startswith('_'))");
    for name in [
        "debug",
        "debug_hexdiff",
        "debug_hexdump",
        "disconnect",
        "export_name",
        "is_tls",
        "name",
        "nanosleep",
        "parse_bool",
        "parse_delay",
        "parse_probability",
        "parse_size",
        "peer_gid",
        "peer_name",
        "peer_pid",
        "peer_security_context",
        "peer_tls_dn",
        "peer_tls_issuer_dn",
        "peer_uid",
        "read_password",
        "set_error",
        "shutdown",
        "stdio_safe",
        "timestamp",
    ] {
        assert!(names.contains(&format!("'{name}'")), "{name}: {names}");
    }
}

#[test]
fn constants_have_nbdkits_values() {
    assert_eq!(
        gives(
            "[nbdkit.THREAD_MODEL_SERIALIZE_CONNECTIONS, \
             nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS, \
             nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS, nbdkit.THREAD_MODEL_PARALLEL, \
             nbdkit.FLAG_MAY_TRIM, nbdkit.FLAG_FUA, nbdkit.FLAG_REQ_ONE, nbdkit.FLAG_FAST_ZERO, \
             nbdkit.FUA_NONE, nbdkit.FUA_EMULATE, nbdkit.FUA_NATIVE, \
             nbdkit.CACHE_NONE, nbdkit.CACHE_EMULATE, nbdkit.CACHE_NATIVE, \
             nbdkit.EXTENT_HOLE, nbdkit.EXTENT_ZERO]"
        ),
        "[0, 1, 2, 3, 1, 2, 4, 8, 0, 1, 2, 0, 1, 2, 1, 2]"
    );
}

#[test]
fn parameters_are_parsed_as_nbdkit_parses_them() {
    assert_eq!(
        gives(
            "[nbdkit.parse_size('1M'), nbdkit.parse_size(' +3s'), nbdkit.parse_probability('p', '1:4'), \
             nbdkit.parse_probability('p', '300%'), nbdkit.parse_delay('d', '1.5'), \
             nbdkit.parse_delay('d', '20μs'), nbdkit.parse_bool('ON'), nbdkit.parse_bool('f')]"
        ),
        "[1048576, 1536, 0.25, 3.0, (1, 500000000), (0, 20000), True, False]"
    );
}

#[test]
fn what_cannot_be_parsed_is_a_value_error_with_the_cause() {
    let text = gives(
        "[said(nbdkit.parse_size, '1KiB'), said(nbdkit.parse_probability, 'rate', '1/0'), \
         said(nbdkit.parse_delay, 'rdelay', '-1'), said(nbdkit.parse_bool, 'maybe'), \
         said(nbdkit.parse_size, 5), said(nbdkit.parse_size, '1\\x00')]",
    );
    for said in [
        "ValueError: Unable to parse string as size: size `1KiB`: unknown suffix `KiB`: give a ",
        "ValueError: Unable to parse string as probability: rate `1/0`: division by zero",
        "ValueError: Unable to parse string as delay: rdelay `-1`: not a number of at least 0",
        "ValueError: Unable to parse string as boolean: `maybe`: neither yes nor no",
        "TypeError: ",
        "ValueError: Unable to parse string as size: size `1",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn passwords_come_from_the_parameter_a_file_or_a_descriptor() {
    let text = gives(
        "(lambda folder: [
            __import__('builtins').open(folder + '/one', 'wb').write(b'secret\\xff\\nmore\\n') and
            nbdkit.read_password('+' + folder + '/one'),
            nbdkit.read_password('plain'), nbdkit.read_password(''), nbdkit.read_password('+/dev/null'),
            (lambda ends: [os.write(ends[1], b'piped\\nrest'), os.close(ends[1]),
                nbdkit.read_password(f'-{ends[0]}'), said(os.close, ends[0])][2:])(os.pipe()),
        ])(__import__('tempfile').mkdtemp())",
    );
    assert_eq!(
        text,
        "[b'secret\\xff', b'plain', b'', b'', [b'piped', 'OSError: [Errno 9] Bad file descriptor']]"
    );
}

#[test]
fn passwords_that_cannot_be_read_are_value_errors() {
    let text = gives(
        "[said(nbdkit.read_password, text) for text in
            ('-0', '-2', '-x', '-1.5', '-12345', '+/no/such', '+/dev/zero')]",
    );
    for said in [
        "ValueError: Unable to parse parameter as a password: descriptor 0 is standard input",
        "password: descriptor 2 is standard input",
        "password: `-x`: a descriptor",
        "password: `-1.5`: a descriptor",
        "password: descriptor 12345: [Errno 9]",
        "password: `/no/such`: No such file",
        "password: `/dev/zero`: the line is too long",
    ] {
        assert!(text.contains(said), "{said}\n{text}");
    }
}

#[test]
fn a_password_is_asked_for_at_a_terminal_only() {
    // Standard error of the tests is a pipe.
    let text = gives("said(nbdkit.read_password, '-')");
    assert!(text.contains("standard error is no terminal"), "{text}");
}

#[test]
fn descriptors_that_were_not_passed_are_not_read() {
    let (passed, writing) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&writing, b"yes\n").unwrap();
    pydisk::python::remember_descriptors();
    let own = std::fs::File::open("/etc/passwd").unwrap();
    // Python closes it.
    let passed = passed.into_raw_fd();
    let own = own.as_raw_fd();
    let text = gives(&format!(
        "[nbdkit.read_password('-{passed}'), said(nbdkit.read_password, '-{own}')]"
    ));
    assert!(text.contains("b'yes'"), "{text}");
    let said = format!("descriptor {own} was not passed to pydisk");
    assert!(text.contains(&said), "{text}");
}

#[test]
fn a_sleep_lets_other_threads_run() {
    let disk = load(
        "
def step():
    count = 0
    sleeper = threading.Thread(target=nbdkit.nanosleep, args=(0, 300_000_000))
    sleeper.start()
    while sleeper.is_alive():
        time.sleep(0.001)
        count += 1
    return 'ran' if count > 5 else f'stood still: {count}'
",
    )
    .open(false)
    .unwrap();
    assert_eq!(told(&*disk).unwrap(), "ran");
}

#[test]
fn a_sleep_takes_its_time() {
    assert_eq!(
        gives(
            "(lambda at: [nbdkit.nanosleep(0, 1_200_000_00), time.monotonic() - at >= 0.12])\
             (time.monotonic())"
        ),
        "[None, True]"
    );
}

#[test]
fn a_negative_sleep_is_refused() {
    // nbdkit takes it for 136 years.
    let text = gives("said(nbdkit.nanosleep, -1, 0)");
    assert!(text.starts_with("OverflowError"), "{text}");
}

#[test]
fn the_end_of_the_attachment_ends_sleeps() {
    let plugin = load("def step(): nbdkit.nanosleep(3600, 0); return 'woke up'");
    let disk = plugin.open(false).unwrap();
    let (done, ended) = channel();
    let sleeping = thread::spawn(move || done.send(told(&*disk)).unwrap());
    thread::sleep(Duration::from_millis(100));
    plugin.interrupt();
    let said = ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(said.as_deref(), Some("woke up"));
    sleeping.join().unwrap();
}

#[test]
fn a_shutdown_reaches_the_host_whenever_it_is_asked_for() {
    let plugin = load(
        "
nbdkit.shutdown()
def step(): nbdkit.shutdown(); return 'asked'
",
    );
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    plugin.on_shutdown(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(calls.load(Ordering::SeqCst), 1, "asked before it was known");
    let disk = plugin.open(false).unwrap();
    assert_eq!(told(&*disk).unwrap(), "asked");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// What `step` returns for a client.
fn for_client(exports: &Arc<dyn Exports>, client: Client, tls: bool) -> String {
    let mut guest = exports.welcome(Arc::new(client)).unwrap();
    let export = guest.open("disk", tls).unwrap();
    told(&**export.disk()).unwrap()
}

/// Everything that a plugin can ask about its client.
const WHO: &str = "
def step():
    return ' | '.join(said(call) for call in (
        nbdkit.peer_name, nbdkit.peer_pid, nbdkit.peer_uid, nbdkit.peer_gid,
        nbdkit.peer_tls_dn, nbdkit.peer_tls_issuer_dn, nbdkit.is_tls, nbdkit.export_name))
";

#[test]
fn a_plugin_knows_its_client() {
    let exports = load(WHO).exports(false);
    let unix = Peer::Unix {
        pid: 42,
        uid: 1000,
        gid: 100,
    };
    let client = Client::new(1, unix);
    client.set_certificate(Certificate {
        subject: "CN=Ann".into(),
        issuer: "CN=Root".into(),
    });
    assert_eq!(
        for_client(&exports, client, true),
        "'' | 42 | 1000 | 100 | 'CN=Ann' | 'CN=Root' | True | 'disk'"
    );
    let v4: SocketAddr = "192.0.2.1:55".parse().unwrap();
    let said = for_client(&exports, Client::new(2, Peer::Tcp(v4)), false);
    let none = "ValueError: Unable to get client pid: the client is not at a Unix socket but at";
    assert!(
        said.starts_with(&format!("('192.0.2.1', 55) | {none} 192.0.2.1:55 | ")),
        "{said}"
    );
    assert!(said.ends_with(" | '' | '' | False | 'disk'"), "{said}");
    let v6: SocketAddr = "[::1]:55".parse().unwrap();
    let said = for_client(&exports, Client::new(3, Peer::Tcp(v6)), false);
    assert!(said.starts_with("('::1', 55, 0, 0) | "), "{said}");
    let vsock = Peer::Vsock { cid: 3, port: 9 };
    let said = for_client(&exports, Client::new(4, vsock), false);
    assert!(said.starts_with("(3, 9) | "), "{said}");
    let said = for_client(&exports, Client::new(5, Peer::Stdio), false);
    assert!(said.contains("at standard input | "), "{said}");
}

#[test]
fn a_block_device_has_no_client() {
    let disk = load(WHO).open(false).unwrap();
    let said = told(&*disk).unwrap();
    let nobody = "this disk is a block device or a file, which has no clients";
    assert_eq!(said.matches(nobody).count(), 6, "{said}");
    assert!(said.ends_with(" | False | ''"), "{said}");
}

#[test]
fn a_thread_of_the_plugin_has_no_client() {
    let exports = load(
        "
def step():
    found = []
    thread = threading.Thread(target=lambda: found.extend(
        [said(nbdkit.peer_uid), said(nbdkit.is_tls), said(nbdkit.disconnect, True)]))
    thread.start(); thread.join()
    return ' | '.join(found)
",
    )
    .exports(false);
    let client = Client::new(1, Peer::Stdio);
    let said = for_client(&exports, client, true);
    assert!(
        said.contains("no callback of a client runs on this thread | False | None"),
        "{said}"
    );
}

#[test]
fn a_client_is_known_before_an_export_is_open() {
    let plugin = load(
        "
found = []
def ask(*args): found.append((said(nbdkit.peer_pid), nbdkit.is_tls(), said(nbdkit.export_name)))
def preconnect(readonly): ask()
def default_export(readonly, is_tls): ask(); return 'x'
def list_exports(readonly, is_tls): ask(); return ['x']
def step(): ask(); return repr(found)
",
    );
    let unix = Peer::Unix {
        pid: 7,
        uid: 0,
        gid: 0,
    };
    let mut guest = plugin
        .exports(false)
        .welcome(Arc::new(Client::new(1, unix)))
        .unwrap();
    guest.list(true).unwrap();
    let export = guest.open("", true).unwrap();
    let none = "'RuntimeError: nbdkit.export_name failed'";
    assert_eq!(
        told(&**export.disk()).unwrap(),
        format!(
            "[('7', False, {none}), ('7', True, {none}), ('7', True, {none}), ('7', True, \"'x'\")]"
        )
    );
}

#[test]
fn a_disconnected_client_is_told_to_its_front_end() {
    let exports = load("def step(): nbdkit.disconnect(FORCE)\nFORCE = []").exports(false);
    let client = Arc::new(Client::new(1, Peer::Stdio));
    let hung_up = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&hung_up);
    client.set_hang_up(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let mut guest = exports.welcome(Arc::clone(&client)).unwrap();
    let export = guest.open("", false).unwrap();
    assert!(!client.is_leaving());
    assert_eq!(told(&**export.disk()), None);
    assert!(client.is_leaving());
    assert_eq!(
        hung_up.load(Ordering::SeqCst),
        0,
        "an empty list is no force"
    );
    client.disconnect(true);
    assert_eq!(hung_up.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_is_cut_off_ends_the_sleeps_of_its_callbacks_and_no_other_does() {
    let plugin = load(
        "
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
started = threading.Event()
def pread(h, buf, offset, flags):
    if offset == 0:
        started.set()
        nbdkit.nanosleep(3600, 0)
        raise RuntimeError('woke up')
    started.wait()
    nbdkit.disconnect(offset == 1024)
",
    );
    let exports = plugin.exports(false);
    let client = Arc::new(Client::new(1, Peer::Stdio));
    let export = exports.welcome(client).unwrap().open("", false).unwrap();
    let disk = Arc::clone(export.disk());
    let (done, ended) = channel();
    let sleeping = thread::spawn(move || done.send(told(&*disk)).unwrap());
    let mut buffer = [0; 512];
    let other = Request::new(Op::Read(&mut buffer), 512);
    export.disk().serve(other).unwrap();
    // What is under way is to be answered first.
    assert!(ended.recv_timeout(Duration::from_millis(300)).is_err());
    let other = Request::new(Op::Read(&mut buffer), 1024);
    export.disk().serve(other).unwrap();
    let said = ended.recv_timeout(PATIENCE).unwrap();
    assert_eq!(said.as_deref(), Some("woke up"));
    sleeping.join().unwrap();
}

#[test]
fn what_goes_to_the_log_is_checked_first() {
    let text = gives(
        "[said(nbdkit.debug, 'fine'), said(nbdkit.debug, 'a\\x00b'), said(nbdkit.debug, b'x'),
          said(nbdkit.debug_hexdump, b'abc'), said(nbdkit.debug_hexdump, bytearray(40), 'p: ', 7),
          said(nbdkit.debug_hexdiff, b'a', b'ab', None, 3),
          said(nbdkit.debug_hexdump, 'text'), said(nbdkit.debug_hexdiff, b'a', memoryview(b'b')),
          nbdkit.stdio_safe(), type(nbdkit.timestamp()).__name__, type(nbdkit.name()).__name__]",
    );
    assert!(
        text.starts_with("['None', 'ValueError: embedded null character', \""),
        "{text}"
    );
    assert!(text.ends_with("'None', False, 'str', 'str']"), "{text}");
    assert_eq!(text.matches("TypeError").count(), 2, "{text}");
    let unequal = "'RuntimeError: nbdkit.debug_hexdiff: buffers must have equal length'";
    assert!(text.contains(unequal), "{text}");
}

#[test]
fn paths_are_made_absolute() {
    let text = gives(
        "[nbdkit.absolute_path('x') == os.path.abspath('x'), nbdkit.absolute_path('/a/../b'), \
         nbdkit.realpath('/proc/self') != '/proc/self', said(nbdkit.realpath, '/no/such')]",
    );
    assert!(
        text.starts_with("[True, '/b', True, \"FileNotFoundError"),
        "{text}"
    );
}
