//! A disk as a loop device on this machine's kernel, used by real programs.

use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use std::fs::{File, OpenOptions};

use super::*;
use crate::disk::{Flags, OpKind};
use crate::frontends::Target;
use crate::frontends::testing::{
    Bench, Recorder, a_hundred_times, can_loop, childs_folder, have, serve_and_kill, sh, soon,
};

const MIB: u64 = 1 << 20;
const ANY: Target = Target::Loop(None);

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// A number that the kernel has no device for, nor is likely to get on its own, nor another test.
fn unused() -> u32 {
    static USED: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + std::process::id() % 10_000 * 10;
    let taken = || first + USED.fetch_add(1, Ordering::Relaxed);
    std::iter::repeat_with(taken)
        .find(|index| !LoopDevice::at(*index).exists())
        .unwrap()
}

fn device_of(path: &Path) -> LoopDevice {
    let number = path.to_str().unwrap().strip_prefix("/dev/loop").unwrap();
    LoopDevice::at(number.parse().unwrap())
}

#[test]
fn the_device_is_the_disk_and_goes_when_stopped() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(1_000_001, |_| {});
    disk.fill(|at| u8::try_from(at % 251).unwrap());
    let attached = bench.start(&ANY, &disk).unwrap();
    let path = attached.path().to_owned();
    let device = device_of(&path);
    assert_eq!(device.size().unwrap(), 1_000_001 / 512 * 512);
    assert!(device.direct_io());
    let read = fs::read(&path).unwrap();
    assert!(read == disk.bytes()[..read.len()]);
    let file = open(&path);
    file.write_all_at(b"pydisk", 600).unwrap();
    file.sync_all().unwrap();
    assert_eq!(&disk.bytes()[600..606], b"pydisk");
    assert!(disk.asked().iter().any(|asked| asked.0 == OpKind::Flush));
    drop(file);
    attached.stop().unwrap();
    let hidden = bench.folder.path().join(FILE);
    assert_ne!(device.backing_file(), Some(hidden.clone()));
    assert!(!hidden.exists());
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
    assert_eq!(Arc::strong_count(&disk), 1);
    assert!(bench.ended.try_recv().is_err());
}

#[test]
fn discarding_and_zeroing_read_back_as_zeroes() {
    if !can_loop() || !have(&["blkdiscard"]) {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(8 * MIB, |_| {});
    disk.fill(|_| 9);
    let attached = bench.start(&ANY, &disk).unwrap();
    let path = attached.path().display().to_string();
    let whole = 8 * MIB;
    for (command, flags) in [
        ("blkdiscard -f", Flags::MAY_TRIM),
        ("blkdiscard -f -z", Flags::empty()),
    ] {
        disk.fill(|_| 9);
        disk.asked();
        sh(&format!("{command} {path}"));
        let zeroes = disk
            .asked()
            .into_iter()
            .filter(|asked| asked.0 != OpKind::Flush);
        assert_eq!(
            zeroes.collect::<Vec<_>>(),
            [(OpKind::Zero, 0, whole, flags)],
            "{command}"
        );
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
    }
    attached.stop().unwrap();
}

#[test]
fn a_filesystem_lives_on_it() {
    if !can_loop() || !have(&["mkfs.ext4", "fstrim", "fsck.ext4", "diff"]) {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(64 * MIB, |limits| limits.parallel = false);
    let attached = bench.start(&ANY, &disk).unwrap();
    let device = attached.path().display().to_string();
    let at = bench.folder.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let at = at.display();
    sh(&format!(
        "mkfs.ext4 -q {device}; mount {device} {at}; cp -r {sources} {at}/; rm -r {at}/src/disk; \
         fstrim {at}; cp -r {sources} {at}/; sync -f {at}; umount {at}; fsck.ext4 -fn {device}; \
         mount {device} {at}; diff -r {sources} {at}/src; umount {at}"
    ));
    attached.stop().unwrap();
}

#[test]
fn a_named_device_is_made_and_one_in_use_is_refused() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |limits| limits.read_only = true);
    let device = LoopDevice::at(unused());
    let target = Target::Loop(Some(device.index()));
    let attached = bench.start(&target, &disk).unwrap();
    assert_eq!(attached.path(), device.path());
    assert_eq!(
        sh(&format!("blockdev --getro {}", device.path().display())),
        "1\n"
    );

    let second = Bench::new();
    let refusal = second.start(&target, &disk).err().unwrap().to_string();
    let file = bench.folder.path().join(FILE);
    let said = format!(
        "{target} is in use: it is the loop device of `{}`",
        file.display()
    );
    assert!(refusal.starts_with(&said), "{refusal}");
    assert_eq!(fs::read_dir(second.folder.path()).unwrap().count(), 0);
    assert_eq!(device.backing_file(), Some(file));

    attached.stop().unwrap();
    assert!(!device.exists());
}

