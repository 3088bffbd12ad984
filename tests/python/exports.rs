//! A plugin as a server offers it: the callbacks about clients and exports, and several clients at
//! the same time in each thread model.
//!
//! Every test runs in a process of its own, for an interpreter is loaded with one plugin for life.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pydisk::disk::{Client, Export, Exports, Extents, Guest, Listed, Op, Peer, Request};
use pydisk::python::Plugin;
use support::script;

/// Longest time that something may take which is not what the test is about.
const PATIENCE: Duration = Duration::from_secs(60);

/// The least that a plugin needs, with a log of its callbacks beside it.
const BASE: &str = "
import builtins
import os
import threading
import time
import nbdkit
API_VERSION = 2
def log(*what):
    with builtins.open(__file__ + '.log', 'a') as f: f.write(' '.join(map(str, what)) + '\\n')
def name():
    try: return repr(nbdkit.export_name())
    except RuntimeError: return 'none'
def open(readonly): return nbdkit.export_name()
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
";

/// A plugin that is ready for clients.
struct Ready {
    folder: tempfile::TempDir,
    plugin: Arc<Plugin>,
    exports: Arc<dyn Exports>,
}

impl Ready {
    fn new(text: &str, read_only: bool) -> Self {
        let (folder, path) = script(&format!("{BASE}{text}"));
        let plugin = Plugin::load(&path).unwrap();
        plugin.configure(&[]).unwrap();
        let exports = plugin.exports(read_only);
        Self {
            folder,
            plugin,
            exports,
        }
    }

    fn guest(&self) -> Box<dyn Guest> {
        self.exports.welcome(client(1)).unwrap()
    }

    fn open(&self, name: &str) -> Box<dyn Export> {
        self.guest().open(name, false).unwrap()
    }

    fn log(&self) -> Vec<String> {
        log(self.folder.path())
    }
}

fn client(number: u64) -> Arc<Client> {
    Arc::new(Client::new(number, Peer::Stdio))
}

