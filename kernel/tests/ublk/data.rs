//! What is written is read back, by real programs, in every way of serving.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pydisk_kernel::ublk::{Handler, Io, Op};
use rustix::io::Errno;

use crate::support::{Memory, WAYS, Way, available, everything, open_direct, read_page, run};

const SIZE: usize = 64 << 20;

#[test]
fn fio_finds_what_it_wrote() {
    if !available() {
        return;
    }
    for way in WAYS {
        let running = way.start(&everything(SIZE as u64), Memory::new(SIZE));
        run(Command::new("fio")
            .args([
                "--name=verify",
                "--rw=randwrite",
                "--bsrange=4k-1m",
                "--blockalign=4k",
            ])
            .args([
                "--ioengine=libaio",
                "--direct=1",
                "--iodepth=32",
                "--verify=crc32c",
            ])
            .args([
                "--verify_fatal=1",
                "--do_verify=1",
                "--randrepeat=0",
                "--verify_state_save=0",
                "--end_fsync=1",
            ])
            .arg(format!("--filename={}", running.device_path().display())));
        running.stop().unwrap();
    }
}

#[test]
fn a_file_system_survives_a_remount() {
    if !available() {
        return;
    }
    for way in WAYS {
        let running = way.start(&everything(SIZE as u64), Memory::new(SIZE));
        let device = running.device_path().to_owned();
        let at = tempfile::tempdir().unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&device));
        let text: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
        run(Command::new("mount").arg(&device).arg(at.path()));
        fs::write(at.path().join("file"), &text).unwrap();
        run(Command::new("fstrim").arg(at.path()));
        run(Command::new("umount").arg(at.path()));
        run(Command::new("fsck.ext4").args(["-f", "-n"]).arg(&device));
        run(Command::new("mount").arg(&device).arg(at.path()));
        assert!(fs::read(at.path().join("file")).unwrap() == text, "{way:?}");
        run(Command::new("umount").arg(at.path()));
        running.stop().unwrap();
    }
}

/// Counts how many requests it serves at a time.
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
    enough: AtomicBool,
}

impl Handler for Crowd {
    fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
        let Op::Read(memory) = io.op else {
            return Ok(());
        };
        memory.fill(0);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Four readers are on their way: wait for them, if they can all be here.
        while io.at >= 1 << 20 && now < 4 && !self.enough.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
            if self.most.load(Ordering::SeqCst) >= 4 {
                self.enough.store(true, Ordering::SeqCst);
            }
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn lanes_serve_at_the_same_time() {
    if !available() {
        return;
    }
    for way in [Way::Lanes, Way::Pool] {
        let crowd = Arc::new(Crowd {
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            enough: AtomicBool::new(false),
        });
        let running = way.start(
            &everything(SIZE as u64),
            Arc::clone(&crowd) as Arc<dyn Handler>,
        );
        // A crowd that never forms would wait for ever: this test ends only if four are served.
        thread::scope(|scope| {
            for reader in 1..5 {
                let path = running.device_path();
                // Far from each other, or the block layer would make one request of them.
                scope.spawn(move || read_page(&mut open_direct(path), 1024 * reader).map(drop));
            }
        });
        assert_eq!(crowd.most.load(Ordering::SeqCst), 4, "{way:?}");
        running.stop().unwrap();
    }
}

#[test]
fn a_serial_device_is_served_by_one_thread() {
    if !available() {
        return;
    }
    let inside = AtomicUsize::new(0);
    let disk = Memory::with(SIZE, move |_| {
        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
        inside.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    let running = Way::Serial.start(&everything(SIZE as u64), disk);
    run(Command::new("fio")
        .args([
            "--name=many",
            "--rw=randrw",
            "--bs=4k",
            "--ioengine=libaio",
            "--direct=1",
        ])
        .args(["--iodepth=32", "--numjobs=2", "--size=8m"])
        .arg(format!("--filename={}", running.device_path().display())));
    running.stop().unwrap();
}
