//! Programs that are killed while the disk hangs: they go at once, and nobody else notices.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::disk::{Op, OpenDisk, Request};

/// Nobody waits for a request in this block, but those after it.
const STUCK: u64 = 16 * 4096;

/// A disk whose first request in one block hangs, as the disk in memory would serve it.
#[derive(Debug)]
struct Stuck {
    disk: Arc<Recorder>,
    /// Requests in that block so far.
    count: AtomicU32,
    free: Mutex<bool>,
    freed: Condvar,
    /// It is done with the first of them.
    done: AtomicBool,
    /// The memory of all requests, in the order in which they came.
    memory: Mutex<Vec<usize>>,
}

impl Stuck {
    fn new(parallel: bool) -> Arc<Self> {
        let disk = Recorder::new(MIB, |limits| limits.parallel = parallel);
        disk.fill(|at| u8::try_from(at / 4096 % 251).unwrap());
        Arc::new(Self {
            disk,
            count: AtomicU32::new(0),
            free: Mutex::new(false),
            freed: Condvar::new(),
            done: AtomicBool::new(false),
            memory: Mutex::default(),
        })
    }

    fn hangs(&self) -> bool {
        self.count() > 0 && !*self.free.lock()
    }

    fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    fn free(&self) {
        *self.free.lock() = true;
        self.freed.notify_all();
    }

    fn start(self: &Arc<Self>, bench: &Bench) -> Box<dyn crate::frontends::Published> {
        let disk = Arc::clone(self) as Arc<dyn OpenDisk>;
        start(&bench.path(), disk, &bench.options, bench.teller.clone()).unwrap()
    }
}

impl Disk for Stuck {
    fn limits(&self) -> &Limits {
        self.disk.limits()
    }

    fn serve(&self, request: Request<'_>) -> crate::disk::Result {
        if let Op::Read(buf) = &request.op {
            self.memory.lock().push(buf.as_ptr() as usize);
        }
        let is_stuck = request.at == STUCK || request.op.kind() == OpKind::Flush;
        if !is_stuck || self.count.fetch_add(1, Ordering::AcqRel) > 0 {
            return self.disk.serve(request);
        }
        self.freed.wait_while(&mut self.free.lock(), |free| !*free);
        let served = self.disk.serve(request);
        self.done.store(true, Ordering::Release);
        served
    }
}

impl OpenDisk for Stuck {}

