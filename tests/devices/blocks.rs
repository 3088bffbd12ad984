//! The blocks of a device: the plugin's or the user's, and partition tables that were made for others.

use std::os::unix::fs::FileExt;

use support::device::{Attached, Kind, Page, open_direct, pydisk, run};
use support::on_each_device;

/// A disk of 8 MiB with a GPT for blocks of 512 bytes, that takes blocks of 4096 and nothing else.
const LARGE_BLOCKS: &str = "
API_VERSION = 2
data = bytearray(8 << 20)
data[510:520] = b'\\x55\\xaaEFI PART'
def open(readonly): return 1
def get_size(h): return len(data)
def block_size(h): return (4096, 4096, 1 << 20)
def whole(count, offset):
    assert offset % 4096 == 0 and count % 4096 == 0, (offset, count)
def pread(h, buf, offset, flags):
    whole(len(buf), offset)
    buf[:] = data[offset:offset + len(buf)]
def pwrite(h, buf, offset, flags):
    whole(len(buf), offset)
    data[offset:offset + len(buf)] = buf
def flush(h, flags): pass
";

/// The disk, what was said when it was attached, and the size of its blocks.
fn attached(kind: Kind, script: &str, options: &[&str]) -> (Attached, String, String) {
    let (_folder, plugin) = support::script(script);
    let disk = Attached::new(kind, &plugin, options);
    let said = disk.said.clone();
    let block = run("blockdev", ["--getss", disk.device()]);
    (disk, said, block.trim().to_owned())
}

const MISFIT: &str =
    "the partition table was made for blocks of 512 bytes, and those of the device have 4096";

fn a_table_that_does_not_fit_the_blocks_is_warned_of(kind: Kind) {
    let (disk, said, block) = attached(kind, LARGE_BLOCKS, &[]);
    assert_eq!(block, "4096");
    assert_eq!(said.matches(MISFIT).count(), 1, "{said}");
    assert!(said.contains("`--logical-block-size 512`"), "{said}");
    disk.detach();
}

on_each_device!(a_table_that_does_not_fit_the_blocks_is_warned_of);

fn smaller_blocks_are_changed_within_those_of_the_plugin(kind: Kind) {
    let (disk, said, block) = attached(kind, LARGE_BLOCKS, &["--logical-block-size", "512"]);
    assert_eq!((&*said, &*block), ("", "512"));
    let file = open_direct(&disk.path);
    let mut page = Page([7; 4096]);
    file.write_all_at(&page.0[..512], (1 << 20) + 512).unwrap();
    file.sync_all().unwrap();
    file.read_exact_at(&mut page.0, 1 << 20).unwrap();
    let expected: Vec<u8> = [0, 7, 0, 0, 0, 0, 0, 0]
        .iter()
        .flat_map(|&byte| [byte; 512])
        .collect();
    assert!(page.0[..] == expected);
    drop(file);
    disk.detach();
}

on_each_device!(smaller_blocks_are_changed_within_those_of_the_plugin);

fn larger_blocks_take_no_smaller_request(kind: Kind) {
    let script = LARGE_BLOCKS
        .replace("def block_size", "def unused")
        .replace("8 << 20", "(8 << 20) + 512")
        .replace(
            "data[510:520] = b'\\x55\\xaaEFI PART'",
            "data[4096:4104] = b'EFI PART'",
        );
    let (disk, said, block) = attached(kind, &script, &["--logical-block-size", "4k"]);
    assert_eq!(block, "4096");
    assert!(said.contains("is no multiple of 4096"), "{said}");
    assert!(!said.contains("partition table"), "{said}");
    assert_eq!(
        run("blockdev", ["--getsize64", disk.device()]).trim(),
        (8 << 20).to_string()
    );
    let file = open_direct(&disk.path);
    let refused = file.write_at(&Page([7; 4096]).0[..512], 512).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(22));
    file.write_all_at(&Page([7; 4096]).0, 4096).unwrap();
    file.sync_all().unwrap();
    drop(file);
    disk.detach();
}

on_each_device!(larger_blocks_take_no_smaller_request);

#[test]
fn what_has_no_blocks_has_no_size_of_them() {
    let (folder, plugin) = support::script(LARGE_BLOCKS);
    let file = folder.path().join("disk.img");
    for (target, block, status, words) in [
        (
            file.to_str().unwrap(),
            "512",
            1,
            "disk.img` is a file, which has no blocks\n",
        ),
        (
            "nbd://localhost",
            "512",
            1,
            "are told the plugin's own block sizes\n",
        ),
        (
            "/dev/loop77",
            "8192",
            2,
            "512, 1024, 2048 and 4096 are accepted",
        ),
        (
            "/dev/loop77",
            "0",
            2,
            "512, 1024, 2048 and 4096 are accepted",
        ),
    ] {
        let plugin = plugin.to_str().unwrap();
        let output = pydisk(["attach", plugin, target, "--logical-block-size", block]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.contains(words), "{said}");
    }
}
