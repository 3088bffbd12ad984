//! Devices that end in other ways than by their server's wish.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use pydisk_kernel::DeviceError;
use pydisk_kernel::ublk::{Op, Params, Running, State, info, remove_leftover};

use crate::support::{
    Memory, WAYS, Way, available, everything, fresh_id, identity, open_direct, read_page, run,
};

const LONG: Duration = Duration::from_secs(60);

/// Not a test: what [`serving_child`] runs. Serves a device until it is killed; a read of page 5 of
/// it is never answered.
#[test]
fn serve_until_killed() {
    let Ok(way) = std::env::var("PYDISK_SERVE") else {
        return;
    };
    let way = WAYS[way.parse::<usize>().unwrap()];
    let disk = Memory::with(16 << 20, |io| {
        if matches!(io.op, Op::Read(_)) && io.at == 5 * 4096 {
            thread::sleep(Duration::from_secs(3600));
        }
        Ok(())
    });
    let running = way.start(&everything(16 << 20), disk);
    println!("\nserving {}", running.id());
    thread::sleep(Duration::from_secs(3600));
}

/// A process that serves a device, and the device's number.
fn serving_child(way: usize) -> (Child, u32) {
    child("ends::serve_until_killed", "PYDISK_SERVE", way)
}

/// This program in a process of its own, for one test that `variable` turns into a server.
fn child(test: &str, variable: &str, way: usize) -> (Child, u32) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, way.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("serving ")?.parse().ok())
        .expect("the child says which device it serves");
    (child, id)
}

