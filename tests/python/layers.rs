//! What layers do between a front end and a plugin: they wait outside of Python and of the plugin's turn, and the
//! plugin's threads stay what they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pydisk::disk::{Cancel, Client, Errno, Export, Exports, Op, OpenDisk, Peer, Request};
use pydisk::layers::Stack;
use pydisk::python::Plugin;

use support::script;

/// A handle is of use only in the thread that opened it.
const BASE: &str = "
import threading
import nbdkit
API_VERSION = 2
def open(readonly): return threading.get_ident()
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags): buf[:] = bytes(len(buf))
def pwrite(h, buf, offset, flags): pass
def flush(h, flags): pass
";

const ONE_AT_A_TIME: &str =
    "def thread_model(): return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS\n";
const PARALLEL: &str = "def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL\n";

/// Each callback of a handle comes from the thread that opened it.
const ONE_THREAD: &str = "
def same(h): assert h == threading.get_ident(), 'another thread'
def pread(h, buf, offset, flags): same(h)
def pwrite(h, buf, offset, flags): same(h)
def flush(h, flags): same(h)
def close(h): same(h)
";

/// For as long as no test can take.
const FOR_EVER: &str = "delay:read=4000000000";

fn plugin(text: &str) -> (tempfile::TempDir, Arc<Plugin>) {
    let (folder, path) = script(&format!("{BASE}{text}"));
    let plugin = Plugin::load(&path).unwrap();
    plugin.configure(&[]).unwrap();
    (folder, plugin)
}

/// One client's handle.
fn open(exports: &dyn Exports) -> Box<dyn Export> {
    let client = Arc::new(Client::new(1, Peer::Stdio));
    exports.welcome(client).unwrap().open("", false).unwrap()
}

/// One request, as a front end sends it.
fn send(
    disk: &dyn OpenDisk,
    cancel: &Cancel,
    op: Op<'_>,
    begin: impl Fn() + Sync,
) -> Result<(), Errno> {
    let mut op = Some(op);
    let mut served = None;
    disk.lane(&mut || {
        disk.batch(&mut || {
            begin();
            let request = Request::new(op.take().unwrap(), 0).with_cancel(Some(cancel));
            served = Some(disk.serve(request).map_err(|error| error.errno));
        });
    });
    served.unwrap()
}

/// A read sleeps in the layer. A write of `other` goes on meanwhile, and the read ends when nobody waits for it.
fn one_sleeps_and_the_other_goes_on(sleeper: &dyn OpenDisk, other: &dyn OpenDisk) {
    let gone = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&gone);
    let cancel = Cancel::unless(move || !told.load(Ordering::Acquire));
    let (begun, begins) = channel();
    let (done, is_done) = channel();
    thread::scope(|scope| {
        let read = scope.spawn(|| {
            let mut byte = [0];
            send(sleeper, &cancel, Op::Read(&mut byte), || {
                begun.send(()).unwrap()
            })
        });
        begins.recv().unwrap();
        scope.spawn(|| {
            let waits = Cancel::unless(|| true);
            let written = send(other, &waits, Op::Write(&[1]), || ());
            done.send(written).unwrap();
        });
        let written = is_done.recv_timeout(Duration::from_secs(60));
        // Before anything fails, so that the threads end.
        gone.store(true, Ordering::Release);
        assert_eq!(written.expect("it waits for the one that sleeps"), Ok(()));
        assert_eq!(read.join().unwrap(), Err(Errno::SHUTDOWN));
    });
}

/// Callbacks of the two never overlap, and both want the one interpreter.
#[test]
fn two_disks_of_a_serialised_plugin_do_not_wait_for_a_layer_of_one() {
    let (_folder, plugin) = plugin(ONE_AT_A_TIME);
    let exports = plugin.exports(false);
    let (one, other) = (open(&*exports), open(&*exports));
    let delayed = Stack::for_exports().with_layers(&[FOR_EVER.parse().unwrap()]);
    let sleeper = delayed.unwrap().wrap(Arc::clone(one.disk())).unwrap();
    let stack = Stack::for_exports();
    let other = stack.wrap(Arc::clone(other.disk())).unwrap();
    one_sleeps_and_the_other_goes_on(&*sleeper, &*other);
}

#[test]
fn requests_of_a_parallel_plugin_do_not_wait_for_a_layer_of_one() {
    let (_folder, plugin) = plugin(PARALLEL);
    let stack = Stack::for_device(None).with_layers(&[FOR_EVER.parse().unwrap()]);
    let disk = stack.unwrap().wrap(plugin.open(false).unwrap()).unwrap();
    one_sleeps_and_the_other_goes_on(&*disk, &*disk);
}

#[test]
fn the_handle_of_a_serialised_plugin_keeps_its_thread_in_layers() {
    let (_folder, plugin) = plugin(ONE_THREAD);
    let layers = ["delay:read=1ms,write=1ms", "delay:flush=1ms"].map(|text| text.parse().unwrap());
    let stack = Stack::for_device(None).with_layers(&layers).unwrap();
    let disk = stack.wrap(plugin.open(false).unwrap()).unwrap();
    let waits = Cancel::unless(|| true);
    for op in [Op::Read(&mut [0]), Op::Write(&[1]), Op::Flush] {
        send(&*disk, &waits, op, || ()).unwrap();
    }
    // Where there is no lane, as at the end.
    thread::scope(|scope| {
        scope.spawn(|| disk.serve(Request::new(Op::Flush, 0)).unwrap());
    });
    disk.serve(Request::new(Op::Flush, 0)).unwrap();
}
