//! Many times, and several at once: nothing is left over. Each test counts what there is on the whole
//! machine, so no other one may run beside it.

use std::fs;
use std::path::Path;

use support::device::{Attached, Kind, pydisk, run};
use support::{on_each, repository, scale};

/// Whatever an attachment could leave behind, in words.
fn left_over() -> Vec<String> {
    let mut found = Vec::new();
    let entries = |folder: &str| {
        let list = fs::read_dir(folder).into_iter().flatten().flatten();
        list.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    found.extend(
        entries("/dev")
            .into_iter()
            .map(|entry| entry.display().to_string())
            .filter(|path| {
                ["/dev/ublkb", "/dev/ublkc", "/dev/nbd"]
                    .iter()
                    .any(|start| path.starts_with(start))
            }),
    );
    found.extend(
        entries("/run/pydisk")
            .into_iter()
            .map(|entry| entry.display().to_string())
            // Locks, and the logs of attachments that ended badly.
            .filter(|path| !path.starts_with("/run/pydisk/.")),
    );
    for process in entries("/proc") {
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        if program == Path::new(support::program()) {
            found.push(format!("process {}", process.display()));
        }
    }
    for block in entries("/sys/block") {
        let backend = fs::read_to_string(block.join("backend")).unwrap_or_default();
        if backend.starts_with("pydisk:") {
            found.push(format!("{} of {backend}", block.display()));
        }
        let backing = fs::read_to_string(block.join("loop/backing_file")).unwrap_or_default();
        if backing.contains("pydisk") {
            found.push(format!("{} on {backing}", block.display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains("pydisk:"))
            .map(str::to_owned),
    );
    found
}

/// What is left beyond what was there `before`, once processes that are about to end have ended.
fn new_since(before: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..600 {
        found = left_over();
        found.retain(|thing| !before.contains(thing));
        if found.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    found
}

fn many_rounds_leave_nothing(kind: Kind) {
    let before = left_over();
    for round in 0..scale(200) {
        let disk = Attached::new(kind, &repository("examples/ramdisk.py"), &["size=16M"]);
        if round % 20 == 0 {
            let of = format!("of={}", disk.device());
            run(
                "dd",
                [
                    "if=/dev/zero",
                    &of,
                    "bs=64k",
                    "count=4",
                    "oflag=direct",
                    "conv=notrunc,fsync",
                ],
            );
        }
        disk.detach();
    }
    assert_eq!(new_since(&before), Vec::<String>::new());
}

on_each!(many_rounds_leave_nothing);

fn two_disks_of_one_plugin_are_two_disks(kind: Kind) {
    let before = left_over();
    let plugin = repository("examples/ramdisk.py");
    let first = Attached::new(kind, &plugin, &["size=8M"]);
    let second = Attached::new(kind, &plugin, &["size=8M"]);
    for (disk, byte) in [(&first, "a"), (&second, "b")] {
        let line = format!(
            "tr '\\0' {byte} < /dev/zero | dd of={} bs=1M count=8 iflag=fullblock \
                            oflag=direct conv=notrunc,fsync",
            disk.device()
        );
        run("sh", ["-c", &line]);
    }
    for (disk, byte) in [(&first, b'a'), (&second, b'b')] {
        let data = fs::read(&disk.path).unwrap();
        assert_eq!(data.len(), 8 << 20);
        assert!(data.iter().all(|seen| *seen == byte), "{}", kind.word());
    }
    let list = String::from_utf8(pydisk(["list"]).stdout).unwrap();
    assert!(
        list.contains(first.device()) && list.contains(second.device()),
        "{list}"
    );
    first.detach();
    second.detach();
    assert_eq!(new_since(&before), Vec::<String>::new());
}

on_each!(two_disks_of_one_plugin_are_two_disks);
