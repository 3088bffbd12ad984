//! Errors on their way from a callback to the application, and into the log.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use support::device::{Attached, Kind, Page, errnos, open_direct, pydisk};
use support::semantics::Errors;
use support::{on_each, repository, scale};

/// Block N of 4 KiB fails with errno N, and block 200 by an exception alone; the rest of the disk is fine, and a
/// flush fails with what was written last to block 0.
const EVERY: &str = "
import nbdkit
API_VERSION = 2
last = 0
def open(readonly): return 1
def get_size(h): return 1 << 20
def fail(offset):
    block = offset // 4096
    if 0 < block < 134: nbdkit.set_error(block)
    if 0 < block < 134 or block == 200: raise RuntimeError('block %d' % block)
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
    let promised = Errors::on(kind);
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
        let expected = promised.of("pread", number.into(), "");
        let word = kind.word();
        let kept = seen[0] == seen[1] && seen[0].is_some_and(|seen| expected.contains(&seen));
        assert!(kept, "{word} errno {number}: {expected:?}, not {seen:?}");
    }
    let seen = errnos(&open_direct(&disk.path), 200 * 4096);
    let unchosen = promised.of("pread", 0, "");
    assert_eq!(
        seen.map(|seen| vec![seen.unwrap()]),
        [unchosen.clone(), unchosen]
    );
    // The disk lives on.
    assert_eq!(errnos(&open_direct(&disk.path), 150 * 4096), [None, None]);
    disk.detach();
}

on_each!(no_errno_makes_the_kernel_or_a_program_ask_for_ever);

fn a_failed_flush_is_never_a_success(kind: Kind) {
    let promised = Errors::on(kind);
    let disk = Attached::with_script(kind, EVERY, &[]);
    let file = open_direct(&disk.path);
    let mut page = Page([0; 4096]);
    for number in [95, 38, 22, 5, 4, 11, 28, 122, 16, 110] {
        page.0[0] = number;
        file.write_all_at(&page.0, 0).unwrap();
        let failed = file.sync_all().unwrap_err().raw_os_error().unwrap();
        let seen = promised.of("flush", number.into(), "");
        assert!(
            seen.contains(&failed),
            "{kind:?} flush {number}: {failed}, not {seen:?}"
        );
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
    let told = told.unwrap_err().raw_os_error();
    assert_eq!(Errors::on(Kind::File).of("extents", 6, ""), [told]);
    drop(file);
    disk.detach();
}

#[test]
fn one_failure_is_one_log_entry_with_its_traceback() {
    if !Kind::File.available() {
        return;
    }
    let disk = Attached::with_script(Kind::File, EVERY, &[]);
    assert_eq!(errnos(&open_direct(&disk.path), 28 * 4096), [Some(28); 2]);
    let shown = pydisk(["show", "--json", disk.device()]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let log = std::fs::read_to_string(shown["log"].as_str().unwrap()).unwrap();
    let entries: Vec<_> = log
        .lines()
        .filter(|line| line.contains("read at 114688+4096"))
        .collect();
    assert_eq!(entries.len(), 1, "{log}");
    assert!(
        entries[0].contains("plugin.py: pread: RuntimeError: block 28"),
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
