//! What holds for the devices of every driver that can do all that a disk can; the tests of each front end call
//! these with a target of their own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Bench, Mood, Recorder, sh};
use crate::disk::{Errno, Flags, OpKind};
use crate::frontends::Target;

const SIZE: u64 = 16 << 20;

pub(in crate::frontends) fn each_thing_reaches_the_disk_with_its_flags(target: &Target) {
    for parallel in [false, true] {
        let disk = Recorder::new(SIZE, |limits| limits.parallel = parallel);
        let bench = Bench::new();
        let attached = bench.start(target, &disk).unwrap();
        let device = attached.path().display().to_string();
        let during = |command: &str| {
            sh(&format!("{command} {device}"));
            disk.asked()
        };
        let (none, trim) = (Flags::empty(), Flags::MAY_TRIM);
        assert_eq!(
            during("blkdiscard -o 4096 -l 8192"),
            [(OpKind::Trim, 4096, 8192, none)]
        );
        assert_eq!(
            during("blkdiscard -z -o 4096 -l 8192"),
            [(OpKind::Zero, 4096, 8192, none)]
        );
        assert_eq!(
            during("fallocate -p -o 4096 -l 8192")[0],
            (OpKind::Zero, 4096, 8192, trim)
        );
        let file = File::options().write(true).open(&device).unwrap();
        file.write_all_at(&[7; 4096], 4096).unwrap();
        file.sync_all().unwrap();
        let expected = [
            (OpKind::Write, 4096, 4096, none),
            (OpKind::Flush, 0, 0, none),
        ];
        assert_eq!(disk.asked(), expected);
        assert_eq!(disk.bytes()[4096..8192], [7; 4096]);
        drop(file);
        sh(&format!(
            "dd if=/dev/zero of={device} bs=4096 count=1 oflag=direct,dsync conv=notrunc 2>&1"
        ));
        assert_eq!(disk.asked()[0], (OpKind::Write, 0, 4096, Flags::FUA));
        attached.stop().unwrap();
        assert_eq!(Arc::strong_count(&disk), 1, "the disk can be closed");
        assert!(!bench.ended.try_iter().any(|_| true), "no end from outside");
    }
}

/// Gives the path of the device.
pub(in crate::frontends) fn a_number_in_use_is_refused_in_one_sentence(target: &Target) -> PathBuf {
    let disk = Recorder::new(SIZE, |_| ());
    let attached = Bench::new().start(target, &disk).unwrap();
    let path = attached.path().to_owned();
    let same: Target = path.to_str().unwrap().parse().unwrap();
    let refused = Bench::new().start(&same, &disk).err().unwrap().to_string();
    let (sentence, hint) = refused.split_once('\n').unwrap();
    let start = format!(
        "{} is in use by process {} (",
        path.display(),
        std::process::id()
    );
    assert!(sentence.starts_with(&start), "{sentence}");
    assert_eq!(hint, "hint: choose another number");
    attached.stop().unwrap();
    path
}

pub(in crate::frontends) fn a_disk_whose_first_read_fails_is_refused(target: &Target) {
    let disk = Recorder::new(SIZE, |_| ());
    disk.mood(Mood::Fails(Errno::IO));
    let bench = Bench::new();
    let why = bench.start(target, &disk).err().unwrap().to_string();
    assert!(why.contains("first read"), "{why}");
    assert_eq!(Arc::strong_count(&disk), 1, "the disk can be closed");
    assert!(!bench.ended.try_iter().any(|_| true), "no end from outside");
}
