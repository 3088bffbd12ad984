//! What a disk sees and becomes; the tests on real devices skip where the kernel has no ublk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

use parking_lot::Mutex;
use pydisk_kernel::ublk as kernel;

use super::*;
use crate::disk::{Error as DiskError, Fua, OpenDisk, Result};
use crate::frontends::Identity;
use crate::frontends::nbd::ServerOptions;

const SIZE: u64 = 16 << 20;

/// A disk in memory that writes down what it is asked for, except reads.
#[derive(Debug)]
struct Recorder {
    limits: Limits,
    bytes: Mutex<Vec<u8>>,
    seen: Mutex<Vec<String>>,
    /// A read that starts here fails.
    bad: Option<u64>,
}

impl Recorder {
    fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(vec![0; usize::try_from(limits.size).unwrap()]),
            limits,
            seen: Mutex::default(),
            bad: None,
        })
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock())
    }
}

impl Disk for Recorder {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        assert!(request.owner.is_some(), "the memory can be kept");
        let (kind, range) = (request.op.kind(), request.range());
        let at = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.bytes.lock();
        match request.op {
            Op::Read(_) if self.bad == Some(range.start) => {
                return Err(DiskError::new(Errno::NODATA, "on purpose"));
            }
            Op::Read(memory) => {
                memory.copy_from_slice(&bytes[at]);
                return Ok(());
            }
            Op::Write(data) => bytes[at].copy_from_slice(data),
            Op::Zero(_) | Op::Trim(_) => bytes[at].fill(0),
            Op::Flush | Op::Cache(_) => {}
        }
        self.seen.lock().push(format!(
            "{} {range:?} {}",
            kind.word(),
            request.flags.bits()
        ));
        Ok(())
    }
}

impl OpenDisk for Recorder {}

fn limits() -> Limits {
    Limits {
        read_only: false,
        flush: true,
        fua: Fua::Native,
        trim: true,
        zero: true,
        ..Limits::read_only(SIZE)
    }
}

#[test]
fn limits_become_parameters() {
    let all = params(&limits(), None);
    assert_eq!((all.io_min, all.discard_granularity), (4096, 4096));
    assert_eq!((all.io_opt, all.max_io_bytes), (4096, 1 << 20));
    assert_eq!(all.max_discard_bytes, MAX_TRIM);
    assert_eq!(all.max_write_zeroes_bytes, MAX_ZERO);
    let read_only = params(&Limits::read_only(SIZE), None);
    assert_eq!(read_only.max_discard_bytes, 0);
    assert_eq!(read_only.max_write_zeroes_bytes, 0);
}

#[test]
fn a_size_of_half_a_block_is_refused() {
    for size in [0, 1000] {
        let params = params(&Limits { size, ..limits() }, None);
        let why = params.check().unwrap_err().to_string();
        assert!(why.starts_with(&format!("size {size}: ")), "{why}");
    }
}

/// Whether there is ublk here; says why not, or fails where `PYDISK_REQUIRE` names ublk.
fn available() -> bool {
    let Err(why) = kernel::features() else {
        return true;
    };
    let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "ublk"), "{why}");
    crate::frontends::testing::skipped(&why.to_string());
    false
}

fn attach(disk: &Arc<Recorder>, index: Option<u32>) -> Result<Box<dyn Published>, Refusal> {
    let options = Options {
        name: "test".into(),
        folder: std::env::temp_dir(),
        lanes: 4,
        logical_block: None,
        identity: Identity::new(),
        server: ServerOptions::default(),
    };
    let (ended, _) = mpsc::channel();
    start(
        index,
        Arc::clone(disk) as Arc<dyn OpenDisk>,
        &options,
        ended,
    )
}

fn run(program: &str, args: &[&str], device: &Path) {
    let output = Command::new(program)
        .args(args)
        .arg(device)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

#[test]
fn each_thing_that_is_asked_of_the_device_reaches_the_disk_with_its_flags() {
    if !available() {
        return;
    }
    for parallel in [false, true] {
        let disk = Recorder::new(Limits {
            parallel,
            ..limits()
        });
        let attached = attach(&disk, None).unwrap();
        let range = ["-o", "4096", "-l", "8192"];
        run("blkdiscard", &range, attached.path());
        assert_eq!(disk.seen(), ["trim 4096..12288 0"]);
        run(
            "blkdiscard",
            &["-z", "-o", "4096", "-l", "8192"],
            attached.path(),
        );
        assert_eq!(disk.seen(), ["zero 4096..12288 0"]);
        run(
            "fallocate",
            &["-p", "-o", "4096", "-l", "8192"],
            attached.path(),
        );
        assert_eq!(disk.seen()[0], "zero 4096..12288 1");
        let file = File::options().write(true).open(attached.path()).unwrap();
        file.write_all_at(&[7; 4096], 4096).unwrap();
        file.sync_all().unwrap();
        assert_eq!(disk.seen(), ["write 4096..8192 0", "flush 0..0 0"]);
        assert_eq!(disk.bytes.lock()[4096..8192], [7; 4096]);
        drop(file);
        let fua = [
            "if=/dev/zero",
            "bs=4096",
            "count=1",
            "oflag=direct,dsync",
            "conv=notrunc",
        ];
        let to = PathBuf::from(format!("of={}", attached.path().display()));
        run("dd", &fua, &to);
        assert_eq!(disk.seen()[0], "write 0..4096 2");
        attached.stop().unwrap();
        assert_eq!(Arc::strong_count(&disk), 1, "the disk can be closed");
    }
}

#[test]
fn the_errno_of_a_disk_reaches_the_application() {
    if !available() {
        return;
    }
    let disk = Arc::new(Recorder {
        bad: Some(1 << 20),
        ..Arc::into_inner(Recorder::new(limits())).unwrap()
    });
    let attached = attach(&disk, None).unwrap();
    // The page cache makes EIO of everything, so this reads past it.
    let direct = Command::new("dd")
        .args([
            "bs=4096",
            "count=1",
            "skip=256",
            "iflag=direct",
            "of=/dev/null",
        ])
        .arg(format!("if={}", attached.path().display()))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&direct.stderr).into_owned();
    assert!(said.contains("No data available"), "{said}");
    attached.stop().unwrap();
}

