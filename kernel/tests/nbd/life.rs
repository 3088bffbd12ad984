//! Devices that come, are used and go.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pydisk_kernel::nbd::{self, Device, Params};
use pydisk_kernel::{DeviceError, DeviceName, Driver};

use super::support::{DISC, Disk, SIZE, available, fresh_index, params, skip};

#[test]
fn what_is_written_is_read_on_one_socket_and_on_several() {
    if !available() {
        return;
    }
    for sockets in [1, 4] {
        let disk = Disk::new();
        let index = fresh_index();
        let device = disk.attach(Some(index), sockets);
        assert_eq!(device.index(), index);
        assert_eq!(device.path(), nbd::path(index));
        let file = File::options()
            .read(true)
            .write(true)
            .open(device.path())
            .unwrap();
        file.write_all_at(&[7; 100_000], 5000).unwrap();
        file.sync_all().unwrap();
        let mut back = [0; 100_000];
        file.read_exact_at(&mut back, 5000).unwrap();
        assert_eq!(back, [7; 100_000]);
        drop(file);
        assert_eq!(device.under_way(), 0);
        disk.said();
        device.disconnect().unwrap();
        assert!(disk.said().iter().all(|(kind, ..)| *kind == DISC));
        assert!(!Path::new(&format!("/sys/block/nbd{index}")).exists());
        assert!(!nbd::path(index).exists());
    }
}

#[test]
fn each_command_reaches_the_other_end() {
    if !available() {
        return;
    }
    let disk = Disk::new();
    let device = disk.attach(Some(fresh_index()), 1);
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .arg(device.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        disk.said()
    };
    let range = ["-o", "65536", "-l", "131072"];
    assert_eq!(run("blkdiscard", &range), [(4, 65536, 131_072)]);
    let huge = run("blkdiscard", &[]);
    assert_eq!(huge.len(), 8, "in pieces of a MiB: {huge:?}");
    // NBD_CMD_FLAG_NO_HOLE, and none where holes may be made.
    let zero = [&["-z"], &range[..]].concat();
    assert_eq!(run("blkdiscard", &zero), [(6 | 2 << 16, 65536, 131_072)]);
    let punch = [&["-p"], &range[..]].concat();
    assert_eq!(run("fallocate", &punch)[0], (6, 65536, 131_072));
    device.disconnect().unwrap();
}

#[test]
fn limits_are_what_the_parameters_say() {
    if !available() {
        return;
    }
    let index = fresh_index();
    let params = Params {
        block_bytes: 4096,
        max_io_bytes: 256 << 10,
        read_only: true,
        rotational: true,
        flush: false,
        fua: false,
        trim: false,
        write_zeroes: false,
        ..params()
    };
    let disk = Disk::new();
    let device = Device::connect(Some(index), &disk.sockets(1), &params).unwrap();
    device.wait_until_usable(Duration::from_secs(60)).unwrap();
    let says = |attribute: &str| {
        let text = std::fs::read_to_string(format!("/sys/block/nbd{index}/{attribute}"));
        text.unwrap().trim_end().to_owned()
    };
    let expected = [
        ("size", (SIZE / 512).to_string()),
        ("ro", "1".into()),
        ("queue/logical_block_size", "4096".into()),
        ("queue/max_sectors_kb", "256".into()),
        ("queue/discard_max_bytes", "0".into()),
        ("queue/write_zeroes_max_bytes", "0".into()),
        ("queue/fua", "0".into()),
        ("queue/write_cache", "write through".into()),
        ("queue/rotational", "1".into()),
    ];
    for (attribute, value) in expected {
        assert_eq!(says(attribute), value, "{attribute}");
    }
    device.disconnect().unwrap();
}

#[test]
fn any_free_number_is_taken_and_a_taken_one_refused_with_its_holder() {
    if !available() {
        return;
    }
    let disk = Disk::new();
    let first = disk.attach(None, 1);
    let second = disk.attach(None, 1);
    assert_ne!(first.index(), second.index());
    let taken = Device::connect(Some(first.index()), &disk.sockets(1), &params());
    let why = taken.err().unwrap();
    let DeviceError::InUse {
        device,
        holder: Some((pid, _)),
    } = &why
    else {
        panic!("{why}");
    };
    assert_eq!(*device, DeviceName(Driver::Nbd, first.index()));
    assert_eq!(u32::try_from(*pid).unwrap(), std::process::id());
    let index = first.index();
    first.disconnect().unwrap();
    let again = disk.attach(Some(index), 1);
    again.disconnect().unwrap();
    second.disconnect().unwrap();
}

#[test]
fn a_number_that_the_driver_does_not_have_is_refused() {
    if !available() {
        return;
    }
    let disk = Disk::new();
    let refused = Device::connect(Some(1 << 19), &disk.sockets(1), &params());
    let why = refused.err().unwrap();
    assert!(matches!(why, DeviceError::NoSuchNumber { .. }), "{why}");
}

#[test]
fn a_leftover_is_removed_by_its_identity_only_and_fails_what_is_under_way() {
    if !available() {
        return;
    }
    let disk = Disk::new();
    let index = fresh_index();
    let params = Params {
        identity: "its-maker".into(),
        ..params()
    };
    let device = Device::connect(Some(index), &disk.sockets(2), &params).unwrap();
    device.wait_until_usable(Duration::from_secs(60)).unwrap();
    nbd::remove_leftover("somebody-else", Duration::from_secs(5)).unwrap();
    assert!(Path::new(&format!("/sys/block/nbd{index}/pid")).exists());
    let gate = disk.gate.lock().unwrap();
    let reader = read_that_hangs(&device);
    // The reader has it open for a moment longer than that.
    let removed = nbd::remove_leftover("its-maker", Duration::from_secs(10));
    assert!(
        matches!(removed, Ok(()) | Err(DeviceError::StillOpen(_))),
        "{removed:?}"
    );
    let errno = reader.join().unwrap().unwrap_err();
    assert_eq!(errno.raw_os_error(), Some(libc::EIO));
    drop(gate);
    device.disconnect().unwrap();
    assert!(!Path::new(&format!("/sys/block/nbd{index}")).exists());
}

