//! What a disk becomes; the tests on real devices skip where the kernel has no NBD client.

use std::fs::File;
use std::io::Read;

use super::*;
use crate::frontends::Target;
use crate::frontends::testing::{Bench, Mood, Recorder, devices, skipped, soon};

const ANY: Target = Target::Nbd(None);
const SIZE: u64 = 4 << 20;

/// Whether there is a client; says why not, or fails where `PYDISK_REQUIRE` names nbd.
fn available() -> bool {
    let Err(why) = pydisk_kernel::probe::probe_nbd() else {
        return true;
    };
    let required = std::env::var("PYDISK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "nbd"), "{why}");
    skipped(&why);
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
fn a_number_in_use_is_refused_in_one_sentence() {
    if !available() {
        return;
    }
    devices::a_number_in_use_is_refused_in_one_sentence(&ANY);
}

#[test]
fn a_disk_whose_first_read_fails_is_refused() {
    if !available() {
        return;
    }
    devices::a_disk_whose_first_read_fails_is_refused(&ANY);
}

#[test]
fn an_end_from_outside_is_told() {
    if !available() {
        return;
    }
    let disk = Recorder::new(SIZE, |_| ());
    let bench = Bench::new();
    let attached = bench.start(&ANY, &disk).unwrap();
    remove_leftover(&bench.dead()).unwrap();
    let why = bench.ended.recv().unwrap();
    assert_eq!(why, "the kernel let go of the device: disconnected");
    attached.stop().unwrap();
}

#[test]
fn what_is_under_way_is_answered_before_the_device_goes() {
    if !available() {
        return;
    }
    let disk = Recorder::new(SIZE, |_| ());
    disk.fill(|_| 9);
    let bench = Bench::new();
    let attached = bench.start(&ANY, &disk).unwrap();
    disk.mood(Mood::Hangs);
    let name = attached.path().file_name().unwrap().to_owned();
    let counts = Path::new("/sys/block").join(name).join("inflight");
    let under_way = || {
        fs::read_to_string(&counts)
            .unwrap()
            .contains(|digit| ('1'..='9').contains(&digit))
    };
    let mut file = File::open(attached.path()).unwrap();
    let reader = thread::spawn(move || {
        let mut first = [0; 512];
        file.read_exact(&mut first).map(|()| first)
    });
    soon("nothing is read", under_way);
    let stopper = thread::spawn(move || attached.stop());
    thread::sleep(Duration::from_millis(100));
    assert!(!stopper.is_finished());
    disk.mood(Mood::Works);
    assert_eq!(reader.join().unwrap().unwrap(), [9; 512]);
    stopper.join().unwrap().unwrap();
}

#[test]
fn a_parallel_disk_has_many_lanes_and_one_socket() {
    if !available() {
        return;
    }
    let disk = Recorder::new(SIZE, |_| ());
    let mut bench = Bench::new();
    bench.options.lanes = 32;
    let attached = bench.start(&ANY, &disk).unwrap();
    let name = attached.path().file_name().unwrap().to_owned();
    // The driver has a queue for each socket.
    let queues = Path::new("/sys/block").join(name).join("mq");
    assert_eq!(fs::read_dir(queues).unwrap().count(), 1);
    attached.stop().unwrap();
}
