//! The users of files and loop devices of this machine are found.

use std::io::Read;
use std::process::Stdio;

use super::*;
use crate::testing::{Looped, can_loop, container, fresh, possible, run, soon};

fn own() -> User {
    let command = fs::read_to_string("/proc/self/comm")
        .unwrap()
        .trim_end()
        .to_owned();
    User::Open {
        pid: std::process::id(),
        command,
    }
}

#[test]
fn an_open_file_names_its_process() {
    let path = fresh("open");
    assert!(!users(&path, &[]).unwrap().contains(&own()));
    let open = File::open(&path).unwrap();
    assert!(users(&path, &[]).unwrap().contains(&own()));
    let me = [std::process::id()];
    assert!(!users(&path, &me).unwrap().contains(&own()));
    let link = path.with_extension("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(users(&link, &[]).unwrap().contains(&own()));
    drop(open);
    fs::remove_file(&link).unwrap();
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_missing_path_is_an_error() {
    let error = users(Path::new("/no/such/thing"), &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

/// The users of a device that matter: a child of another test has this test's files until it executes
/// its program, and udev may look at a new device.
fn stable(path: &Path) -> Vec<User> {
    let found = users(path, &[std::process::id()]).unwrap().into_iter();
    found
        .filter(|user| !matches!(user, User::Open { .. }))
        .collect()
}

#[test]
fn a_loop_device_on_a_file_and_on_a_device_is_found() {
    if !can_loop() {
        return;
    }
    let path = fresh("loop");
    let looped = Looped::on(&path);
    let device = looped.0.path();
    let backing = User::LoopBacking {
        device: device.clone(),
    };
    assert_eq!(stable(&path), [backing]);
    assert_eq!(stable(&device), []);
    let above = Looped::on(&device);
    let backing = User::LoopBacking {
        device: above.0.path(),
    };
    assert_eq!(stable(&device), [backing]);
    drop(above);
    drop(looped);
    fs::remove_file(&path).unwrap();
}

/// Mount the filesystem that `make` makes, and see that the mount is found.
fn mounted_is_found(name: &str, size: u64, make: &[&str]) {
    let path = fresh(name);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size)
        .unwrap();
    let at = path.with_extension("mount");
    fs::create_dir(&at).unwrap();
    let looped = Looped::on(&path);
    let device = looped.0.path();
    let (program, options) = make.split_first().unwrap();
    let arguments: Vec<&Path> = options.iter().map(Path::new).chain([&*device]).collect();
    if possible(program, &arguments) && possible("mount", &[&device, &at]) {
        let mounted = User::Mounted { at: at.clone() };
        assert_eq!(stable(&device), [mounted]);
        assert!(held_exclusively(&device).unwrap());
        run("umount", &[&at]);
        // A mount namespace that was made meanwhile has the mount as long as it lives.
        soon("it is held no more", || !held_exclusively(&device).unwrap());
        assert_eq!(stable(&device), []);
    }
    fs::remove_dir(&at).unwrap();
    drop(looped);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_mounted_filesystem_is_found() {
    if can_loop() {
        mounted_is_found("ext4", 8 << 20, &["mkfs.ext4", "-q"]);
    }
}

#[test]
fn a_filesystem_with_a_number_of_its_own_is_found() {
    if can_loop() {
        mounted_is_found("btrfs", 256 << 20, &["mkfs.btrfs", "-q"]);
    }
}

#[test]
fn a_mounted_partition_counts_as_the_device() {
    if !can_loop() {
        return;
    }
    let path = fresh("partition");
    // A partition table with one Linux partition of 8 MiB at 1 MiB.
    let mut table = [0; 512];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&16384_u32.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, table).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();

    let at = path.with_extension("mount");
    fs::create_dir(&at).unwrap();
    let looped = Looped::on(&path);
    let device = looped.0.path();
    let partition = PathBuf::from(format!("{}p1", device.display()));
    if possible("mkfs.ext4", &[Path::new("-q"), &partition]) {
        run("mount", &[&partition, &at]);
        let mounted = User::Mounted { at: at.clone() };
        assert_eq!(stable(&device), [mounted]);
        run("umount", &[&at]);
    }
    fs::remove_dir(&at).unwrap();
    drop(looped);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_mount_in_another_namespace_is_noticed() {
    if !can_loop() {
        return;
    }
    let path = fresh("elsewhere");
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let at = path.with_extension("mount");
    fs::create_dir(&at).unwrap();
    let looped = Looped::on(&path);
    let device = looped.0.path();
    run("mkfs.ext4", &[Path::new("-q"), &device]);
    let script = format!(
        "mount {} {} && echo mounted && read line",
        device.display(),
        at.display()
    );
    let mut container = container()
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 8];
    container
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(stable(&device), [User::Elsewhere]);
    drop(container.stdin.take());
    container.wait().unwrap();
    assert_eq!(stable(&device), []);
    fs::remove_dir(&at).unwrap();
    drop(looped);
    fs::remove_file(&path).unwrap();
}

#[test]
fn swap_is_found() {
    if !can_loop() {
        return;
    }
    let path = fresh("swap");
    let looped = Looped::on(&path);
    let device = looped.0.path();
    if possible("mkswap", &[&device]) && possible("swapon", &[&device]) {
        assert_eq!(stable(&device), [User::Swap]);
        run("swapoff", &[&device]);
    }
    drop(looped);
    fs::remove_file(&path).unwrap();
}

#[test]
fn users_read_as_a_sentence() {
    let open = User::Open {
        pid: 12,
        command: "fio".into(),
    };
    assert_eq!(open.to_string(), "is open in fio (pid 12)");
    let holder = User::Holder {
        device: "dm-0".into(),
    };
    assert_eq!(holder.to_string(), "is part of /dev/dm-0");
}
