//! Real filesystems and verified random I/O on Python disks, by every front end that makes a device.

use std::process::Command;

use support::device::{Attached, Kind, Mount, run};
use support::{on_each, on_each_device, repository, say, scale};

struct Filesystem {
    name: &'static str,
    make: &'static [&'static str],
    check: &'static [&'static str],
}

const FILESYSTEMS: [Filesystem; 3] = [
    Filesystem {
        name: "ext4",
        make: &["mkfs.ext4", "-q"],
        check: &["fsck.ext4", "-f", "-n"],
    },
    Filesystem {
        name: "xfs",
        make: &["mkfs.xfs", "-q", "-f"],
        check: &["xfs_repair", "-n"],
    },
    Filesystem {
        name: "btrfs",
        make: &["mkfs.btrfs", "-q", "-f"],
        check: &["btrfs", "check"],
    },
];

/// Whether the running kernel can mount it; the lab's and any distribution's can.
fn mountable(name: &str) -> bool {
    drop(Command::new("modprobe").arg(name).output());
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    let found = known
        .lines()
        .any(|line| line.split_whitespace().last() == Some(name));
    if !found {
        say(&format!(
            "skipped: {name}: this kernel has no such filesystem"
        ));
    }
    found
}

fn command(words: &[&str], device: &str) {
    run(words[0], words[1..].iter().copied().chain([device]));
}

/// What is copied: some of this repository, or at full scale most of it.
fn folders() -> &'static [&'static str] {
    const FOLDERS: [&str; 4] = ["kernel/src", "docs", "src", "tests"];
    if scale(10) < 10 {
        return &FOLDERS[..2];
    }
    &FOLDERS
}

/// A copy of this repository's sources comes back as it was, through trim, check and remount.
fn filesystems_keep_a_source_tree(kind: Kind) {
    for filesystem in &FILESYSTEMS {
        if !mountable(filesystem.name) {
            continue;
        }
        let disk = Attached::new(kind, &repository("examples/ramdisk.py"), &["size=400M"]);
        command(filesystem.make, disk.device());
        let at = disk.folder.path().join("mnt");
        let mount = Mount::new(disk.device(), at.clone());
        for folder in folders() {
            let to = at.join(folder);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            run(
                "cp",
                [
                    "-a".as_ref(),
                    repository(folder).as_os_str(),
                    to.as_os_str(),
                ],
            );
        }
        run("sync", ["-f".as_ref(), at.as_os_str()]);
        std::fs::write(at.join("gone"), vec![7; 1 << 20]).unwrap();
        std::fs::remove_file(at.join("gone")).unwrap();
        run("fstrim", ["-v".as_ref(), at.as_os_str()]);
        mount.unmount();
        command(filesystem.check, disk.device());
        let mount = Mount::new(disk.device(), at.clone());
        for folder in folders() {
            let copy = at.join(folder);
            run(
                "diff",
                [
                    "-r".as_ref(),
                    repository(folder).as_os_str(),
                    copy.as_os_str(),
                ],
            );
        }
        mount.unmount();
        disk.detach();
    }
}

on_each_device!(filesystems_keep_a_source_tree);

/// Random writes of 4 KiB to 1 MiB, 32 at a time, read back and compared by their checksums.
fn verifies(kind: Kind, plugin: &str, params: &[&str]) {
    let disk = Attached::new(kind, &repository(plugin), params);
    let seconds = std::env::var("PYDISK_FIO_SECONDS").unwrap_or_else(|_unset| "4".to_owned());
    let size = scale(64);
    run(
        "fio",
        [
            "--name=verify",
            &format!("--filename={}", disk.device()),
            "--rw=randwrite",
            "--bsrange=4k-1M",
            "--direct=1",
            "--ioengine=libaio",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_backlog=512",
            "--do_verify=1",
            &format!("--size={size}M"),
            "--time_based",
            &format!("--runtime={seconds}"),
            "--randseed=7",
            "--verify_state_save=0",
        ],
    );
    disk.detach();
}

fn fio_verifies_a_serial_plugin(kind: Kind) {
    verifies(kind, "examples/ramdisk.py", &["size=64M"]);
}

on_each!(fio_verifies_a_serial_plugin);

fn fio_verifies_a_parallel_plugin(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let backing = folder.path().join("backing");
    std::fs::File::create(&backing)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    verifies(
        kind,
        "plugins/file.py",
        &[&format!("file={}", backing.display())],
    );
}

on_each!(fio_verifies_a_parallel_plugin);
