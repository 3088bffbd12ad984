//! How the file comes and goes: refused places, stopping, unmounting, killed processes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use pydisk_kernel::usage::{self, User};

use super::*;
use crate::disk::memory::Plain;
use crate::disk::{OpenDisk, Request};
use crate::layers::Emulate;

#[test]
fn a_place_that_holds_something_is_refused_and_kept() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let folder = bench.folder.path();
    let disk = Recorder::new(MIB, |_| {});
    let refusal = |name: &str| {
        let target = Target::File(folder.join(name));
        let refusal = bench.start(&target, &disk).err().unwrap().to_string();
        assert!(
            refusal.starts_with(&format!("target `{target}`: ")),
            "{refusal}"
        );
        refusal
    };
    fs::write(folder.join("full"), "data").unwrap();
    assert!(refusal("full").contains("a file of 4 bytes, which would be hidden"));
    assert_eq!(fs::read(folder.join("full")).unwrap(), b"data");
    assert!(refusal(".").contains("is a folder"));
    fs::create_dir(folder.join("sub")).unwrap();
    assert!(refusal("sub").contains("is a folder"));
    sh(&format!(
        "mkfifo {}/pipe; ln -s nothing {0}/dangling",
        folder.display()
    ));
    assert!(refusal("pipe").contains("neither a file nor free"));
    assert!(refusal("dangling").contains("symbolic link: No such file"));
    assert!(refusal("none/disk").contains("no folder `"));
    assert!(refusal("full/disk").contains("Not a directory"));

    fs::write(folder.join("empty"), "").unwrap();
    std::os::unix::fs::symlink("empty", folder.join("link")).unwrap();
    let attached = bench
        .start(&Target::File(folder.join("link")), &disk)
        .unwrap();
    assert_eq!(fs::metadata(folder.join("empty")).unwrap().len(), MIB);
    assert!(refusal("empty").contains("is mounted there already"));
    assert!(refusal("link").contains("is mounted there already"));
    attached.stop().unwrap();
    assert_eq!(fs::metadata(folder.join("empty")).unwrap().len(), 0);
    assert!(folder.join("link").is_symlink());
}

#[test]
fn unmounting_from_outside_is_told_once() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let attached = bench.file(&disk);
    mounts::unmount_fuse(&bench.path(), Unmount::Idle).unwrap();
    let told = bench.ended.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(
        told,
        format!("{}: unmounted from outside", bench.path().display())
    );
    attached.stop().unwrap();
    assert!(bench.ended.try_recv().is_err());
    assert!(!bench.path().exists());
}

#[test]
fn stopping_answers_requests_under_way_and_refuses_later_ones() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let attached = bench.file(&disk);
    let file = open(&bench.path(), OFlags::empty()).unwrap();
    disk.mood(Mood::Hangs);
    let writer = {
        let file = file.try_clone().unwrap();
        thread::spawn(move || file.write_all_at(&[4; 4096], 0))
    };
    soon("the write is under way", || !disk.asked().is_empty());
    let stopper = thread::spawn(move || attached.stop());
    soon("the file is still there while a request is", || {
        mounts::mounted_at(&bench.path()).unwrap().is_some()
    });
    disk.mood(Mood::Works);
    writer.join().unwrap().unwrap();
    stopper.join().unwrap().unwrap();
    assert_eq!(disk.bytes()[0], 4);
    assert!(file.read_exact_at(&mut [0; 512], 0).is_err());
    assert_eq!(disk.asked(), []);
    assert_eq!(Arc::strong_count(&disk), 1);
    assert!(!bench.path().exists());
    assert!(bench.ended.try_recv().is_err());
}

#[test]
fn a_request_that_never_ends_does_not_keep_the_stop() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let attached = bench.file(&disk);
    let file = open(&bench.path(), OFlags::empty()).unwrap();
    disk.mood(Mood::Hangs);
    let writer = thread::spawn(move || file.write_all_at(&[4; 4096], 0));
    soon("the write is under way", || !disk.asked().is_empty());
    let refusal = attached.stop().unwrap_err().to_string();
    assert!(
        refusal.ends_with("a request is still being served and does not end"),
        "{refusal}"
    );
    assert!(!bench.path().exists());
    disk.mood(Mood::Works);
    // Root ends FUSE with the request in it; otherwise it is answered now.
    assert_eq!(
        writer.join().unwrap().is_err(),
        rustix::process::geteuid().is_root()
    );
    soon("the disk is let go", || Arc::strong_count(&disk) == 1);
}

