//! Failures of the handler reach the application, and the device lives on.

use std::io;

use pydisk_kernel::DeviceError;
use pydisk_kernel::ublk::{Op, Params};
use rustix::io::Errno;

use crate::support::{Memory, WAYS, available, everything, open_direct, read_page, write_page};

#[test]
fn an_errno_reaches_the_application() {
    if !available() {
        return;
    }
    for way in WAYS {
        let disk = Memory::with(1 << 20, |io| match (io.at / 4096, &io.op) {
            (8, Op::Write { .. }) => Err(Errno::NOSPC),
            (9, Op::Read(_)) => Err(Errno::IO),
            (10, Op::Read(_)) => panic!("on purpose"),
            // Not one that the block layer knows.
            (11, Op::Read(_)) => Err(Errno::PERM),
            // Not one at all.
            (12, Op::Read(_)) => Err(Errno::from_raw_os_error(0)),
            _ => Ok(()),
        });
        let running = way.start(&everything(1 << 20), disk);
        let mut device = open_direct(running.device_path());
        let errno = |outcome: io::Result<()>| outcome.unwrap_err().raw_os_error();
        assert_eq!(errno(write_page(&mut device, 8, 1)), Some(libc::ENOSPC));
        for page in 9..=12 {
            let outcome = read_page(&mut device, page).map(drop);
            assert_eq!(errno(outcome), Some(libc::EIO), "{way:?} page {page}");
        }
        write_page(&mut device, 20, 7).unwrap();
        assert_eq!(read_page(&mut device, 20).unwrap().0, [7; 4096]);
        drop(device);
        running.stop().unwrap();
    }
}

#[test]
fn a_handler_that_always_panics_does_not_end_the_device() {
    if !available() {
        return;
    }
    for way in WAYS {
        let disk = Memory::with(1 << 20, |io| match io.op {
            Op::Write { .. } => panic!("on purpose"),
            _ => Ok(()),
        });
        let running = way.start(&everything(1 << 20), disk);
        let mut device = open_direct(running.device_path());
        for page in 0..200 {
            let error = write_page(&mut device, page, 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
        }
        assert_eq!(read_page(&mut device, 3).unwrap().0, [0; 4096]);
        drop(device);
        running.stop().unwrap();
    }
}

#[test]
fn a_number_that_is_taken_is_refused_with_its_holder() {
    if !available() {
        return;
    }
    for way in WAYS {
        let running = way.start(&everything(1 << 20), Memory::new(1 << 20));
        let refused = way
            .add(Some(running.id()), &everything(1 << 20))
            .unwrap_err();
        let DeviceError::InUse {
            holder: Some((pid, _)),
            ..
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!(u32::try_from(pid).unwrap(), std::process::id());
        running.stop().unwrap();
    }
}

#[test]
fn bad_parameters_make_no_device() {
    let refused = WAYS[0].add(None, &Params::new(1000)).unwrap_err();
    assert!(matches!(refused, DeviceError::Params(_)), "{refused:?}");
}