fn log(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("plugin.py.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn read(export: &dyn Export) {
    let mut page = [1; 512];
    let request = Request::new(Op::Read(&mut page), 0);
    export.disk().serve(request).unwrap();
}

fn listed(name: &str, description: Option<&str>) -> Listed {
    Listed {
        name: name.to_owned(),
        description: description.map(str::to_owned),
    }
}

#[test]
fn the_life_of_a_client_goes_in_nbdkits_order() {
    let ready = Ready::new(
        "
def preconnect(readonly): log('preconnect', readonly, name())
def list_exports(readonly, is_tls): log('list_exports', readonly, is_tls, name()); return ['a']
def default_export(readonly, is_tls): log('default_export', readonly, is_tls, name()); return 'dé'
def open(readonly): log('open', readonly, name()); return 'H'
def get_size(h): log('get_size', name()); return 1000
def can_flush(h): log('can_flush', name()); return False
def export_description(h): log('export_description', h, name()); return 'text'
def pread(h, buf, offset, flags): log('pread', h, name())
def close(h): log('close', h, name())
def cleanup(): log('cleanup', name())
",
        true,
    );
    let mut guest = ready.guest();
    assert_eq!(guest.list(false).unwrap(), [listed("a", None)]);
    let export = guest.open("", false).unwrap();
    assert_eq!(export.name(), "dé");
    assert_eq!(export.disk().limits().size, 1000);
    assert_eq!(export.description().unwrap().as_deref(), Some("text"));
    read(&*export);
    let disk = Arc::clone(export.disk());
    drop(export);
    assert!(!ready.log().iter().any(|line| line.starts_with("close")));
    drop(disk);
    // As for INFO and then GO: the second opening asks for no default any more, but with TLS.
    drop(guest.open("", false).unwrap());
    drop(guest.open("", true).unwrap());
    drop(guest.open("x", true).unwrap());
    drop(guest);
    ready.plugin.cleanup();
    let opened =
        |name: &str| ["open True", "get_size", "can_flush"].map(|what| format!("{what} '{name}'"));
    let mut expected = vec![
        "preconnect True none".to_owned(),
        "list_exports True False none".into(),
        "default_export True False none".into(),
    ];
    expected.extend(opened("dé"));
    expected.extend(["export_description H 'dé'".into(), "pread H 'dé'".into()]);
    expected.push("close H 'dé'".into());
    expected.extend(opened("dé"));
    expected.push("close H 'dé'".into());
    expected.push("default_export True True none".into());
    expected.extend(opened("dé"));
    expected.push("close H 'dé'".into());
    expected.extend(opened("x"));
    expected.push("close H 'x'".into());
    expected.push("cleanup none".into());
    assert_eq!(ready.log(), expected);
}

#[test]
fn without_callbacks_there_is_one_export_without_a_name() {
    let ready = Ready::new("", false);
    assert_eq!(ready.guest().list(false).unwrap(), [listed("", None)]);
    let export = ready.open("");
    assert_eq!((export.name(), export.description().unwrap()), ("", None));
    // Every other name is accepted as well: it is for the plugin to refuse one.
    assert_eq!(ready.open("other").name(), "other");
}

#[test]
fn without_list_exports_the_default_export_is_listed() {
    let ready = Ready::new(
        "def default_export(readonly, is_tls): return b'main'",
        false,
    );
    assert_eq!(ready.guest().list(false).unwrap(), [listed("main", None)]);
}

#[test]
fn a_list_of_exports_is_any_iterable_of_names_and_pairs() {
    let ready = Ready::new(
        "
def list_exports(readonly, is_tls):
    yield 'a'
    yield b'b'
    yield ('c', 'text')
    yield (b'd', b'')
",
        false,
    );
    assert_eq!(
        ready.guest().list(false).unwrap(),
        [
            listed("a", None),
            listed("b", None),
            listed("c", Some("text")),
            listed("d", Some("")),
        ]
    );
}

#[test]
fn a_list_that_makes_no_sense_is_refused() {
    let ready = Ready::new(
        "
def bad():
    yield 'a'
    raise KeyError('midway')
ANSWERS = [None, 5, [5], [['a', 'b']], [('a',)], [('a', 'b', 'c')], [('a', None)], ['\\udc80'],
           [b'\\xff'], ['a\\0b'], ['n' * 4097], ['x'] * 10001, bad()]
def list_exports(readonly, is_tls): return ANSWERS.pop(0)
",
        false,
    );
    let mut guest = ready.guest();
    for words in [
        "'NoneType' object is not iterable",
        "'int' object is not iterable",
        "gave `5`: str or bytes is accepted",
        "gave `['a', 'b']`: str or bytes",
        "a tuple of 1: (name, description) is accepted",
        "a tuple of 3: ",
        "gave `None`: str or bytes",
        "which is no UTF-8",
        "gave `b'\\xff'`, which is no UTF-8",
        "a zero byte",
        "a string of 4097 bytes: at most 4096",
        "more than 10000 exports",
        "KeyError: 'midway'",
    ] {
        let error = guest.list(false).unwrap_err().to_string();
        assert!(
            error.contains("plugin.py: list_exports: ") && error.contains(words),
            "`{words}`: {error}"
        );
    }
}

#[test]
fn what_raises_refuses_the_client_and_nothing_else() {
    let ready = Ready::new(
        "
def default_export(readonly, is_tls): pass
def open(readonly):
    if nbdkit.export_name() == 'no': raise OSError('open')
    return nbdkit.export_name()
def get_size(h): return -5 if h == 'odd' else 512
def export_description(h): return 5
def close(h): log('close', h)
",
        false,
    );
    let refused = |name: &str| ready.guest().open(name, false).unwrap_err().to_string();
    assert!(refused("").contains("default_export: gave `None`"));
    assert!(refused("no").contains("open: OSError: open"));
    assert!(refused("odd").contains("get_size: returned `-5`"));
    assert_eq!(ready.log(), ["close odd"], "only what was opened is closed");
    let export = ready.open("fine");
    let description = export.description().unwrap_err().to_string();
    assert!(
        description.contains("export_description: gave `5`"),
        "{description}"
    );
    read(&*export);
}

#[test]
fn a_client_that_preconnect_refuses_is_not_welcome() {
    let ready = Ready::new("def preconnect(readonly): raise OSError('not you')", false);
    let refused = ready.exports.welcome(client(1)).unwrap_err().to_string();
    assert!(
        refused.contains("preconnect: OSError: not you"),
        "{refused}"
    );
}

#[test]
fn each_client_sees_its_own_export_name_in_every_thread() {
    let ready = Ready::new(
        "
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def pread(h, buf, offset, flags):
    time.sleep(0.0005)
    assert nbdkit.export_name() == h, (nbdkit.export_name(), h)
def close(h): log('close', h, nbdkit.export_name())
",
        false,
    );
    let exports: Vec<_> = ["a", "b", "c"].map(|name| ready.open(name)).into();
    thread::scope(|scope| {
        // Threads that serve all of them in turn, inside batches and lanes and without.
        for turn in 0..6 {
            let disks: Vec<_> = exports
                .iter()
                .map(|export| Arc::clone(export.disk()))
                .collect();
            scope.spawn(move || {
                for round in 0..50 {
                    let disk = &disks[(turn + round) % 3];
                    let serve = || {
                        let mut page = [1; 512];
                        disk.serve(Request::new(Op::Read(&mut page), 0)).unwrap();
                    };
                    match round % 3 {
                        0 => serve(),
                        1 => disk.batch(&mut || serve()),
                        _ => disk.lane(&mut || serve()),
                    }
                }
            });
        }
    });
    drop(exports);
    assert_eq!(ready.log(), ["close a a", "close b b", "close c c"]);
}

/// Counts how many callbacks overlap, over all handles and in each.
const OVERLAPS: &str = "
def thread_model(): return nbdkit.THREAD_MODEL_@MODEL@
inside, worst = {}, {}
lock = threading.Lock()
class Count:
    def __init__(self, key): self.keys = ['all', key]
    def __enter__(self):
        with lock:
            for key in self.keys:
                inside[key] = inside.get(key, 0) + 1
                worst[key] = max(worst.get(key, 0), inside[key])
        time.sleep(0.002)
    def __exit__(self, *what):
        with lock:
            for key in self.keys: inside[key] -= 1
def open(readonly):
    with Count(nbdkit.export_name()): return nbdkit.export_name()
def get_size(h):
    with Count(h): return 1 << 20
def can_flush(h):
    with Count(h): return False
def list_exports(readonly, is_tls):
    with Count('list'): return []
def export_description(h):
    with Count(h): return ''
def pread(h, buf, offset, flags):
    with Count(h): pass
def extents(h, count, offset, flags):
    with Count(h): return [(offset, count, 0)]
def close(h):
    with Count(h): pass
def cleanup(): log(worst['all'], max(worst.values()), max(worst['a'], worst['b'], worst['c']))
";

/// Three clients that do all that clients can do, each in its own thread, several at a time where the
/// disk allows it: how many callbacks overlapped in the process, and in the worst of the handles.
fn overlaps(model: &str) -> (u32, u32) {
    let ready = Ready::new(&OVERLAPS.replace("@MODEL@", model), false);
    thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let ready = &ready;
            scope.spawn(move || {
                for _ in 0..3 {
                    let mut guest = ready.guest();
                    guest.list(false).unwrap();
                    let export = guest.open(name, false).unwrap();
                    export.description().unwrap();
                    let lanes = if export.disk().limits().parallel {
                        3
                    } else {
                        1
                    };
                    thread::scope(|scope| {
                        for _ in 0..lanes {
                            let disk = Arc::clone(export.disk());
                            scope.spawn(move || {
                                let mut page = [1; 512];
                                for _ in 0..5 {
                                    disk.serve(Request::new(Op::Read(&mut page), 0)).unwrap();
                                }
                                let mut found = Extents::starting_at(0);
                                disk.extents(0..512, &mut found).unwrap();
                                disk.batch(&mut || {
                                    for _ in 0..2 {
                                        let mut page = [1; 512];
                                        disk.serve(Request::new(Op::Read(&mut page), 0)).unwrap();
                                    }
                                });
                            });
                        }
                    });
                }
            });
        }
    });
    ready.plugin.cleanup();
    let line = ready.log().pop().unwrap();
    let counts: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    (counts[0], counts[2])
}

