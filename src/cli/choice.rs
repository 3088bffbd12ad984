//! Where a disk appears when the user does not say: the best front end that works on this host.

use crate::Refusal;
use crate::frontends::Target;

/// What works on this host, and of the rest in words why not.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// ublk devices.
    pub(super) ublk: Result<(), String>,
    /// Devices of the kernel's NBD client.
    pub(super) nbd: Result<(), String>,
    /// Loop devices on a FUSE file.
    pub(super) loopback: Result<(), String>,
    /// A file by FUSE.
    pub(super) fuse: Result<(), String>,
}

/// Ask this host.
pub(super) fn host() -> Host {
    let found = pydisk_kernel::probe::Host::probe();
    let fuse = found.fuse.map(drop);
    Host {
        ublk: found.ublk.map(drop),
        nbd: found.nbd,
        // Its file is one by FUSE.
        loopback: found.loop_device.and_then(|()| fuse.clone()),
        fuse,
    }
}

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Where the disk shall appear; `None` for a file in the attachment's folder.
    pub(super) target: Option<Target>,
    /// Which it is and why the better ones are not, for the user.
    pub(super) reason: String,
}

/// Choose the best front end.
///
/// # Errors
/// One sentence with what is wrong with each of them.
pub(super) fn choose(host: &Host) -> Result<Choice, Refusal> {
    let ublk = match &host.ublk {
        Ok(()) => {
            return Ok(Choice {
                target: Some(Target::Ublk(None)),
                reason: "using ublk".into(),
            });
        }
        Err(why) => why,
    };
    let nbd = match &host.nbd {
        Ok(()) => {
            return Ok(Choice {
                target: Some(Target::Nbd(None)),
                reason: format!("using the kernel's NBD client; not ublk: {ublk}"),
            });
        }
        Err(why) => why,
    };
    let loopback = match &host.loopback {
        Ok(()) => {
            return Ok(Choice {
                target: Some(Target::Loop(None)),
                reason: format!(
                    "using a loop device on FUSE; not ublk: {ublk}; not nbd-kernel: {nbd}"
                ),
            });
        }
        Err(why) => why,
    };
    match &host.fuse {
        Ok(()) => Ok(Choice {
            target: None,
            reason: format!(
                "using a FUSE file; not ublk: {ublk}; not nbd-kernel: {nbd}; not loop: {loopback}"
            ),
        }),
        Err(fuse) => Err(Refusal::new(format!(
            "no front end works on this host: ublk: {ublk}; nbd-kernel: {nbd}; loop: {loopback}; \
             fuse: {fuse}"
        ))
        .hint("`pydisk probe` shows what each of them needs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(ublk: bool, nbd: bool, loopback: bool, fuse: bool) -> Result<Choice, Refusal> {
        let works = |yes: bool, why: &str| if yes { Ok(()) } else { Err(why.to_owned()) };
        choose(&Host {
            ublk: works(ublk, "no module"),
            nbd: works(nbd, "no client"),
            loopback: works(loopback, "no right"),
            fuse: works(fuse, "no /dev/fuse"),
        })
    }

    #[test]
    fn the_best_one_is_taken_and_the_better_ones_explained() {
        let best = chosen(true, true, true, true).unwrap();
        assert_eq!(best.target, Some(Target::Ublk(None)));
        assert_eq!(best.reason, "using ublk");
        let second = chosen(false, true, true, true).unwrap();
        assert_eq!(second.target, Some(Target::Nbd(None)));
        assert_eq!(
            second.reason,
            "using the kernel's NBD client; not ublk: no module"
        );
        let third = chosen(false, false, true, true).unwrap();
        assert_eq!(third.target, Some(Target::Loop(None)));
        assert_eq!(
            third.reason,
            "using a loop device on FUSE; not ublk: no module; not nbd-kernel: no client"
        );
        let fourth = chosen(false, false, false, true).unwrap();
        assert_eq!(fourth.target, None);
        assert_eq!(
            fourth.reason,
            "using a FUSE file; not ublk: no module; not nbd-kernel: no client; not loop: no right"
        );
    }

    #[test]
    fn with_nothing_at_all_each_reason_is_said() {
        let refusal = chosen(false, false, false, false).unwrap_err().to_string();
        for why in ["no module", "no client", "no right", "no /dev/fuse"] {
            assert!(refusal.contains(why), "{refusal}");
        }
    }
}
