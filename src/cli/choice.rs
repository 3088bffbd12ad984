//! Where a disk appears when the user does not say: the best front end that works on this host.

use crate::Refusal;
use crate::frontends::{self, Host, Row};

/// A front end, and in words why it does not work on this host, if it does not.
pub(super) struct Found {
    /// Which.
    pub(super) row: &'static Row,
    /// Whether it works.
    pub(super) works: Result<(), String>,
}

/// Ask this host what it offers. Front ends that need nothing are left out.
pub(super) fn host() -> Vec<Found> {
    offered_by(&Host::probe())
}

fn offered_by(host: &Host) -> Vec<Found> {
    let asked = |&row: &&'static Row| {
        let works = (row.offered?)(host);
        Some(Found { row, works })
    };
    frontends::ALL.iter().filter_map(asked).collect()
}

/// What was chosen.
pub(super) struct Choice {
    /// Which front end.
    pub(super) row: &'static Row,
    /// Which it is and why the better ones are not, for the user.
    pub(super) reason: String,
}

/// Choose the best front end.
///
/// # Errors
/// One sentence with what is wrong with each of them.
pub(super) fn choose(host: &[Found]) -> Result<Choice, Refusal> {
    let mut reason = String::new();
    for Found { row, works } in host {
        match works {
            Ok(()) => {
                return Ok(Choice {
                    row,
                    reason: format!("using {}{reason}", row.words),
                });
            }
            Err(why) => reason += &format!("; not {}: {why}", row.name),
        }
    }
    let each = host.iter().filter_map(|found| {
        let why = found.works.as_ref().err()?;
        Some(format!("{}: {why}", found.row.name))
    });
    let each: Vec<_> = each.collect();
    Err(
        Refusal::about("no front end works on this host", each.join("; "))
            .hint("`pydisk probe` shows what each of them needs"),
    )
}

#[cfg(test)]
mod tests {
    use pydisk_kernel::probe::{Fuse, Ublk};

    use super::*;

    fn chosen(ublk: bool, nbd: bool, loopback: bool, fuse: bool) -> Result<Choice, Refusal> {
        fn works<T>(yes: bool, what: T, why: &str) -> Result<T, String> {
            if yes { Ok(what) } else { Err(why.to_owned()) }
        }
        let features = Vec::new();
        choose(&offered_by(&Host {
            ublk: works(ublk, Ublk { features }, "no module"),
            nbd: works(nbd, (), "no client"),
            fuse: works(fuse, Fuse::Direct, "no /dev/fuse"),
            loop_device: works(loopback, (), "no right"),
            io_uring: Ok(()),
        }))
    }

    #[test]
    fn the_best_one_is_taken_and_the_better_ones_explained() {
        for (ublk, nbd, loopback, name, reason) in [
            (true, true, true, "ublk", "using ublk"),
            (
                false,
                true,
                true,
                "nbd-kernel",
                "using the kernel's NBD client; not ublk: no module",
            ),
            (
                false,
                false,
                true,
                "loop",
                "using a loop device on FUSE; not ublk: no module; not nbd-kernel: no client",
            ),
            (
                false,
                false,
                false,
                "fuse",
                "using a FUSE file; not ublk: no module; not nbd-kernel: no client; not loop: no right",
            ),
        ] {
            let choice =
                chosen(ublk, nbd, loopback, true).unwrap_or_else(|refusal| panic!("{refusal}"));
            assert_eq!((choice.row.name, &*choice.reason), (name, reason));
        }
    }

    #[test]
    fn a_loop_device_takes_fuse() {
        let refusal = chosen(false, false, true, false)
            .err()
            .expect("nothing works");
        let text = refusal.to_string();
        assert!(
            text.contains("loop: no /dev/fuse; fuse: no /dev/fuse"),
            "{text}"
        );
    }

    #[test]
    fn with_nothing_at_all_each_reason_is_said() {
        let refusal = chosen(false, false, false, false)
            .err()
            .expect("nothing works");
        assert_eq!(
            refusal.to_string(),
            "no front end works on this host: ublk: no module; nbd-kernel: no client; loop: no right; fuse: \
             no /dev/fuse\nhint: `pydisk probe` shows what each of them needs"
        );
    }
}