#[test]
fn serialize_connections_overlaps_nothing() {
    assert_eq!(overlaps("SERIALIZE_CONNECTIONS"), (1, 1));
}

#[test]
fn serialize_all_requests_overlaps_nothing() {
    assert_eq!(overlaps("SERIALIZE_ALL_REQUESTS"), (1, 1));
}

#[test]
fn serialize_requests_overlaps_handles_but_not_within_one() {
    let (all, one) = overlaps("SERIALIZE_REQUESTS");
    assert_eq!(one, 1);
    assert!(all > 1, "{all}");
}

#[test]
fn parallel_overlaps_everything() {
    let (all, one) = overlaps("PARALLEL");
    assert!(one > 1 && all > 1, "{all} {one}");
}

#[test]
fn with_serialize_connections_the_second_client_waits_for_the_first() {
    let ready = Ready::new(
        "
def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_CONNECTIONS
def can_multi_conn(h): return True
def preconnect(readonly): log('preconnect')
def open(readonly): log('open', nbdkit.export_name()); return nbdkit.export_name()
def close(h): log('close', h)
",
        false,
    );
    let first = ready.open("first");
    assert!(!first.disk().limits().multi_conn);
    let mut third = ready.guest();
    thread::scope(|scope| {
        let second = scope.spawn(|| drop(ready.open("second")));
        assert!(!third.admit(Duration::from_millis(50)));
        // Who is open is served meanwhile, and whoever waits may still ask for the list.
        read(&*first);
        third.list(false).unwrap();
        while ready.log().len() < 4 {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!second.is_finished());
        drop(first);
        second.join().unwrap();
    });
    // A place that was taken and not used is free again once its client is gone.
    assert!(third.admit(PATIENCE));
    drop(third);
    drop(ready.open("fourth"));
    assert_eq!(
        ready.log(),
        [
            "preconnect",
            "open first",
            "preconnect",
            "preconnect",
            "close first",
            "open second",
            "close second",
            "preconnect",
            "open fourth",
            "close fourth",
        ]
    );
}

