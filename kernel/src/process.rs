//! What a process asks of the kernel about itself and what it hands to its children.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::proc::Stat;

/// Let no child inherit a descriptor above standard error.
///
/// What this process opened itself is closed on exec anyway; this is for what its own parent left
/// open, such as the pipe of a job server, which a disk would otherwise hold for days.
///
/// # Errors
/// As close_range(2) with `CLOSE_RANGE_CLOEXEC` (Linux 5.11).
pub fn keep_descriptors_from_children() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC takes no memory and closes nothing; it only sets
    // a flag on the descriptors of this process.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, flags) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Go on in a mount namespace of one's own, which follows what happens in the one left behind.
///
/// Call it before any thread is started: the others would stay behind.
///
/// # Errors
/// As unshare(2) and mount(2); it takes `CAP_SYS_ADMIN`.
pub fn leave_mount_namespace() -> io::Result<()> {
    // SAFETY: a new mount namespace touches no memory and no descriptor; only paths are resolved
    // differently from here on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )?;
    Ok(())
}

/// Whether this process is about to be gone: it runs no more, and what it has not let go of yet it will.
#[must_use]
pub fn is_exiting(pid: i32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.flags & PF_EXITING != 0)
}

// https://git.kernel.org/torvalds/c/v6.12:include/linux/sched.h
const PF_EXITING: u64 = 0x4;

/// Processor time that this process has used so far, all threads, in user mode and in the kernel.
#[must_use]
pub fn cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// A clock that never goes back, in milliseconds. It is read from memory, on most systems, and right to some
/// milliseconds.
#[must_use]
pub fn coarse_milliseconds() -> u64 {
    let time = clock(libc::CLOCK_MONOTONIC_COARSE);
    time.as_secs() * 1000 + u64::from(time.subsec_millis())
}

fn clock(which: libc::clockid_t) -> Duration {
    // Not rustix's: it panics where the kernel's vDSO is not what it expects, as in User-Mode Linux.
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: clock_gettime(2) writes one timespec to the pointer, which lives through the call.
    let done = unsafe { libc::clock_gettime(which, time.as_mut_ptr()) };
    debug_assert_eq!(done, 0, "every kernel has this clock");
    // SAFETY: two integers, for which every value is valid, zeroed before the kernel filled them.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Give free memory back that the allocator keeps for later, once what needs much of it is over.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Have handlers of signals run on the stack of the thread that is interrupted, where they were to have one of
/// their own (`SA_ONSTACK`, which CPython asks for): Rust gives its threads 8 KiB for that, and of the frames of
/// three signals at once each can have 3 KiB and more. Handlers of faults keep theirs, for a stack that is full.
///
/// Called once the handlers are there, by a thread that no other one competes with for that.
pub fn handle_signals_on_own_stacks() {
    const FAULTS: [i32; 5] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGABRT,
    ];
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !FAULTS.contains(signal)) {
        // SAFETY: all zeroes are a `sigaction`, and sigaction(2) fills it in or fails, as it does for numbers
        // that are the C library's own.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it is asked for only, into memory of ours.
        if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0
            || action.sa_flags & libc::SA_ONSTACK == 0
        {
            continue;
        }
        action.sa_flags &= !libc::SA_ONSTACK;
        // SAFETY: the handler is the one that was there, and may run on any stack with room for it.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            log::debug!("signal {signal}: {}", std::io::Error::last_os_error());
        }
    }
}

/// Whether this process ignores a signal, as what a shell starts with `&` in a script ignores SIGINT.
#[must_use]
pub fn ignores(signal: i32) -> bool {
    // SAFETY: all zeroes are a `sigaction`, and sigaction(2) fills it in or fails.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it is asked for only, into memory of ours.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_exiting_and_this_one_is_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // It stays until it is waited for.
        crate::testing::soon("it has ended", || is_exiting(pid));
        child.wait().unwrap();
        assert!(!is_exiting(i32::try_from(std::process::id()).unwrap()));
    }

    #[test]
    fn processor_time_grows_with_work() {
        let before = cpu_time();
        assert!(before > Duration::ZERO);
        let mut number = 0_u64;
        while cpu_time() < before + Duration::from_millis(5) {
            number = std::hint::black_box(number + 1);
        }
        assert!(number > 0);
    }
}
