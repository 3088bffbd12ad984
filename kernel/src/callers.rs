//! Threads that wait in the kernel for an answer, and whether they would ever see it.
//!
//! Called by the FUSE front end for calls that take long. It goes by what proc(5) shows of a thread, and where
//! that is unclear the thread lives on.

use libc::{
    SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGQUIT, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ,
};

use crate::proc::{Stat, Status};

/// What ends a process with a core dump, see signal(7). The kernel makes SIGKILL of all the others that end a
/// process as soon as they are sent; these wait until the thread leaves the kernel.
const WITH_A_CORE_DUMP: u64 = bit(SIGQUIT)
    | bit(SIGILL)
    | bit(SIGTRAP)
    | bit(SIGABRT)
    | bit(SIGBUS)
    | bit(SIGFPE)
    | bit(SIGSEGV)
    | bit(SIGXCPU)
    | bit(SIGXFSZ)
    | bit(SIGSYS);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Whether /proc numbers threads as the kernel does for this process; elsewhere the same number may be somebody
/// else's.
#[must_use]
pub fn are_seen() -> bool {
    Status::of("self").is_some_and(|status| has_one_number(&status))
}

/// Whether the thread with this number is about to end without leaving the kernel before that.
#[must_use]
pub fn is_being_killed(thread: u32) -> bool {
    Status::of(thread).is_some_and(|status| will_end(&status))
}

/// When the thread with this number was started, to tell it from a later one; none if there is no such thread.
#[must_use]
pub fn started(thread: u32) -> Option<u64> {
    Some(Stat::of(thread)?.started)
}

/// One number in each pid namespace from that of /proc down to the process's own.
fn has_one_number(status: &Status) -> bool {
    let numbers = status.field("NSpid");
    numbers.is_none_or(|numbers| numbers.split_ascii_whitespace().count() == 1)
}

fn will_end(status: &Status) -> bool {
    let set = |name| u64::from_str_radix(status.field(name)?, 16).ok();
    let (Some(own), Some(shared)) = (set("SigPnd"), set("ShdPnd")) else {
        return false;
    };
    if own & bit(SIGKILL) != 0 {
        return true;
    }
    let (Some(blocked), Some(ignored), Some(handled)) =
        (set("SigBlk"), set("SigIgn"), set("SigCgt"))
    else {
        return false;
    };
    // A debugger may keep the signal away.
    let is_traced = status.field("TracerPid").is_none_or(|tracer| tracer != "0");
    (own | shared) & !(blocked | ignored | handled) & WITH_A_CORE_DUMP != 0 && !is_traced
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As proc(5) shows the signals of a thread.
    fn status(own: u64, shared: u64, [blocked, ignored, handled]: [u64; 3], tracer: u32) -> Status {
        let text = format!(
            "Name:\tSigPnd: 1\nTracerPid:\t{tracer}\nNSpid:\t7\nSigQ:\t1/100\nSigPnd:\t{own:016x}\n\
             ShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n\
             SigCgt:\t{handled:016x}\n"
        );
        Status::from(&*text)
    }

    #[test]
    fn only_what_surely_ends_a_thread_counts() {
        const NONE: [u64; 3] = [0; 3];
        let (kill, quit, usr1) = (bit(SIGKILL), bit(SIGQUIT), bit(libc::SIGUSR1));
        assert!(will_end(&status(kill, 0, NONE, 0)));
        assert!(will_end(&status(kill | usr1, 0, [0, 0, usr1], 9)));
        assert!(will_end(&status(quit, 0, NONE, 0)));
        assert!(will_end(&status(0, quit, NONE, 0)));
        for sets in [[quit, 0, 0], [0, quit, 0], [0, 0, quit]] {
            assert!(!will_end(&status(quit, quit, sets, 0)));
        }
        assert!(!will_end(&status(quit, 0, NONE, 9)), "it is traced");
        for harmless in [usr1, bit(libc::SIGCHLD), bit(libc::SIGTSTP), 0] {
            assert!(!will_end(&status(harmless, harmless, NONE, 0)));
        }
        assert!(!will_end(&"".into()) && !will_end(&"SigPnd:\tx\nShdPnd:\t0\n".into()));
    }

    #[test]
    fn another_namespace_is_seen_by_its_numbers() {
        assert!(has_one_number(&"Pid:\t7\nNSpid:\t7\n".into()));
        assert!(!has_one_number(&"NSpid:\t70\t7\n".into()));
        assert!(has_one_number(&"a kernel without namespaces".into()));
    }

    #[test]
    fn this_thread_lives() {
        let me = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .cast_unsigned();
        assert!(!is_being_killed(me));
        assert!(started(me).is_some() && started(me) == started(me));
        assert!(started(u32::MAX).is_none() && !is_being_killed(u32::MAX));
    }
}
