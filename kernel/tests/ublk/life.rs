//! Starting, stopping, and signals.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pydisk_kernel::ublk::{Handler, Io, State, info, remove_leftover};
use pydisk_kernel::{DeviceError, DeviceName, Driver};
use rustix::io::Errno;

use crate::support::{
    Memory, WAYS, Way, available, everything, fresh_id, identity, open_direct, read_page, scaled,
    write_page,
};

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs alone in a process of its own, because it counts what the process has.
#[test]
fn two_hundred_devices_leave_nothing_behind() {
    if !available() || !alone("life::two_hundred_devices_leave_nothing_behind") {
        return;
    }
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = (open_files(), threads());
    for round in 0..scaled(200) {
        let way = WAYS[round % WAYS.len()];
        let running = way.start(&everything(1 << 20), Memory::new(1 << 20));
        let (id, path) = (running.id(), running.device_path().to_owned());
        assert!(path.exists());
        running.stop().unwrap();
        assert!(!path.exists(), "round {round}");
        assert_eq!(
            info(id),
            Err(DeviceError::NoSuchDevice(id)),
            "round {round}"
        );
    }
    // The kernel's own threads of a ring go a moment after it was closed.
    let deadline = Instant::now() + Duration::from_secs(60);
    while (open_files(), threads()) != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((open_files(), threads()), before);
}

/// Whether this process runs this one test only; if not, it is run in a process that does.
fn alone(test: &str) -> bool {
    if std::env::var("PYDISK_ALONE").as_deref() == Ok(test) {
        return true;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("PYDISK_ALONE", test)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

#[test]
fn a_device_that_is_not_started_goes_when_it_is_dropped() {
    if !available() {
        return;
    }
    for way in WAYS {
        let device = way.add(Some(fresh_id()), &everything(1 << 20)).unwrap();
        let id = device.id();
        assert_eq!(info(id).unwrap().state, State::Dead);
        drop(device);
        assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
    }
}

/// The number of open files is the limit that is met between one lane and the next; it is that of
/// the whole process, so this needs one of its own.
#[test]
fn a_start_that_fails_halfway_leaves_nothing() {
    if !available() || !alone("life::a_start_that_fails_halfway_leaves_nothing") {
        return;
    }
    for way in WAYS {
        let mut refused = 0;
        for more in 0..20 {
            let before = open_files();
            let device = way.add(Some(fresh_id()), &everything(1 << 20)).unwrap();
            let id = device.id();
            // Counting takes one file itself, and the device has one.
            let old = limit_files(open_files() + more);
            let outcome = device.start(Memory::new(1 << 20), |_| {});
            limit_files(old);
            match outcome {
                Ok(running) => running.stop().unwrap(),
                Err(why) => {
                    refused += 1;
                    println!("{way:?} with {more} files more: {why}");
                }
            }
            assert_eq!(
                info(id),
                Err(DeviceError::NoSuchDevice(id)),
                "{way:?} {more}"
            );
            assert_eq!(open_files(), before);
        }
        assert!(
            (1..20).contains(&refused),
            "{way:?}: {refused} were refused"
        );
    }
}

/// Allow so many open files; gives what was allowed before.
fn limit_files(count: usize) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads and writes one structure.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let old = limit.rlim_cur;
        limit.rlim_cur = count as u64;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        usize::try_from(old).unwrap()
    }
}