/// Read the end of a device whose disk does not answer; returns when that is under way.
fn read_that_hangs(device: &Device) -> JoinHandle<io::Result<()>> {
    let path = device.path().to_owned();
    let reader = thread::spawn(move || {
        let file = File::open(path).unwrap();
        file.read_exact_at(&mut [0; 4096], SIZE - 4096)
    });
    while device.under_way() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    reader
}

/// A worker that ends late, after somebody else has removed its device.
#[test]
fn a_number_that_was_given_away_again_is_its_new_owners() {
    if !available() {
        return;
    }
    let (disk, index) = (Disk::new(), fresh_index());
    let connect = |identity: &str| {
        let params = Params {
            identity: identity.into(),
            ..params()
        };
        let device = Device::connect(Some(index), &disk.sockets(1), &params).unwrap();
        device.wait_until_usable(Duration::from_secs(60)).unwrap();
        device
    };
    let first = connect("first");
    nbd::remove_leftover("first", Duration::from_secs(10)).unwrap();
    let second = connect("second");
    first.disconnect().unwrap();
    nbd::remove_leftover("first", Duration::from_secs(10)).unwrap();
    let file = File::open(second.path()).unwrap();
    file.read_exact_at(&mut [0; 4096], 4096).unwrap();
    drop(file);
    second.disconnect().unwrap();
}

/// They would stay with a device that the module made when it was loaded, until somebody opens that.
#[test]
fn the_partitions_of_a_disk_go_with_it() {
    if !available() {
        return;
    }
    let disk = Disk::new();
    disk.partition();
    let unused = |index: &u32| {
        let folder = format!("/sys/block/nbd{index}");
        Path::new(&folder).exists() && !Path::new(&format!("{folder}/pid")).exists()
    };
    for removed_by_another in [false, true] {
        let Some(index) = (0..1000).rev().find(unused) else {
            skip("the module has no device that stays");
            return;
        };
        let partition = format!("/sys/block/nbd{index}/nbd{index}p1");
        let params = Params {
            identity: format!("partitioned-{}", std::process::id()),
            ..params()
        };
        let device = Device::connect(Some(index), &disk.sockets(1), &params).unwrap();
        device.wait_until_usable(Duration::from_secs(60)).unwrap();
        assert!(Path::new(&partition).exists());
        if removed_by_another {
            nbd::remove_leftover(&params.identity, Duration::from_secs(60)).unwrap();
        }
        device.disconnect().unwrap();
        assert!(Path::new(&format!("/sys/block/nbd{index}")).exists());
        assert!(!Path::new(&partition).exists(), "{removed_by_another}");
    }
}

/// A device on these sockets that waits for an answer for a second.
fn with_a_short_timeout(theirs: &[OwnedFd]) -> Device {
    let params = Params {
        timeout: Duration::from_secs(1),
        ..params()
    };
    let device = Device::connect(Some(fresh_index()), theirs, &params).unwrap();
    device.wait_until_usable(Duration::from_secs(60)).unwrap();
    device
}

/// The last resort, where nobody is left who could disconnect the device.
#[test]
fn requests_of_a_device_that_nobody_serves_fail_after_the_timeout() {
    if !available() {
        return;
    }
    for sockets in [1, 2] {
        let disk = Disk::new();
        let theirs = disk.sockets(sockets);
        let device = with_a_short_timeout(&theirs);
        let gate = disk.gate.lock().unwrap();
        let reader = read_that_hangs(&device);
        for socket in &theirs {
            rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap();
        }
        let errno = reader.join().unwrap().unwrap_err();
        assert_eq!(errno.raw_os_error(), Some(libc::EIO));
        drop(gate);
        device.disconnect().unwrap();
    }
}

/// With several sockets the kernel sends what it gave up once more, whatever has become of the first
/// one: whoever serves them may write late what was written anew since. That is why pydisk has one.
#[test]
fn what_takes_longer_than_the_timeout_fails_on_one_socket_and_is_sent_again_on_two() {
    if !available() {
        return;
    }
    for sockets in [1, 2] {
        let disk = Disk::new();
        let theirs = disk.sockets(sockets);
        let device = with_a_short_timeout(&theirs);
        let file = File::options().write(true).open(device.path()).unwrap();
        disk.said();
        let gate = disk.gate.lock().unwrap();
        let writer = thread::spawn(move || {
            file.write_all_at(&[7; 4096], 4096)?;
            file.sync_all()
        });
        let mut said = Vec::new();
        while said.len() < sockets {
            thread::sleep(Duration::from_millis(5));
            said.extend(disk.said());
        }
        assert_eq!(said, vec![(1, 4096, 4096); sockets]);
        if sockets == 1 {
            let errno = writer.join().unwrap().unwrap_err();
            assert_eq!(errno.raw_os_error(), Some(libc::EIO));
            assert_eq!(disk.said(), []);
            drop(gate);
        } else {
            drop(gate);
            // Acknowledged, and done twice.
            writer.join().unwrap().unwrap();
        }
        device.disconnect().unwrap();
    }
}
