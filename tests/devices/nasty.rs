//! The nastiest that a callback can do, on every front end: the request fails or succeeds, and the disk
//! lives on. `tests/attachments/nasty.rs` has many more, over NBD.

use std::fs::File;
use std::os::unix::fs::FileExt;

use support::device::{Attached, Kind, Page, open_direct};
use support::on_each;

/// A direct read of block 16 + N does the Nth of these; a comment says what comes of it, `done` or `fails`.
const SCRIPT: &str = r"
import ctypes, gc, os, sys, threading, traceback
API_VERSION = 2
kept = []

class Sorts:
    def __lt__(self, other): return sorted([Sorts(), Sorts()])

class Odd(BaseException):
    def __str__(self): raise SystemExit

def forks(buf):
    if os.fork(): os.wait()
def forks_and_raises(buf):
    if not os.fork(): raise ValueError('in the child')
    os.wait()
def sorts(buf): sorted([Sorts(), Sorts()])
def raises(buf): raise Odd
def exits(buf): sys.exit(0)
def surrogates(buf): raise ValueError('\udc80\0\x1b')
def long(buf): raise ValueError('x' * (16 << 20))
def keeps(buf): kept.extend([buf, buf[1:], sys._getframe(), gc.get_referrers(buf)])
def yields(buf): return (_ for _ in 'a')
def closes(buf):
    for number in range(3): os.close(number)
def breaks(buf):
    traceback.format_exception = None
    sys.stdout = sys.stderr = sys.excepthook = None
    raise ValueError
def interrupts(buf):
    word = ctypes.c_ulong(threading.get_ident())
    ctypes.pythonapi.PyThreadState_SetAsyncExc(word, ctypes.py_object(KeyboardInterrupt))
def forgets(buf): sys.modules.clear()
def vanishes(buf): del globals()['zero'], globals()['pwrite']

STEPS = [
    forks,  # done
    forks_and_raises,  # done
    sorts,  # fails
    raises,  # fails
    exits,  # fails
    surrogates,  # fails
    long,  # fails
    keeps,  # done
    yields,  # fails
    closes,  # done
    breaks,  # fails
    interrupts,  # fails
    forgets,  # done
    vanishes,  # done
]

def open(readonly): return 1
def get_size(h): return 1 << 20
def pread(h, buf, offset, flags):
    step = offset // 4096 - 16
    if 0 <= step < len(STEPS): return STEPS[step](buf)
    buf[:] = b'%08d' % (offset // 4096) * (len(buf) // 8)
def pwrite(h, buf, offset, flags): pass
def zero(h, count, offset, flags): pass
def flush(h, flags): pass
";

fn expected() -> Vec<bool> {
    let table = SCRIPT.split("STEPS = [").nth(1).unwrap();
    let rows = table.split("\n]").next().unwrap().lines();
    rows.filter(|row| !row.trim().is_empty())
        .map(|row| row.ends_with("# done"))
        .collect()
}

fn read(file: &File, block: u64) -> Result<Vec<u8>, i32> {
    let mut page = Page([0; 4096]);
    match file.read_exact_at(&mut page.0, block * 4096) {
        Ok(()) => Ok(page.0.to_vec()),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}

fn a_disk_lives_through_the_nastiest_callbacks(kind: Kind) {
    let steps = expected();
    assert_eq!(steps.len(), 14);
    let disk = Attached::with_script(kind, SCRIPT, &[]);
    let file = open_direct(&disk.path);
    for (number, succeeds) in steps.iter().enumerate() {
        let block = 16 + u64::try_from(number).unwrap();
        let outcome = read(&file, block);
        let failed = outcome.err();
        let wanted = (!succeeds).then_some(5);
        assert_eq!(failed, wanted, "{}: step {number}", kind.word());
        // The bytes are this request's, whatever came before.
        for block in [8, 200] {
            let wanted = format!("{block:08}").repeat(512);
            assert_eq!(read(&file, block).unwrap(), wanted.as_bytes());
        }
    }
    // `pwrite` is gone, which was not announced.
    file.write_all_at(&[0; 512], 0).unwrap_err();
    drop(file);
    disk.detach();
}

on_each!(a_disk_lives_through_the_nastiest_callbacks);
