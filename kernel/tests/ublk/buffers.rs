//! Memory that a handler keeps is never used for another request.

use std::process::Command;
use std::sync::{Arc, Mutex};

use pydisk_kernel::ublk::{Handler, Io, Op, Owner, Params};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{
    Memory, WAYS, available, everything, open_direct, read_page, run, write_page,
};

const SIZE: usize = 16 << 20;

/// What was kept: memory, and what it held at the end of its request.
struct Kept {
    start: usize,
    held: Vec<u8>,
    owner: Owner,
}

/// Keeps the memory of every request, up to a number.
struct Keeper {
    disk: Arc<Memory>,
    kept: Mutex<Vec<Kept>>,
}

/// More would be gigabytes of address space, nothing else.
const MOST: usize = 500;

impl Handler for Keeper {
    fn serve(&self, mut io: Io<'_>) -> Result<(), Errno> {
        let owner = Arc::clone(io.owner);
        let (start, len) = match &mut io.op {
            Op::Read(memory) => (memory.as_ptr().addr(), memory.len()),
            Op::Write { data, .. } => (data.as_ptr().addr(), data.len()),
            _ => return self.disk.serve(io),
        };
        self.disk.serve(io)?;
        // SAFETY: `owner` keeps the memory, and nobody writes to it after the request.
        let held = unsafe { std::slice::from_raw_parts(start as *const u8, len) }.to_vec();
        let mut kept = self.kept.lock().unwrap();
        if kept.len() == MOST {
            kept.remove(0).check();
        }
        kept.push(Kept { start, held, owner });
        Ok(())
    }
}

impl Kept {
    fn check(self) {
        // SAFETY: `owner` still keeps the memory.
        let now = unsafe { std::slice::from_raw_parts(self.start as *const u8, self.held.len()) };
        assert!(now == self.held, "the memory was used for another request");
        drop(self.owner);
    }
}

#[test]
fn kept_memory_never_shows_another_request() {
    if !available() {
        return;
    }
    for way in WAYS {
        let keeper = Arc::new(Keeper {
            disk: Memory::new(SIZE),
            kept: Mutex::default(),
        });
        let running = way.start(
            &everything(SIZE as u64),
            Arc::clone(&keeper) as Arc<dyn Handler>,
        );
        // 1536 writes with their verifying reads, all of which must find what was written although
        // every single request gets fresh memory.
        run(Command::new("fio")
            .args(["--name=kept", "--rw=randwrite", "--bs=4k", "--size=6m"])
            .args([
                "--ioengine=libaio",
                "--direct=1",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
            ])
            .args(["--do_verify=1", "--randrepeat=0", "--verify_state_save=0"])
            .arg(format!("--filename={}", running.device_path().display())));
        running.stop().unwrap();
        let kept = std::mem::take(&mut *keeper.kept.lock().unwrap());
        assert_eq!(kept.len(), MOST);
        kept.into_iter().for_each(Kept::check);
    }
}

/// Keeps the memory of one read, and lets the process have no more until the hook around it is left.
struct Greedy {
    disk: Arc<Memory>,
    kept: Mutex<Option<Owner>>,
    more: Mutex<Option<Rlimit>>,
}

impl Handler for Greedy {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        if io.at == 5 * 4096 {
            *self.kept.lock().unwrap() = Some(Arc::clone(io.owner));
            let before = getrlimit(Resource::As);
            *self.more.lock().unwrap() = Some(before);
            let used = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = used.split(' ').next().unwrap().parse().unwrap();
            // Room for whatever else happens, and for no buffer.
            let current = Some(pages * 4096 + (16 << 20));
            setrlimit(Resource::As, Rlimit { current, ..before }).unwrap();
        }
        self.disk.serve(io)
    }

    fn batch(&self, work: &mut dyn FnMut()) {
        work();
        if let Some(before) = self.more.lock().unwrap().take() {
            setrlimit(Resource::As, before).unwrap();
        }
    }
}

/// The hook may hold a lock without which nobody can give memory back: Python's.
#[test]
fn memory_is_not_waited_for_inside_the_hook_around_a_batch() {
    if !available() {
        return;
    }
    for way in WAYS {
        let greedy = Arc::new(Greedy {
            disk: Memory::new(SIZE),
            kept: Mutex::default(),
            more: Mutex::default(),
        });
        let params = Params {
            max_io_bytes: 32 << 20,
            ..everything(SIZE as u64)
        };
        let running = way.start(&params, Arc::clone(&greedy) as Arc<dyn Handler>);
        let mut device = open_direct(running.device_path());
        for page in [5, 6] {
            assert_eq!(
                read_page(&mut device, page).unwrap().0,
                [0; 4096],
                "{way:?}"
            );
        }
        assert!(greedy.kept.lock().unwrap().take().is_some());
        drop(device);
        running.stop().unwrap();
    }
}

#[test]
fn a_failed_read_hands_out_nothing() {
    if !available() {
        return;
    }
    for way in WAYS {
        let disk = Memory::with(1 << 20, |io| match (&io.op, io.at) {
            (Op::Read(_), 40_960) => Err(Errno::IO),
            _ => Ok(()),
        });
        let running = way.start(&everything(1 << 20), disk);
        let mut device = open_direct(running.device_path());
        // Leaves something in the memory of every tag.
        for page in 100..200 {
            write_page(&mut device, page, 0x55).unwrap();
        }
        let mut page = crate::support::Page([0xAA; 4096]);
        let failed = std::os::unix::fs::FileExt::read_at(&device, &mut page.0, 40_960);
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(page.0.iter().all(|&byte| byte != 0x55));
        assert_eq!(read_page(&mut device, 11).unwrap().0, [0; 4096]);
        drop(device);
        running.stop().unwrap();
    }
}