/// Run a shell command, from which no core dump is left.
fn shell(command: &str) -> Child {
    // Who runs the tests may ignore these, and so would the command. What is handled here has its default there.
    for signal in [Signal::INT, Signal::QUIT] {
        let default = Arc::new(true.into());
        signal_hook::flag::register_conditional_default(signal.as_raw(), default).unwrap();
    }
    Command::new("sh")
        .args(["-ec", &format!("ulimit -c 0; exec {command}")])
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[track_caller]
fn goes(mut child: Child) {
    soon("the killed program is gone", || {
        child.try_wait().unwrap().is_some()
    });
}

/// A read of the block with this number.
fn reads(path: &Path, block: u64) -> Child {
    let path = path.display();
    shell(&format!(
        "dd if={path} of=/dev/null bs=4096 skip={block} count=1"
    ))
}

#[test]
fn whoever_is_killed_goes_while_the_disk_hangs() {
    if !can_mount() || !have(&["dd", "fallocate", "sync"]) {
        return;
    }
    let asks = [
        "dd if=FILE of=/dev/null bs=4096 skip=16 count=1",
        "dd if=/dev/zero of=FILE bs=4096 seek=16 count=1 conv=notrunc",
        "fallocate -p -o 65536 -l 4096 FILE",
        "sync FILE",
    ];
    let signals = [Signal::KILL, Signal::TERM, Signal::QUIT, Signal::INT];
    for parallel in [false, true] {
        for (ask, signal) in asks.into_iter().zip(signals) {
            let bench = Bench::new();
            let disk = Stuck::new(parallel);
            let attached = disk.start(&bench);
            let child = shell(&ask.replace("FILE", bench.path().to_str().unwrap()));
            soon("it hangs", || disk.hangs());
            kill(&child, signal);
            goes(child);
            assert!(disk.hangs(), "{ask}");
            disk.free();
            let file = open(&bench.path(), OFlags::empty()).unwrap();
            let mut block = [0; 4096];
            file.read_exact_at(&mut block, 17 * 4096).unwrap();
            assert_eq!(block, [17; 4096], "{ask}");
            drop(file);
            attached.stop().unwrap();
            soon("the disk is let go", || Arc::strong_count(&disk) == 1);
        }
    }
}

/// Whether a thread waits in the kernel.
fn waits(thread: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap_or_default();
    stat.contains(") S ") || stat.contains(") D ")
}

/// The kernel keeps their calls until a thread is free, and they close the file when they end.
#[test]
fn whoever_waits_behind_it_goes_too() {
    if !can_mount() || !have(&["dd"]) {
        return;
    }
    for parallel in [false, true] {
        let bench = Bench::new();
        let disk = Stuck::new(parallel);
        let attached = disk.start(&bench);
        let file = File::open(bench.path()).unwrap();
        let first = reads(&bench.path(), 16);
        soon("it hangs", || disk.hangs());
        disk.disk.mood(Mood::Hangs);
        let read = || {
            let mut dd = Command::new("dd");
            dd.args(["of=/dev/null", "bs=4096", "count=1"]);
            let stdin = Stdio::from(file.try_clone().unwrap());
            dd.stdin(stdin).stderr(Stdio::null()).spawn().unwrap()
        };
        let others: Vec<Child> = (0..20).map(|_| read()).collect();
        drop(file);
        soon("they wait", || others.iter().all(|other| waits(other.id())));
        for other in others.iter().chain([&first]) {
            kill(other, Signal::KILL);
        }
        others.into_iter().chain([first]).for_each(goes);
        assert!(disk.hangs());
        disk.disk.mood(Mood::Works);
        disk.free();
        attached.stop().unwrap();
    }
}

/// A program that reads a block in one system call, which is not tried again, and tells what it got.
const HANDLES: &str = "
import ctypes, os, signal, sys
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
signal.signal(signal.SIGQUIT, lambda *_: seen.append(1))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
buf = ctypes.create_string_buffer(4096)
file = os.open(sys.argv[1], os.O_RDONLY)
got = ctypes.CDLL(None).pread(file, buf, ctypes.c_size_t(4096), ctypes.c_long(16 * 4096))
print(got, buf.raw == bytes([16]) * 4096, len(seen) > 0)
signal.signal(signal.SIGINT, signal.SIG_IGN)
";

#[test]
fn a_signal_that_does_not_kill_shortens_no_read() {
    if !can_mount() || !have(&["dd", "python3"]) {
        return;
    }
    let bench = Bench::new();
    let disk = Stuck::new(true);
    let attached = disk.start(&bench);
    let script = bench.folder.path().join("handles.py");
    fs::write(&script, HANDLES).unwrap();
    let mut child = shell(&format!(
        "python3 {} {}",
        script.display(),
        bench.path().display()
    ));
    soon("it hangs", || disk.hangs());
    for signal in [Signal::USR1, Signal::QUIT, Signal::TERM, Signal::INT] {
        kill(&child, signal);
    }
    // Once somebody else who was killed has gone, the calls under way have been looked at.
    disk.disk.mood(Mood::Hangs);
    let other = reads(&bench.path(), 3);
    soon("it hangs as well", || disk.disk.is_waited_for());
    kill(&other, Signal::KILL);
    goes(other);
    assert!(child.try_wait().unwrap().is_none());
    disk.disk.mood(Mood::Works);
    disk.free();
    let mut told = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(told, "4096 True True\n");
    child.wait().unwrap();
    assert_eq!(disk.count(), 1, "it was asked again");
    attached.stop().unwrap();
}

/// A late write would undo one that was acknowledged meanwhile.
#[test]
fn a_later_write_waits_for_that_of_a_killed_program() {
    if !can_mount() || !have(&["dd"]) {
        return;
    }
    let mut bench = Bench::new();
    bench.options.lanes = 3;
    let disk = Stuck::new(true);
    let attached = disk.start(&bench);
    let path = bench.path();
    let killed = shell(&format!(
        "dd if=/dev/zero of={} bs=4096 seek=16 count=1 conv=notrunc",
        path.display()
    ));
    soon("it hangs", || disk.hangs());
    kill(&killed, Signal::KILL);
    goes(killed);
    let file = Arc::new(open(&path, OFlags::empty()).unwrap());
    let (tell, told) = mpsc::channel();
    let writer = {
        let file = Arc::clone(&file);
        thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            file.write_all_at(&[9; 8192], STUCK - 4096)
        })
    };
    let thread = told.recv().unwrap().as_raw_nonzero().get();
    soon("it waits", || {
        waits(thread.cast_unsigned()) || writer.is_finished()
    });
    // Calls are taken in their order, and the third lane is free for these.
    for _ in 0..100 {
        file.write_all_at(&[5; 4096], 0).unwrap();
        file.read_exact_at(&mut [0; 4096], STUCK).unwrap();
    }
    assert!(!writer.is_finished());
    disk.free();
    writer.join().unwrap().unwrap();
    let mut block = [0; 8192];
    file.read_exact_at(&mut block, STUCK - 4096).unwrap();
    assert_eq!(block, [9; 8192]);
    let mut asked = disk.disk.asked();
    asked.retain(|(_, at, ..)| *at > 0);
    let write = |at, len| (OpKind::Write, at, len, Flags::empty());
    assert_eq!(asked, [write(STUCK, 4096), write(STUCK - 4096, 8192)]);
    drop(file);
    attached.stop().unwrap();
}

