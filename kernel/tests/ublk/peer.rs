//! Another implementation of the driver's interface, the crate `libublk`, as a peer: its bindings come from the
//! kernel's header by way of bindgen, ours are a page of our own.
//!
//! It reads our devices, and we read and remove what it made.

use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::io::{BufDescList, UblkDev, UblkIOCtx, UblkQueue};
use libublk::{BufDesc, UblkFlags, UblkIORes, sys};
use pydisk_kernel::DeviceError;
use pydisk_kernel::ublk::{Params, State, info, remove_leftover};

use crate::support::{Memory, WAYS, available, everything, fresh_id, identity};

const SOON: Duration = Duration::from_secs(60);

fn number(id: u32) -> i32 {
    id.try_into().unwrap()
}

fn is_this_process(pid: i32) -> bool {
    pid.cast_unsigned() == std::process::id()
}

#[test]
fn libublk_reads_a_device_as_it_was_made() {
    if !available() {
        return;
    }
    let params = Params {
        logical_block: 1024,
        io_opt: 1 << 16,
        rotational: true,
        ..everything(1 << 20)
    };
    for way in WAYS {
        let running = way.start(&params, Memory::new(1 << 20));
        let ours = info(running.id()).unwrap();
        let peer = UblkCtrl::new_simple(number(running.id())).unwrap();
        peer.read_dev_info().unwrap();
        let found = peer.dev_info();
        assert_eq!(found.dev_id, running.id(), "{way:?}");
        assert_eq!(u32::from(found.state), sys::UBLK_S_DEV_LIVE);
        assert_eq!(found.ublksrv_pid.cast_unsigned(), std::process::id());
        assert_eq!(found.ublksrv_flags, identity(running.id()));
        assert_eq!(found.max_io_buf_bytes, params.max_io_bytes);
        assert_eq!(found.queue_depth, ours.depth);

        let mut read = sys::ublk_params::default();
        peer.get_params(&mut read).unwrap();
        let has = |bit: u32| read.types & bit != 0;
        assert!(has(sys::UBLK_PARAM_TYPE_BASIC) && has(sys::UBLK_PARAM_TYPE_DISCARD));
        let attrs = sys::UBLK_ATTR_ROTATIONAL | sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA;
        assert_eq!(read.basic.attrs, attrs);
        assert_eq!(1 << read.basic.logical_bs_shift, params.logical_block);
        assert_eq!(1 << read.basic.physical_bs_shift, params.physical_block);
        assert_eq!(1 << read.basic.io_opt_shift, params.io_opt);
        assert_eq!(1 << read.basic.io_min_shift, params.io_min);
        assert_eq!(read.basic.max_sectors * 512, params.max_io_bytes);
        assert_eq!(read.basic.dev_sectors * 512, params.size_bytes);
        let discard = read.discard;
        assert_eq!(discard.discard_granularity, params.discard_granularity);
        let bytes = |sectors: u32| u64::from(sectors) * 512;
        assert_eq!(bytes(discard.max_discard_sectors), params.max_discard_bytes);
        let zeroes = bytes(discard.max_write_zeroes_sectors);
        assert_eq!(zeroes, params.max_write_zeroes_bytes);
        running.stop().unwrap();
        assert!(peer.read_dev_info().is_err(), "{way:?}");
    }
}

/// A device of libublk's with an identity of ours and these flags of the driver's, made and not yet started.
fn made_by_libublk(id: u32, flags: u32) -> UblkCtrl {
    UblkCtrlBuilder::default()
        .ctrl_flags(flags.into())
        .name("peer")
        .id(number(id))
        .depth(8)
        .ctrl_target_flags(identity(id))
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()
        .unwrap()
}