#[test]
fn dirty_pages_are_written_before_the_device_goes() {
    if !available() {
        return;
    }
    for way in WAYS {
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        let disk = Memory::with(8 << 20, move |io| {
            if let pydisk_kernel::ublk::Op::Write { data, .. } = &io.op {
                count.fetch_add(data.len(), Ordering::SeqCst);
            }
            Ok(())
        });
        let running = way.start(&everything(8 << 20), disk);
        // Through the page cache, and the device is still open when it is stopped.
        let id = running.id();
        let mut file = fs::File::options()
            .write(true)
            .open(running.device_path())
            .unwrap();
        std::io::Write::write_all(&mut file, &vec![5; 4 << 20]).unwrap();
        assert_eq!(
            running.stop(),
            Err(DeviceError::StillOpen(DeviceName(Driver::Ublk, id)))
        );
        assert_eq!(written.load(Ordering::SeqCst), 4 << 20, "{way:?}");
        // The number is free once the last one lets go.
        drop(file);
        remove_leftover(identity(id), Duration::from_secs(60)).unwrap();
        // It was marked for removal by the stop, and goes when the kernel comes to it.
        while info(id) != Err(DeviceError::NoSuchDevice(id)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Threads of this process that serve device `id`.
fn lanes(id: u32) -> Vec<libc::pid_t> {
    let name = format!("ublk-{id}");
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| {
            let task = task.unwrap();
            let comm = fs::read_to_string(task.path().join("comm")).ok()?;
            let comm = comm.trim_end();
            let ours = comm == name || comm.starts_with(&format!("{name}-"));
            ours.then(|| task.file_name().to_str().unwrap().parse().unwrap())
        })
        .collect()
}

#[test]
fn signals_do_not_end_a_lane() {
    if !available() {
        return;
    }
    // SAFETY: a handler that does nothing, without SA_RESTART, for a signal nobody else uses.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as libc::sighandler_t;
        assert_eq!(
            libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()),
            0
        );
    }
    for way in WAYS {
        let running = way.start(&everything(1 << 20), Memory::new(1 << 20));
        let lanes = lanes(running.id());
        assert!(!lanes.is_empty());
        let mut device = open_direct(running.device_path());
        for round in 0..20 {
            for &lane in &lanes {
                // SAFETY: a signal with a handler, to a thread of this process.
                let sent =
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), lane, libc::SIGUSR2) };
                assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
            }
            // Idle for a moment, so that the next signal meets a waiting thread again.
            std::thread::sleep(Duration::from_millis(5));
            write_page(&mut device, round, 3).unwrap();
            assert_eq!(read_page(&mut device, round).unwrap().0, [3; 4096]);
        }
        assert_eq!(info(running.id()).unwrap().state, State::Live);
        drop(device);
        running.stop().unwrap();
    }
}

/// Panics in the hook around a batch, before or after the work.
struct BadHook {
    disk: Arc<Memory>,
    calls: Mutex<u32>,
}

impl Handler for BadHook {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        self.disk.serve(io)
    }

    fn batch(&self, work: &mut dyn FnMut()) {
        let call = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        match call % 4 {
            0 => panic!("on purpose, before"),
            1 => {
                work();
                panic!("on purpose, after");
            }
            2 => {}
            _ => work(),
        }
    }
}

#[test]
fn a_request_is_answered_whatever_the_hook_does() {
    if !available() {
        return;
    }
    for way in WAYS {
        let handler = Arc::new(BadHook {
            disk: Memory::new(1 << 20),
            calls: Mutex::new(0),
        });
        let running = way.start(&everything(1 << 20), handler);
        let mut device = open_direct(running.device_path());
        for page in 0..40 {
            write_page(&mut device, page, 9).unwrap();
            assert_eq!(read_page(&mut device, page).unwrap().0, [9; 4096]);
        }
        drop(device);
        running.stop().unwrap();
    }
}

#[test]
fn a_device_that_cannot_be_read_is_not_usable() {
    if !available() {
        return;
    }
    let disk = Memory::with(1 << 20, |_| Err(Errno::IO));
    let device = Way::Serial
        .add(Some(fresh_id()), &everything(1 << 20))
        .unwrap();
    let running = device.start(disk, |_| {}).unwrap();
    let why = running
        .wait_until_usable(Duration::from_secs(60))
        .unwrap_err();
    assert!(
        matches!(&why, DeviceError::Node(text) if text.contains("first read")),
        "{why:?}"
    );
    running.stop().unwrap();
}

#[test]
fn a_read_that_is_not_answered_is_not_waited_for() {
    if !available() {
        return;
    }
    let answer = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&answer);
    let disk = Memory::with(1 << 20, move |_| {
        while !may.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let device = Way::Serial
        .add(Some(fresh_id()), &everything(1 << 20))
        .unwrap();
    // Kernels before 7.0 read the partition table before the device is there: let them.
    answer.store(true, Ordering::SeqCst);
    let running = device.start(disk, |_| {}).unwrap();
    answer.store(false, Ordering::SeqCst);
    // What the partition scan read is in the page cache.
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let outcome = running.wait_until_usable(Duration::from_millis(200));
    answer.store(true, Ordering::SeqCst);
    if outcome != Ok(()) {
        assert!(
            matches!(outcome, Err(DeviceError::Timeout { .. })),
            "{outcome:?}"
        );
    }
    running.wait_until_usable(Duration::from_secs(60)).unwrap();
    running.stop().unwrap();
}