#[test]
fn an_error_is_known_by_its_number() {
    let error = io::Error::from(Errno::NXIO);
    assert!(is_errno(&error, Errno::NXIO));
    assert!(!is_errno(&error, Errno::BUSY));
}

#[test]
fn detaching_from_outside_is_told_once() {
    if !can_loop() || !have(&["losetup"]) {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let attached = bench.start(&ANY, &disk).unwrap();
    let path = attached.path().display().to_string();
    sh(&format!("cat {path} > /dev/null"));
    assert!(bench.ended.try_recv().is_err());
    sh(&format!("losetup -d {path}"));
    let told = bench.ended.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(told, format!("{path}: detached from outside"));
    attached.stop().unwrap();
    assert!(bench.ended.try_recv().is_err());
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_device_that_is_open_fails_its_requests_after_the_stop() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let target = Target::Loop(Some(unused()));
    let attached = bench.start(&target, &disk).unwrap();
    let device = device_of(attached.path());
    let file = open(attached.path());
    attached.stop().unwrap();
    assert!(file.read_exact_at(&mut [0; 4096], 65536).is_err());
    assert_eq!(Arc::strong_count(&disk), 1);
    drop(file);
    soon("the device lets go of its file", || {
        device.backing_file().is_none()
    });
    remove_leftover(&bench.dead()).unwrap();
    assert!(!device.exists());
}

#[test]
fn a_disk_that_cannot_be_read_is_refused_and_leaves_nothing() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    disk.mood(crate::frontends::testing::Mood::Fails(Errno::IO));
    let refusal = bench.start(&ANY, &disk).err().unwrap().to_string();
    assert!(
        refusal.contains("reading the first 4096 bytes: Input/output error"),
        "{refusal}"
    );
    assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
    let tiny = Recorder::new(511, |_| {});
    let refusal = bench.start(&ANY, &tiny).err().unwrap().to_string();
    assert!(refusal.contains("at least 512 bytes"), "{refusal}");
}

#[test]
#[ignore = "serves until another test kills its process"]
fn serves_until_killed() {
    let bench = Bench::of_child();
    let disk = Recorder::new(MIB, |_| {});
    let number = fs::read_to_string(childs_folder().join("number")).unwrap();
    let target = Target::Loop(Some(number.parse().unwrap()));
    let _attached = bench.start(&target, &disk).unwrap();
    fs::write(childs_folder().join("ready"), "").unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let folder = bench.folder.path();
    let device = LoopDevice::at(unused());
    fs::write(folder.join("number"), device.index().to_string()).unwrap();
    let helper = "frontends::loopback::tests::serves_until_killed";
    serve_and_kill(helper, &bench, || folder.join("ready").exists());
    assert_eq!(device.backing_file(), Some(folder.join(FILE)));
    let mut read = Command::new("dd");
    read.arg(format!("if={}", device.path().display()))
        .arg("iflag=direct")
        .arg("of=/dev/null");
    assert!(!read.output().unwrap().status.success());
    let link = folder.join("link");
    std::os::unix::fs::symlink(folder, &link).unwrap();
    let none = folder.join("none");
    let dead_in = |folder| Dead {
        folder,
        ..bench.dead()
    };
    remove_leftover(&dead_in(&link)).unwrap();
    assert!(!device.exists());
    remove_leftover(&bench.dead()).unwrap();
    remove_leftover(&dead_in(&none)).unwrap();
    assert!(!folder.join(FILE).exists());
    assert!(!folder.join(ADDED).exists());
}