/// What it serves reads as whatever its memory holds.
fn serve(queue: u16, device: &UblkDev) {
    let buffers = Rc::new(device.alloc_queue_io_bufs());
    let its = Rc::clone(&buffers);
    let answer = move |queue: &UblkQueue<'_>, tag: u16, _: &UblkIOCtx| {
        let bytes = queue.get_iod(tag).nr_sectors * 512;
        let memory = BufDesc::Slice(its[usize::from(tag)].as_slice());
        let done = Ok(UblkIORes::Result(bytes.try_into().unwrap()));
        queue.complete_io_cmd_unified(tag, memory, done).unwrap();
    };
    UblkQueue::new(queue, device)
        .unwrap()
        .submit_fetch_commands_unified(BufDescList::Slices(Some(&buffers)))
        .unwrap()
        .wait_and_handle_io(answer);
}

/// Start it, call `started`, and serve it until it is stopped.
fn run(peer: &UblkCtrl, started: impl FnOnce(&UblkCtrl) + Send + Sync + 'static) {
    let size = |device: &mut UblkDev| {
        device.set_default_params(1 << 20);
        Ok(())
    };
    peer.run_target(size, serve, started).unwrap();
}

#[test]
fn a_device_of_libublk_is_known_for_what_it_is() {
    if !available() {
        return;
    }
    let id = fresh_id();
    let peer = made_by_libublk(id, 0);
    let made = info(id).unwrap();
    assert_eq!((made.id, made.depth), (id, 8));
    assert_eq!((made.state, made.identity), (State::Dead, identity(id)));
    // libublk says who makes it; Linux 6.12 tells that on, 7.3 does not.
    assert!(made.pid.is_none_or(is_this_process), "{made:?}");
    let (sender, seen) = channel();
    run(&peer, move |peer| {
        sender.send(info(id)).unwrap();
        peer.kill_dev().unwrap();
    });
    let live = seen.recv().unwrap().unwrap();
    assert_eq!((live.state, live.identity), (State::Live, identity(id)));
    assert!(live.pid.is_some_and(is_this_process), "{live:?}");
    drop(peer);
    assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
}

#[test]
fn a_device_of_libublk_is_removed_by_its_identity_only() {
    if !available() {
        return;
    }
    let id = fresh_id();
    let peer = made_by_libublk(id, 0);
    remove_leftover(identity(id) + 1, SOON).unwrap();
    assert_eq!(info(id).unwrap().identity, identity(id));
    remove_leftover(identity(id), SOON).unwrap();
    assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
    drop(peer);
}

/// The number of the device that this process serves until it is killed.
const SERVES: &str = "PYDISK_TEST_SERVES";
/// The file that it makes when the device is started.
const STARTED: &str = "PYDISK_TEST_STARTED";

/// Nothing of ours makes such a device: its disk stays when its server dies.
///
/// The server is killed when `START_DEV` is over, not when the driver says that the disk is there. Kernels before 7.0
/// say that first and read the partitions then, inside the command and with the device locked. That read waits for
/// the next server, once this one is dead; and neither can there be one, nor can the device be stopped, nor can the
/// dead one's process end, because all of them wait for the command.
#[test]
fn a_device_that_waits_for_a_server_is_known_and_removed() {
    if !available() {
        return;
    }
    if let Ok(id) = std::env::var(SERVES) {
        let peer = made_by_libublk(id.parse().unwrap(), sys::UBLK_F_USER_RECOVERY);
        let file = std::env::var_os(STARTED).unwrap();
        run(&peer, |_| std::fs::write(file, "").unwrap());
        panic!("it was stopped");
    }
    let id = fresh_id();
    let folder = tempfile::tempdir().unwrap();
    let started = folder.path().join("started");
    let test = "peer::a_device_that_waits_for_a_server_is_known_and_removed";
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(SERVES, id.to_string())
        .env(STARTED, &started)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    until("it is not started", || started.exists());
    assert_eq!(info(id).unwrap().state, State::Live);
    server.kill().unwrap();
    server.wait().unwrap();
    let quiesced = || info(id).map(|info| info.state) == Ok(State::Quiesced);
    until("it does not wait for a server", quiesced);
    remove_leftover(identity(id) + 1, SOON).unwrap();
    assert_eq!(info(id).unwrap().state, State::Quiesced);
    remove_leftover(identity(id), SOON).unwrap();
    assert_eq!(info(id), Err(DeviceError::NoSuchDevice(id)));
}

fn until(what_else: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "{what_else}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