#[test]
fn the_late_answer_and_its_memory_reach_nobody_else() {
    if !can_mount() || !have(&["dd"]) {
        return;
    }
    let bench = Bench::new();
    let disk = Stuck::new(true);
    let attached = disk.start(&bench);
    let killed = reads(&bench.path(), 16);
    soon("it hangs", || disk.hangs());
    kill(&killed, Signal::KILL);
    goes(killed);
    let file = open(&bench.path(), OFlags::empty()).unwrap();
    let read_all = || {
        for block in (0..256).filter(|block| *block != 16) {
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, block * 4096).unwrap();
            assert_eq!(bytes, [u8::try_from(block % 251).unwrap(); 4096]);
        }
    };
    read_all();
    let memory = std::mem::take(&mut *disk.memory.lock());
    assert_eq!(memory.len(), 256);
    assert!(!memory[1..].contains(&memory[0]), "it was lent twice");
    disk.free();
    soon("it is done", || disk.done.load(Ordering::Acquire));
    read_all();
    drop(file);
    attached.stop().unwrap();
}

/// What a killed program has asked for in many steps ends between two of them.
#[test]
fn a_request_of_years_ends_with_its_program() {
    if !can_mount() || !have(&["fallocate"]) {
        return;
    }
    let bench = Bench::new();
    let mut limits = Limits::read_only(1 << 60);
    (limits.read_only, limits.zero) = (false, true);
    let disk = Arc::new(super::life::Endless(limits, AtomicU64::new(0)));
    let below = Arc::clone(&disk) as Arc<dyn OpenDisk>;
    let attached = start(&bench.path(), below, &bench.options, bench.teller.clone()).unwrap();
    let path = bench.path();
    let zeroes = shell(&format!(
        "fallocate -z -o 0 -l {} {}",
        1_u64 << 60,
        path.display()
    ));
    let count = || disk.1.load(Ordering::Relaxed);
    soon("it has begun", || count() > 3);
    kill(&zeroes, Signal::KILL);
    goes(zeroes);
    let before = std::cell::Cell::new(0);
    soon("the disk has peace", || before.replace(count()) == count());
    attached.stop().unwrap();
}
