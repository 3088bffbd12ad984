//! What a disk sees and becomes; the tests on real devices skip where the kernel has no ublk.

use std::process::Command;

use pydisk_kernel::ublk as kernel;

use super::*;
use crate::disk::Fua;
use crate::frontends::testing::{Bench, Mood, Recorder, devices, sh, skipped};

const SIZE: u64 = 16 << 20;
const ANY: Target = Target::Ublk(None);

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

/// A number that no other test uses.
fn number(test: u32) -> u32 {
    900_000 + test * 10_000 + std::process::id() % 10_000
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
    skipped(&why.to_string());
    false
}

#[test]
fn each_thing_that_is_asked_of_the_device_reaches_the_disk_with_its_flags() {
    if !available() {
        return;
    }
    devices::each_thing_reaches_the_disk_with_its_flags(&ANY);
}

#[test]
fn the_errno_of_a_disk_reaches_the_application() {
    if !available() {
        return;
    }
    let disk = Recorder::new(SIZE, |_| ());
    let attached = Bench::new().start(&ANY, &disk).unwrap();
    disk.mood(Mood::Fails(Errno::NODATA));
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
    disk.mood(Mood::Works);
    attached.stop().unwrap();
}

#[test]
fn a_number_in_use_is_refused_in_one_sentence() {
    if !available() {
        return;
    }
    let index = number(0);
    let path = devices::a_number_in_use_is_refused_in_one_sentence(&Target::Ublk(Some(index)));
    assert_eq!(path, Path::new(&format!("/dev/ublkb{index}")));
}

#[test]
fn a_disk_whose_first_read_fails_is_refused_and_leaves_no_device() {
    if !available() {
        return;
    }
    let index = number(2);
    devices::a_disk_whose_first_read_fails_is_refused(&Target::Ublk(Some(index)));
    assert_eq!(kernel::info(index), Err(DeviceError::NoSuchDevice(index)));
}

#[test]
fn an_end_from_outside_is_told() {
    if !available() {
        return;
    }
    let bench = Bench::new();
    let attached = bench.start(&ANY, &Recorder::new(SIZE, |_| ())).unwrap();
    let identity = bench.options.identity.number();
    let outside = std::thread::spawn(move || kernel::remove_leftover(identity, FIRST_READ));
    let why = bench.ended.recv().unwrap();
    assert_eq!(why, "the device was removed from outside");
    attached.stop().unwrap();
    outside.join().unwrap().unwrap();
}

/// A number says nothing: it may be another device's by now.
#[test]
fn a_device_of_which_only_the_number_is_known_is_left_alone() {
    let bench = Bench::new();
    let dead = Dead {
        identity: None,
        ..bench.dead()
    };
    remove_leftover(&dead).unwrap();
    let note = bench.folder.path().join("ublk-number");
    std::fs::write(&note, "x").unwrap();
    remove_leftover(&dead).unwrap_err();
    if !available() {
        return;
    }
    let index = number(6);
    std::fs::write(&note, index.to_string()).unwrap();
    remove_leftover(&dead).unwrap();
    let target = Target::Ublk(Some(index));
    let attached = bench.start(&target, &Recorder::new(SIZE, |_| ())).unwrap();
    remove_leftover(&dead).unwrap();
    sh(&format!("cat {} > /dev/null", attached.path().display()));
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
