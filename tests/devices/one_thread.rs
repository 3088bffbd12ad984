//! The thread of a handle: `open`, everything that the handle is asked, its last `flush` and its `close`
//! run on one thread where the plugin is serialised, as in nbdkit. What `open` makes may be of use on no
//! other: an SQLite connection is not.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::device::{Attached, Kind, Page, open_direct};
use support::nbd::Server;
use support::nbd::raw::{Ask, Raw, cmd};
use support::on_each;

/// Pages in a database. At the end it tells how many threads called it, and how many pages were stored.
const SQLITE: &str = "
import sqlite3, threading
import nbdkit
API_VERSION = 2
threads = set()
def config(key, value): globals()[key] = value
def thread_model(): return getattr(nbdkit, 'THREAD_MODEL_SERIALIZE_' + model)
def called(): threads.add(threading.get_ident())
def open(readonly):
    called()
    db = sqlite3.connect(folder + '/pages')
    db.execute('CREATE TABLE IF NOT EXISTS pages (at INTEGER PRIMARY KEY, data BLOB)')
    return db
def get_size(h): called(); return h.execute('SELECT 1 << 20').fetchone()[0]
def block_size(h): called(); return 4096, 4096, 1 << 20
def can_write(h): called(); return True
def pread(h, buf, offset, flags):
    called()
    for at in range(0, len(buf), 4096):
        row = h.execute('SELECT data FROM pages WHERE at = ?', (offset + at,)).fetchone()
        buf[at:at + 4096] = row[0] if row else bytes(4096)
def pwrite(h, buf, offset, flags):
    called()
    for at in range(0, len(buf), 4096):
        h.execute('REPLACE INTO pages VALUES (?, ?)', (offset + at, bytes(buf[at:at + 4096])))
def flush(h, flags): called(); h.commit()
def close(h):
    called()
    stored = sqlite3.connect(folder + '/pages').execute('SELECT count(*) FROM pages').fetchone()[0]
    h.close()
    with __builtins__.open(folder + '/told', 'w') as told: print(len(threads), stored, file=told)
";

/// The models in which one thread at a time calls a handle, without the words that they share.
const MODELS: [&str; 3] = ["CONNECTIONS", "ALL_REQUESTS", "REQUESTS"];

/// What [`SQLITE`] is told, to keep its database in `folder`.
fn parameters(folder: &Path, model: &str) -> [String; 2] {
    [
        format!("folder={}", folder.display()),
        format!("model={model}"),
    ]
}

/// One thread called the plugin, and two pages were stored before it closed the handle.
#[track_caller]
fn told(folder: &Path, model: &str) {
    let told = fs::read_to_string(folder.join("told")).unwrap();
    assert_eq!(
        told, "1 2\n",
        "{model}: threads, and pages that were stored"
    );
}

fn a_handle_is_called_by_one_thread_from_open_to_close(kind: Kind) {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let [at, which] = parameters(folder.path(), model);
        let disk = Attached::with_script(kind, SQLITE, &[&at, &which]);
        let device = open_direct(&disk.path);
        device.write_all_at(&Page([7; 4096]).0, 3 * 4096).unwrap();
        device.sync_all().unwrap();
        // The last flush stores this one.
        device.write_all_at(&Page([8; 4096]).0, 4 * 4096).unwrap();
        for (number, byte) in [(2, 0), (3, 7), (4, 8)] {
            let mut page = Page([1; 4096]);
            device.read_exact_at(&mut page.0, number * 4096).unwrap();
            assert_eq!(page.0, [byte; 4096], "{model}");
        }
        drop(device);
        disk.detach();
        told(folder.path(), model);
    }
}

on_each!(a_handle_is_called_by_one_thread_from_open_to_close);

#[test]
fn a_clients_handle_is_called_by_one_thread_from_open_to_close() {
    for model in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let [at, which] = parameters(folder.path(), model);
        let server = Server::of_script(SQLITE, &[&at, &which]);
        let mut client = Raw::opened(server.socket(), "");
        for (number, byte) in [(3, 7), (4, 8)] {
            let write = Ask::of(cmd::WRITE, number * 4096, 4096);
            assert_eq!(client.ask(write, &[byte; 4096]), 0, "{model}");
        }
        assert_eq!(client.ask(Ask::of(cmd::FLUSH, 0, 0), &[]), 0, "{model}");
        assert_eq!(client.pread(3 * 4096, 4096), [7; 4096], "{model}");
        drop(client);
        server.detach();
        told(folder.path(), model);
    }
}

/// It cannot be unmounted while somebody has it open, and the disk is closed nevertheless.
#[test]
fn a_handle_is_closed_by_its_thread_also_where_a_file_is_ended_by_force() {
    if !Kind::File.available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [at, which] = parameters(folder.path(), "REQUESTS");
    let disk = Attached::with_script(Kind::File, SQLITE, &[&at, &which]);
    let device = open_direct(&disk.path);
    for number in 0..2 {
        device
            .write_all_at(&Page([7; 4096]).0, number * 4096)
            .unwrap();
    }
    drop(disk);
    told(folder.path(), "REQUESTS");
    drop(device);
}