/// A disk that does one step after the other, in no time.
#[derive(Debug)]
pub(super) struct Endless(pub(super) Limits, pub(super) AtomicU64);

impl Disk for Endless {
    fn limits(&self) -> &Limits {
        &self.0
    }
    fn serve(&self, _: Request<'_>) -> crate::disk::Result {
        self.1.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl OpenDisk for Endless {}

#[test]
fn a_request_of_years_does_not_keep_the_stop() {
    if !can_mount() {
        return;
    }
    for (parallel, zero) in [(false, false), (true, false), (true, true)] {
        let bench = Bench::new();
        let mut limits = Limits::read_only(1 << 62);
        limits.parallel = parallel;
        limits.read_only = false;
        limits.zero = zero;
        let disk = Arc::new(Endless(limits, AtomicU64::new(0)));
        let layered = Arc::new(Plain(Emulate::new(Arc::clone(&disk))));
        let path = bench.path();
        let attached = start(&path, layered, &bench.options, bench.teller.clone()).unwrap();
        let file = open(&bench.path(), OFlags::empty()).unwrap();
        let zeroes = FallocateFlags::ZERO_RANGE;
        let zeroing = thread::spawn(move || fallocate(&file, zeroes, 0, 1 << 62));
        soon("it has begun", || disk.1.load(Ordering::Relaxed) > 3);
        attached.stop().unwrap();
        zeroing.join().unwrap().unwrap_err();
        soon("the disk is let go", || Arc::strong_count(&disk) == 1);
    }
}

#[test]
fn who_uses_a_file_is_found_also_when_its_disk_hangs() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |limits| limits.parallel = false);
    let attached = bench.file(&disk);
    let users = |path: PathBuf| {
        let (tell, told) = mpsc::channel();
        let find = move || tell.send(usage::users(&path, &[]).unwrap());
        thread::spawn(find);
        told.recv_timeout(Duration::from_secs(60))
            .expect("it must not wait for the disk")
    };
    let me = |user: &User| matches!(user, User::Open { pid, .. } if *pid == std::process::id());
    assert!(!users(bench.path()).iter().any(me));
    let file = open(&bench.path(), OFlags::empty()).unwrap();
    disk.mood(Mood::Hangs);
    let writer = thread::spawn(move || file.write_all_at(&[4; 4096], 0));
    soon("the write is under way", || !disk.asked().is_empty());
    assert!(users(bench.path()).iter().any(me));
    disk.mood(Mood::Works);
    writer.join().unwrap().unwrap();
    attached.stop().unwrap();
}

fn bind(from: &Path, to: &Path) {
    sh(&format!("mount --bind {} {}", from.display(), to.display()));
}

/// Another place of the file.
fn mounted_again(bench: &Bench) -> PathBuf {
    let second = bench.folder.path().join("second");
    fs::write(&second, "").unwrap();
    bind(&bench.path(), &second);
    second
}

#[test]
fn a_file_mounted_a_second_time_is_found() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let disk = Recorder::new(MIB, |_| {});
    let attached = bench.file(&disk);
    let second = mounted_again(&bench);
    let mounted = User::Mounted { at: second.clone() };
    assert!(usage::users(&bench.path(), &[]).unwrap().contains(&mounted));
    sh(&format!("umount {}", second.display()));
    assert!(!usage::users(&bench.path(), &[]).unwrap().contains(&mounted));
    attached.stop().unwrap();
}

/// A disk that knows whether a thread is in its lane.
#[derive(Debug)]
struct Occupied(Limits, AtomicBool);

impl Disk for Occupied {
    fn limits(&self) -> &Limits {
        &self.0
    }
    fn serve(&self, _: Request<'_>) -> crate::disk::Result {
        Ok(())
    }
}

impl OpenDisk for Occupied {
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        self.1.store(true, Ordering::Release);
        work();
        self.1.store(false, Ordering::Release);
    }
}