#[test]
fn a_number_in_use_is_refused_in_one_sentence() {
    if !available() {
        return;
    }
    let disk = Recorder::new(limits());
    let index = 900_000 + std::process::id() % 10_000;
    let attached = attach(&disk, Some(index)).unwrap();
    assert_eq!(attached.path(), Path::new(&format!("/dev/ublkb{index}")));
    let refused = attach(&disk, Some(index)).err().unwrap().to_string();
    let (sentence, hint) = refused.split_once('\n').unwrap();
    let start = format!(
        "/dev/ublkb{index} is in use by process {} (",
        std::process::id()
    );
    assert!(sentence.starts_with(&start), "{sentence}");
    assert_eq!(hint, "hint: choose another number");
    attached.stop().unwrap();
}

#[test]
fn a_disk_whose_first_read_fails_is_refused_and_leaves_no_device() {
    if !available() {
        return;
    }
    #[derive(Debug)]
    struct Broken(Limits);
    impl Disk for Broken {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn serve(&self, _: Request<'_>) -> Result {
            Err(DiskError::new(Errno::IO, "on purpose"))
        }
    }

    impl OpenDisk for Broken {}
    let index = 920_000 + std::process::id() % 10_000;
    let options = Options {
        name: "test".into(),
        folder: std::env::temp_dir(),
        lanes: 1,
        logical_block: None,
        identity: Identity::new(),
        server: ServerOptions::default(),
    };
    let (ended, told) = mpsc::channel();
    let refused = start(Some(index), Arc::new(Broken(limits())), &options, ended);
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("first read"), "{why}");
    assert_eq!(kernel::info(index), Err(Error::NoSuchDevice(index)));
    assert!(told.recv().is_err(), "not an end from outside");
}

#[test]
fn an_end_from_outside_is_told() {
    if !available() {
        return;
    }
    let disk = Recorder::new(limits());
    let index = 940_000 + std::process::id() % 10_000;
    let options = Options {
        name: "test".into(),
        folder: std::env::temp_dir(),
        lanes: 1,
        logical_block: None,
        identity: Identity::new(),
        server: ServerOptions::default(),
    };
    let (ended, told) = mpsc::channel();
    let attached = start(Some(index), disk, &options, ended).unwrap();
    let identity = options.identity.number();
    let outside = std::thread::spawn(move || kernel::remove_leftover(identity, FIRST_READ));
    assert_eq!(told.recv().unwrap(), "the device was removed from outside");
    attached.stop().unwrap();
    outside.join().unwrap().unwrap();
}

/// A number says nothing: it may be another device's by now.
#[test]
fn a_device_of_which_only_the_number_is_known_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let dead = Dead {
        name: "test",
        folder: place.path(),
        identity: None,
    };
    remove_leftover(&dead).unwrap();
    let note = place.path().join("ublk-number");
    std::fs::write(&note, "x").unwrap();
    remove_leftover(&dead).unwrap_err();
    if !available() {
        return;
    }
    let index = 960_000 + std::process::id() % 10_000;
    std::fs::write(&note, index.to_string()).unwrap();
    remove_leftover(&dead).unwrap();
    let attached = attach(&Recorder::new(limits()), Some(index)).unwrap();
    remove_leftover(&dead).unwrap();
    run("cat", &[], attached.path());
    attached.stop().unwrap();
    let params = Params::new(1 << 20);
    let unserved = Device::add(Some(index), Shape::Serial { depth: 1 }, &params).unwrap();
    let why = remove_leftover(&dead).unwrap_err().to_string();
    assert!(
        why.contains("an older pydisk noted the number only"),
        "{why}"
    );
    assert!(kernel::info(index).is_ok());
    drop(unserved);
}