#[test]
fn a_callback_that_waits_holds_up_only_what_its_model_says() {
    // One client sits in a callback until another one's callback has run.
    let ready = Ready::new(
        "
def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS
ran = threading.Event()
def pread(h, buf, offset, flags):
    if h == 'waits': assert ran.wait(60)
    ran.set()
",
        false,
    );
    let waits = ready.open("waits");
    let (done, ended) = channel();
    let disk = Arc::clone(waits.disk());
    thread::spawn(move || {
        let mut page = [1; 512];
        done.send(disk.serve(Request::new(Op::Read(&mut page), 0)).is_ok())
    });
    read(&*ready.open("runs"));
    assert!(ended.recv_timeout(PATIENCE).unwrap());
}

#[test]
fn a_handle_that_outlives_cleanup_is_not_called_any_more() {
    let ready = Ready::new(
        "def close(h): log('close')\ndef cleanup(): log('cleanup')",
        false,
    );
    let export = ready.open("x");
    ready.plugin.cleanup();
    drop(export);
    assert_eq!(ready.log(), ["cleanup"]);
}

#[test]
fn whoever_wants_one_extent_says_so_to_the_plugin() {
    let ready = Ready::new(
        "
def extents(h, count, offset, flags):
    log('extents', count, offset, flags)
    return [(offset, 4096, nbdkit.EXTENT_HOLE), (offset + 4096, 4096, 0)]
",
        false,
    );
    let export = ready.open("");
    let mut found = Extents::starting_at(0).first_only();
    export.disk().extents(0..1 << 20, &mut found).unwrap();
    assert_eq!(found.list().first().map(|first| first.len), Some(4096));
    let mut found = Extents::starting_at(0);
    export.disk().extents(0..16384, &mut found).unwrap();
    assert_eq!(found.list().len(), 4);
    assert_eq!(
        ready.log(),
        [
            format!("extents {} 0 {}", 1 << 20, 4),
            "extents 16384 0 0".into(),
            "extents 8192 8192 0".into(),
        ]
    );
}
