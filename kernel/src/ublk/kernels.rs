//! Kernels on which making a ublk device crashes the machine.

use crate::device_error::DeviceError;

/// Refuse a kernel that is known to crash on `ADD_DEV`.
pub(super) fn check() -> Result<(), DeviceError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if crashes(&release) {
        return Err(DeviceError::KernelCrashes { release });
    }
    Ok(())
}

/// Ubuntu's kernels 6.17.0 that took commit 529d4d632788 without its fix 011af85ccd87: the flavour, the first
/// build and the last one. Sources: `ehrlich-b/go-ublk` (site/content/guide/kernel-bugs.md), which saw generic
/// -35 and -40, AWS -1019 and Azure -1015 to -1020 crash and generic -41, AWS -1020 and Azure -1021 work;
/// Azure's changelog names the commit first in -1014. Of the builds between, and of the flavours that nobody
/// tried, it is not known; they are refused, because a crash takes the machine along.
const UBUNTU_6_17: [(&str, u32, u32); 5] = [
    ("generic", 24, 40),
    ("aws", 1000, 1019),
    ("azure", 1000, 1020),
    ("gcp", 1000, 1020),
    ("oracle", 1000, 1020),
];

/// Linux 6.18.4 and 6.18.5 have that commit without its fix, and so has Ubuntu's 6.18.0-9.
fn crashes(release: &str) -> bool {
    let (version, rest) = release.split_once('-').unwrap_or((release, ""));
    let (build, flavour) = rest.split_once('-').unwrap_or((rest, ""));
    let build = build.parse::<u32>().ok();
    match (version, build) {
        ("6.18.4" | "6.18.5", _) | ("6.18.0", Some(9)) => true,
        ("6.17.0", Some(build)) => UBUNTU_6_17
            .iter()
            .any(|&(name, first, last)| name == flavour && (first..=last).contains(&build)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::crashes;

    #[test]
    fn only_kernels_that_crash_are_refused() {
        for release in [
            "6.18.4",
            "6.18.5-amd64",
            "6.18.0-9-generic",
            "6.17.0-24-generic",
            "6.17.0-40-generic",
            "6.17.0-1014-azure",
            "6.17.0-1015-azure",
            "6.17.0-1020-azure",
            "6.17.0-1010-aws",
            "6.17.0-1019-aws",
        ] {
            assert!(crashes(release), "{release}");
        }
        for release in [
            "6.18.44",
            "6.18.6",
            "6.17.0-22-generic",
            "6.17.0-41-generic",
            "6.17.0-1021-azure",
            "6.17.0-1020-aws",
            "6.18.0-10-generic",
            "6.17.0",
            "6.12.94+deb12-amd64",
            "7.3.4",
        ] {
            assert!(!crashes(release), "{release}");
        }
    }
}
