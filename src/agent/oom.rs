//! Whether the kernel may have ended a process because memory ran out: nothing tells who sent a SIGKILL.

use std::fs;

/// How many processes the kernel has ended so far for want of memory, in all of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kills(Option<u64>);

impl Kills {
    /// As of now; unknown where the kernel (before 4.13) or a container does not tell.
    pub(super) fn now() -> Self {
        Self(
            fs::read_to_string("/proc/vmstat")
                .ok()
                .as_deref()
                .and_then(count),
        )
    }

    /// What to add where a process died by a SIGKILL of nobody we know, `self` being older than that.
    pub(super) fn suspicion(self) -> &'static str {
        suspicion(self, Self::now())
    }
}

fn count(vmstat: &str) -> Option<u64> {
    let line = vmstat
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.parse().ok()
}

fn suspicion(before: Kills, after: Kills) -> &'static str {
    match (before.0, after.0) {
        (Some(before), Some(after)) if after == before => "",
        (Some(_), Some(_)) => {
            ", probably by the kernel's OOM killer, which has ended something meanwhile (see `dmesg`)"
        }
        _ => ", perhaps by the kernel's OOM killer (see `dmesg`)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_suspected_where_it_may_have_been() {
        let count = |text| Kills(count(text));
        let (before, same, after) = (
            count("pgfault 7\noom_kill 3\nswap_ra 1\n"),
            count("oom_kill 3\n"),
            count("oom_kill 4\n"),
        );
        assert_eq!(suspicion(before, same), "");
        assert!(suspicion(before, after).contains("probably"));
        let unknown = count("pgfault 7\nthp_oom_kill 3\n");
        assert_eq!(unknown, Kills(None));
        for (before, after) in [(unknown, after), (before, unknown), (unknown, unknown)] {
            assert!(suspicion(before, after).contains("perhaps"));
        }
    }
}