/// How many reads of the device have no answer yet.
fn requests_under_way(id: u32) -> u32 {
    let path = format!("/sys/block/ublkb{id}/inflight");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_a_killed_process_leaves_can_be_removed() {
    if !available() {
        return;
    }
    for way in 0..WAYS.len() {
        let (mut child, id) = serving_child(way);
        let seen = info(id).unwrap();
        assert_eq!(seen.state, State::Live);
        assert_eq!(seen.pid, i32::try_from(child.id()).ok());
        // One reader gets no answer, another keeps the device busy.
        let path = format!("/dev/ublkb{id}");
        let stuck = {
            let mut device = open_direct(path.as_ref());
            thread::spawn(move || read_page(&mut device, 5).map(drop))
        };
        while requests_under_way(id) == 0 {
            assert!(!stuck.is_finished(), "it was answered");
            thread::sleep(Duration::from_millis(10));
        }
        let busy = Command::new("fio")
            .args([
                "--name=busy",
                "--rw=randrw",
                "--bs=4k",
                "--direct=1",
                "--time_based",
            ])
            .args([
                "--ioengine=libaio",
                "--iodepth=8",
                "--runtime=60",
                "--offset=1m",
            ])
            .arg(format!("--filename={path}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        thread::sleep(Duration::from_millis(300));
        child.kill().unwrap();
        child.wait().unwrap();
        remove_leftover(identity(id), LONG).unwrap();
        assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
        let outcome = stuck.join().unwrap();
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(!busy.unwrap().wait().unwrap().success());
        // A second time there is nothing to do.
        remove_leftover(identity(id), LONG).unwrap();
    }
}

/// Not a test: what the next one runs. Serves a device that never answers until it is killed.
#[test]
fn wait_in_vain() {
    let Ok(way) = std::env::var("PYDISK_WAIT") else {
        return;
    };
    let way = WAYS[way.parse::<usize>().unwrap()];
    let disk = Memory::with(1 << 20, |_| {
        thread::sleep(Duration::from_secs(3600));
        Ok(())
    });
    let device = way.add(Some(fresh_id()), &everything(1 << 20)).unwrap();
    println!("\nserving {}", device.id());
    // Kernels before 7.0 read the partition table before they are done with the first of these.
    let running = device.start(disk, |_| {}).unwrap();
    running.wait_until_usable(LONG * 10).unwrap();
}

#[test]
fn a_process_that_waits_for_its_own_device_can_be_killed() {
    if !available() {
        return;
    }
    for (number, way) in WAYS.into_iter().enumerate() {
        let (mut child, id) = child("ends::wait_in_vain", "PYDISK_WAIT", number);
        thread::sleep(Duration::from_millis(700));
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        let deadline = Instant::now() + LONG;
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{way:?}: is stuck");
            thread::sleep(Duration::from_millis(10));
        }
        remove_leftover(identity(id), LONG).unwrap();
        assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
    }
}

#[test]
fn a_device_that_was_never_started_can_be_removed_from_outside() {
    if !available() {
        return;
    }
    let device = Way::Serial
        .add(Some(fresh_id()), &everything(1 << 20))
        .unwrap();
    remove_leftover(identity(device.id()), LONG).unwrap();
    assert_eq!(
        info(device.id()),
        Err(DeviceError::NoSuchDevice(device.id()))
    );
}

/// The number of a device that is gone is the next one's, and a state folder may outlive the boot.
#[test]
fn a_device_is_not_removed_for_another_one_that_had_its_number() {
    if !available() {
        return;
    }
    let id = fresh_id();
    let gone = Way::Serial.add(Some(id), &everything(1 << 20)).unwrap();
    assert_eq!(info(id).unwrap().identity, identity(id));
    drop(gone);
    for whose in [0, 1, u64::MAX] {
        let params = Params {
            identity: whose,
            ..everything(1 << 20)
        };
        let device = Way::Serial.add_as(Some(id), &params).unwrap();
        remove_leftover(identity(id), LONG).unwrap();
        remove_leftover(0, LONG).unwrap();
        // Neither before it is started nor while it is served.
        assert_eq!(info(id).unwrap().state, State::Dead);
        let running = device.start(Memory::new(1 << 20), |_| {}).unwrap();
        remove_leftover(identity(id), LONG).unwrap();
        remove_leftover(0, LONG).unwrap();
        let found = info(id).unwrap();
        assert_eq!((found.state, found.identity), (State::Live, whose));
        running.wait_until_usable(LONG).unwrap();
        running.stop().unwrap();
    }
}

/// A device, and what it tells of its end.
fn started(way: Way) -> (Running, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let device = way.add(Some(fresh_id()), &everything(1 << 20)).unwrap();
    let running = device
        .start(Memory::new(1 << 20), move |why| tell.send(why).unwrap())
        .unwrap();
    (running, told)
}

#[test]
fn an_end_from_outside_is_told_once() {
    if !available() {
        return;
    }
    for way in WAYS {
        let (running, told) = started(way);
        let id = running.id();
        // It waits for us to let go of the device's files.
        let outside = thread::spawn(move || remove_leftover(identity(id), LONG));
        let why = told.recv_timeout(LONG).unwrap();
        assert!(why.contains("outside"), "{why}");
        running.stop().unwrap();
        outside.join().unwrap().unwrap();
        assert!(told.recv().is_err(), "told twice");
    }
}

#[test]
fn a_wanted_end_is_not_told() {
    if !available() {
        return;
    }
    for way in WAYS {
        let (running, told) = started(way);
        running.stop().unwrap();
        assert!(told.recv().is_err());
    }
}

#[test]
fn a_busy_device_can_be_stopped() {
    if !available() {
        return;
    }
    for way in WAYS {
        let running = way.start(&everything(16 << 20), Memory::new(16 << 20));
        let mut busy = Command::new("fio")
            .args([
                "--name=busy",
                "--rw=randrw",
                "--bs=4k",
                "--direct=1",
                "--time_based",
            ])
            .args(["--ioengine=libaio", "--iodepth=32", "--runtime=60"])
            .arg(format!("--filename={}", running.device_path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(500));
        let (id, path) = (running.id(), running.device_path().to_owned());
        running.stop().unwrap();
        assert!(!busy.wait().unwrap().success());
        assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
        assert!(!path.exists());
    }
}

#[test]
fn a_child_process_does_not_hold_the_device() {
    if !available() {
        return;
    }
    let running = Way::Serial.start(&everything(1 << 20), Memory::new(1 << 20));
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    running.stop().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    run(&mut Command::new("true"));
}
