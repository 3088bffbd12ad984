//! Errors on their way from a callback to the application, and into the log.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use support::device::{Attached, Kind, Page, errnos, open_direct, pydisk};
use support::{on_each, repository, scale};

/// Block N of 4 KiB fails with errno N of the list; block 0 without `set_error`.
const FAILING: &str = "
import errno, nbdkit
API_VERSION = 2
CODES = [0, errno.ENOSPC, errno.EROFS, errno.EPERM, errno.ETIMEDOUT, errno.EOPNOTSUPP, errno.ENOMEM]
def open(readonly): return 1
def get_size(h): return 1 << 20
def fail(offset):
    n = offset // 4096 - 100
    if 0 <= n < len(CODES):
        if CODES[n]: nbdkit.set_error(CODES[n])
        raise RuntimeError('block %d' % n)
def pread(h, buf, offset, flags): fail(offset)
def pwrite(h, buf, offset, flags): fail(offset)
";
const FIRST: u64 = 100 * 4096;

/// The errno with which a 4 KiB direct read and write of a block fail.
fn errnos_of(disk: &Attached, block: u64) -> [Option<i32>; 2] {
    errnos(&open_direct(&disk.path), FIRST + block * 4096)
}

fn errors_reach_the_application_as_far_as_the_kernel_passes_them(kind: Kind) {
    const EIO: i32 = 5;
    let rows = [
        (0, EIO),
        (1, 28),
        (2, 30),
        (3, 1),
        (4, 110),
        (5, 95),
        (6, 12),
    ];
    let disk = Attached::with_script(kind, FAILING, &[]);
    for (block, errno) in rows {
        let expected = match (kind, errno) {
            // The kernel's NBD client does not look at the number.
            (Kind::Nbd, _) => EIO,
            // The block layer has no words for these two.
            (Kind::Ublk | Kind::Loop, 30 | 1) => EIO,
            _ => errno,
        };
        let seen = errnos_of(&disk, block);
        assert_eq!(seen, [Some(expected); 2], "{} block {block}", kind.word());
    }
    // The disk lives on.
    assert_eq!(errnos_of(&disk, 50), [None, None]);
    disk.detach();
}

on_each!(errors_reach_the_application_as_far_as_the_kernel_passes_them);