/// As where a mount namespace has ended: the kernel then shows `/` as the path of the file.
#[test]
fn a_device_whose_file_is_mounted_nowhere_is_taken_away() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let file = bench.folder.path().join(FILE).display().to_string();
    let target = Target::Loop(Some(unused()));
    let attached = bench.start(&target, &Recorder::new(MIB, |_| {})).unwrap();
    let device = device_of(attached.path());
    sh(&format!("umount -l {file}"));
    assert_eq!(device.backing_file(), Some("/".into()));
    attached.stop().unwrap();
    assert!(!device.exists());

    let bench = Bench::new();
    let folder = bench.folder.path();
    let device = LoopDevice::at(unused());
    fs::write(folder.join("number"), device.index().to_string()).unwrap();
    let helper = "frontends::loopback::tests::serves_until_killed";
    serve_and_kill(helper, &bench, || folder.join("ready").exists());
    sh(&format!("umount -l {}/{FILE}", folder.display()));
    remove_leftover(&bench.dead()).unwrap();
    assert!(!device.exists());
}

#[test]
fn a_device_of_another_one_is_left_alone() {
    if !can_loop() {
        return;
    }
    let bench = Bench::new();
    let attached = bench.start(&ANY, &Recorder::new(MIB, |_| {})).unwrap();
    let device = device_of(attached.path());
    let other = Bench::new();
    for identity in [None, Some(other.options.identity)] {
        let dead = Dead {
            identity,
            ..bench.dead()
        };
        remove_leftover(&dead).unwrap();
        let file = bench.folder.path().join(FILE);
        assert_eq!(device.backing_file(), Some(file));
    }
    attached.stop().unwrap();

    // One that was removed, and made again by somebody else.
    let device = LoopDevice::at(unused());
    device.add().unwrap();
    remember_added(device, other.folder.path()).unwrap();
    let note = fs::read_to_string(other.folder.path().join(ADDED)).unwrap();
    device.remove().unwrap();
    device.add().unwrap();
    for note in [note, device.index().to_string()] {
        fs::write(other.folder.path().join(ADDED), note).unwrap();
        remove_leftover(&other.dead()).unwrap();
        assert!(device.exists());
        assert!(!other.folder.path().join(ADDED).exists());
    }
    remember_added(device, other.folder.path()).unwrap();
    remove_leftover(&other.dead()).unwrap();
    assert!(!device.exists());
}

#[test]
fn a_device_says_whose_it_is_unless_it_is_too_large() {
    let bench = Bench::new();
    let (identity, file) = (bench.options.identity, Path::new("/file"));
    for size in [512, 1 << 61, (1 << 62) - 1] {
        let mark = Mark::new(identity, size, file);
        assert_eq!(mark, Mark::Limit(identity.bytes()));
        assert!(mark.limit() > size);
    }
    let largest = Mark::new(identity, i64::MAX.cast_unsigned(), file);
    assert_eq!((largest.limit(), largest), (0, Mark::File(file.to_owned())));
}

/// Counts what its process has, which is its own.
#[test]
fn a_hundred_cycles_leave_nothing() {
    if !can_loop() {
        return;
    }
    a_hundred_times(|| {
        let bench = Bench::new();
        let disk = Recorder::new(MIB, |_| {});
        let attached = bench.start(&ANY, &disk).unwrap();
        attached.stop().unwrap();
        assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
    });
}