/// The thread that served may be the only one that can store and close what it has served.
#[test]
fn a_file_that_lives_on_at_another_place_lets_go_of_its_disk() {
    if !can_mount() || !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let mut limits = Limits::read_only(MIB);
    limits.parallel = false;
    let disk = Arc::new(Occupied(limits, AtomicBool::new(false)));
    let path = bench.path();
    let below: Arc<dyn OpenDisk> = Arc::clone(&disk) as _;
    let attached = start(&path, below, &bench.options, bench.teller.clone()).unwrap();
    soon("it is served", || disk.1.load(Ordering::Acquire));
    let second = mounted_again(&bench);
    attached.stop().unwrap();
    soon("the lane is left", || !disk.1.load(Ordering::Acquire));
    soon("the disk is let go", || Arc::strong_count(&disk) == 1);
    let read = File::open(&second).and_then(|file| file.read_exact_at(&mut [0; 512], 0));
    sh(&format!("umount {}", second.display()));
    // It is answered all the same.
    assert_eq!(code_of(read), Errno::IO);
}

#[test]
#[ignore = "serves until another test kills its process"]
fn serves_until_killed() {
    let bench = Bench::of_child();
    let disk = Recorder::new(MIB, |_| {});
    let path = childs_folder().join("disk");
    let _attached = bench.start(&Target::File(path), &disk).unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn what_a_killed_process_left_is_removed() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let path = bench.path();
    let helper = "frontends::fuse::tests::life::serves_until_killed";
    let there = || fs::metadata(&path).is_ok_and(|found| found.len() == MIB);
    serve_and_kill(helper, &bench, there);
    assert_eq!(code_of(File::open(&path)), Errno::NOTCONN);
    let disk = Recorder::new(MIB, |_| {});
    let refusal = bench
        .start(&Target::File(path.clone()), &disk)
        .err()
        .unwrap();
    assert!(
        refusal.to_string().contains("is mounted there already"),
        "{refusal}"
    );
    let remove = |path: &Path| remove_leftover(path, &bench.dead(), false).unwrap();
    remove(&path);
    assert!(!path.exists());
    remove(&path);
    remove(Path::new("/no/such/folder/disk"));

    fs::write(&path, "").unwrap();
    serve_and_kill(helper, &bench, there);
    remove(&path);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    bench.file(&disk).stop().unwrap();

    fs::write(&path, "data").unwrap();
    remove(&path);
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn what_others_put_at_the_place_of_a_killed_process_stays() {
    if !can_mount() {
        return;
    }
    let bench = Bench::new();
    let path = bench.path();
    let helper = "frontends::fuse::tests::life::serves_until_killed";
    let there = || fs::metadata(&path).is_ok_and(|found| found.len() == MIB);
    let remove = || remove_leftover(&path, &bench.dead(), true);
    serve_and_kill(helper, &bench, there);
    if rustix::process::geteuid().is_root() {
        let over = bench.folder.path().join("over");
        fs::write(&over, "data").unwrap();
        bind(&over, &path);
        let why = remove().unwrap_err().to_string();
        assert!(why.contains("is mounted over what is left there"), "{why}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
        sh(&format!("umount {}", path.display()));
    }
    mounts::unmount_fuse(&path, Unmount::Force).unwrap();
    // The file that was made for the dead one lives on elsewhere, so its number stays its own.
    fs::rename(&path, bench.folder.path().join("elsewhere")).unwrap();
    fs::write(&path, "").unwrap();
    remove().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // A living disk at the same place, of the same name.
    let mut other = Bench::new();
    other.options.name.clone_from(&bench.options.name);
    let disk = Recorder::new(MIB, |_| {});
    let attached = other.start(&Target::File(path.clone()), &disk).unwrap();
    remove().unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 1 << 20);
    attached.stop().unwrap();
}

/// Counts what its process has, which is its own.
#[test]
fn a_hundred_cycles_leave_nothing() {
    if !can_mount() {
        return;
    }
    a_hundred_times(|| {
        let bench = Bench::new();
        let disk = Recorder::new(MIB, |_| {});
        let attached = bench.file(&disk);
        assert_eq!(fs::read(bench.path()).unwrap().len(), 1 << 20);
        attached.stop().unwrap();
        assert_eq!(fs::read_dir(bench.folder.path()).unwrap().count(), 0);
    });
}