/// Block N of 4 KiB fails with errno N; the rest of the disk is fine, and a flush fails with what was
/// written last to block 0.
const EVERY: &str = "
import nbdkit
API_VERSION = 2
last = 0
def open(readonly): return 1
def get_size(h): return 1 << 20
def fail(offset):
    if 0 < offset // 4096 < 134:
        nbdkit.set_error(offset // 4096)
        raise RuntimeError('block %d' % (offset // 4096))
def pread(h, buf, offset, flags): fail(offset)
def pwrite(h, buf, offset, flags):
    global last
    fail(offset)
    if offset == 0: last = buf[0]
def flush(h, flags):
    global last
    code, last = last, 0
    if code:
        nbdkit.set_error(code)
        raise RuntimeError('flush')
def extents(h, count, offset, flags):
    nbdkit.set_error(6)
    raise RuntimeError('extents')
";

/// Numbers that mean "ask again", or "never ask", to the kernel or to programs.
const MISUNDERSTOOD: [i32; 4] = [4, 11, 38, 78];

fn no_errno_makes_the_kernel_or_a_program_ask_for_ever(kind: Kind) {
    let disk = Attached::with_script(kind, EVERY, &[]);
    for number in 1..134_u8 {
        let at = u64::from(number) * 4096;
        // dd asks again for ever when it is told EINTR; the time limit is for that. A thousand of them
        // are many for a slow machine.
        let step = (100 / scale(100)).max(1);
        let asks = MISUNDERSTOOD.contains(&number.into()) || u32::from(number).is_multiple_of(step);
        let directions: &[_] = if asks { &["if", "of"] } else { &[] };
        for direction in directions.iter().copied() {
            let mut command = std::process::Command::new("timeout");
            command.args([
                "60",
                "dd",
                "bs=4096",
                "count=1",
                "status=none",
                "conv=notrunc",
            ]);
            match direction {
                "if" => command.args([
                    &format!("if={}", disk.device()),
                    "of=/dev/null",
                    "iflag=direct",
                    &format!("skip={number}"),
                ]),
                _ => command.args([
                    "if=/dev/zero",
                    &format!("of={}", disk.device()),
                    "oflag=direct",
                    &format!("seek={number}"),
                ]),
            };
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{kind:?} {number}: {said}");
        }
        let seen = errnos(&open_direct(&disk.path), at);
        let number = i32::from(number);
        let expected = match kind {
            Kind::Nbd => 5,
            _ if MISUNDERSTOOD.contains(&number) => 5,
            Kind::File => number,
            _ if PASSED.contains(&number) => number,
            // Newer kernels have words for more.
            _ if LATELY_PASSED.contains(&number) && seen != [Some(5); 2] => number,
            _ => 5,
        };
        assert_eq!(seen, [Some(expected); 2], "{} errno {number}", kind.word());
    }
    disk.detach();
}

on_each!(no_errno_makes_the_kernel_or_a_program_ask_for_ever);

/// Errnos that the block layer has a word for (`blk_errors` in block/blk-core.c).
const PASSED: [i32; 10] = [12, 16, 28, 52, 61, 67, 84, 95, 110, 121];
const LATELY_PASSED: [i32; 5] = [19, 22, 62, 75, 109];

fn a_failed_flush_is_never_a_success(kind: Kind) {
    let disk = Attached::with_script(kind, EVERY, &[]);
    let file = open_direct(&disk.path);
    let mut page = Page([0; 4096]);
    for number in [95, 38, 22, 5, 4, 11] {
        page.0[0] = number;
        file.write_all_at(&page.0, 0).unwrap();
        let failed = file.sync_all().unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5), "{kind:?} flush {number}");
        file.sync_all().unwrap();
    }
    drop(file);
    disk.detach();
}

on_each!(a_failed_flush_is_never_a_success);

#[test]
fn extents_that_cannot_be_asked_for_are_no_hole() {
    if !Kind::File.available() {
        return;
    }
    let disk = Attached::with_script(Kind::File, EVERY, &[]);
    let file = OpenOptions::new().read(true).open(&disk.path).unwrap();
    let told = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0));
    assert_eq!(told, Err(rustix::io::Errno::IO));
    drop(file);
    disk.detach();
}

#[test]
fn one_failure_is_one_log_entry_with_its_traceback() {
    if !Kind::File.available() {
        return;
    }
    let disk = Attached::with_script(Kind::File, FAILING, &[]);
    assert_eq!(errnos_of(&disk, 1), [Some(28); 2]);
    let shown = pydisk(["show", "--json", disk.device()]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let log = std::fs::read_to_string(shown["log"].as_str().unwrap()).unwrap();
    let entries: Vec<_> = log
        .lines()
        .filter(|line| line.contains("read at 413696+4096"))
        .collect();
    assert_eq!(entries.len(), 1, "{log}");
    assert!(
        entries[0].contains("plugin.py: pread: RuntimeError: block 1"),
        "{log}"
    );
    assert!(log.contains("Traceback (most recent call last):"), "{log}");
    assert!(log.contains("in fail"), "{log}");
    disk.detach();
}

#[test]
fn the_error_example_fails_where_it_is_told_to() {
    if !Kind::File.available() {
        return;
    }
    let text = std::fs::read_to_string(repository("examples/errors.py")).unwrap();
    let first = text.lines().next().unwrap();
    assert!(
        first.starts_with("# pydisk attach examples/errors.py"),
        "{first}"
    );
    let params: Vec<_> = first
        .split_whitespace()
        .filter(|word| word.contains('='))
        .collect();
    let disk = Attached::new(Kind::File, &repository("examples/errors.py"), &params);
    assert!(
        first.ends_with("size=64M pwrite=ENOSPC from=32M"),
        "{first}"
    );
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&disk.path)
        .unwrap();
    let half = 32 << 20;
    file.write_all_at(b"below", half - 5).unwrap();
    let failed = file.write_all_at(b"above", half).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(28), "{failed}");
    let mut found = [1; 10];
    file.read_exact_at(&mut found, half - 5).unwrap();
    assert_eq!(&found, b"below\0\0\0\0\0");
    drop(file);
    disk.detach();
}
