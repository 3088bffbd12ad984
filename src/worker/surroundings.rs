//! What a worker asks of the system before it does anything else, while it has one thread. Each of
//! these makes a disk safer where it is permitted; none is needed to serve.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group, kill_process};

use crate::attachment::Conduct;
use crate::frontends::Target;
use crate::{Refusal, ResultExt};

/// Settle the process for serving `target`.
pub(super) fn settle(target: &Target) {
    // Out of the terminal's reach: an interrupt is for the agent, which lets the plugin finish, and
    // what the plugin started (a tunnel, a helper) is needed for that.
    if let Err(error) = rustix::process::setsid() {
        log::debug!("no session of its own: {error}");
    }
    if let Err(error) = pydisk_kernel::process::keep_descriptors_from_children() {
        log::debug!("the plugin's children may inherit descriptors: {error}");
    }
    // Memory that the kernel reclaims on behalf of this process must not be written to its own disk,
    // which would wait for itself. Threads inherit it. prctl(2), PR_SET_IO_FLUSHER.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        log::debug!("not marked as an I/O flusher: {error}");
    }
    // A file must stay visible where the user is.
    if !target.front_end().row().mounts {
        leave_foreign_namespace();
    }
}

/// Become what the user wants the process to be that runs the plugin, once it needs no rights any
/// more but those.
///
/// # Errors
/// One sentence, if it has not the right to.
pub(super) fn change(conduct: &Conduct) -> Result<(), Refusal> {
    if conduct.locks_memory {
        lock_memory()?;
    }
    if let Some(group) = conduct.group {
        let gid = Gid::from_raw(group);
        // In this order: who is somebody else already may not choose groups.
        setgroups(&[gid]).and_then(|()| setgid(gid)).refuse_during(
            "-g",
            format_args!("this process may not become group {group}"),
        )?;
    }
    if let Some(user) = conduct.user {
        setuid(Uid::from_raw(user)).refuse_during(
            "-u",
            format_args!("this process may not become user {user}"),
        )?;
    }
    Ok(())
}

/// Every page now and later: what is swapped to the disk that this process serves would be waited for
/// by the process that has to serve it.
///
/// What there is now, program, libraries and plugin, is read in and locked whole. What comes later is
/// locked page by page as it is touched, mlockall(2) `MCL_ONFAULT`: a page that was never touched is
/// nowhere, so it cannot be swapped, and the stack of each thread would take 8 MiB.
fn lock_memory() -> Result<(), Refusal> {
    mlockall(MlockAllFlags::CURRENT)
        .and_then(|()| mlockall(MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT))
        .refuse_during("--swap", "memory cannot be locked")
        .map_err(|refusal| refusal.hint("run it as root, or raise `ulimit -l`"))
}

/// End this process and what its plugin started after `patience`, if the plugin still hangs then and
/// there is no agent to do it.
pub(super) fn end_after(patience: Duration) {
    let end = move || {
        thread::sleep(patience);
        log::error!("the plugin did not stop in time: its worker ends");
        // A group of its own, unless `settle` could not make one.
        let ended = if getpgrp() == getpid() {
            kill_current_process_group(Signal::KILL)
        } else {
            kill_process(getpid(), Signal::KILL)
        };
        if let Err(error) = ended {
            log::error!("the worker cannot end itself: {error}");
        }
    };
    let started = thread::Builder::new().name("last-resort".into()).spawn(end);
    if let Err(error) = started {
        log::warn!("nothing ends a plugin that hangs: {error}");
    }
}

/// The last process of a mount namespace unmounts what is mounted there when it ends. If that were
/// this worker and its own disk, the file system's last writes would wait for a process that is
/// exiting. So it leaves, as a follower that sees what is mounted later.
///
/// In the namespace of process 1 that cannot happen, because process 1 outlives all others; there a
/// copy would only keep other file systems busy: where mounts are private, what is unmounted later stays
/// mounted in the copy. So it stays, too, where it may not look at process 1, as in some containers.
fn leave_foreign_namespace() {
    let same = |one: &str, other: &str| matches!((fs::read_link(one), fs::read_link(other)), (Ok(one), Ok(other)) if one == other);
    let readable = fs::read_link("/proc/1/ns/mnt").is_ok();
    if !readable || same("/proc/self/ns/mnt", "/proc/1/ns/mnt") {
        return;
    }
    if let Err(error) = pydisk_kernel::process::leave_mount_namespace() {
        log::debug!("stays in its mount namespace: {error}");
    }
}
