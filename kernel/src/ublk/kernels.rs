//! Kernels on which making a ublk device crashes the machine.

use super::error::Error;

/// Refuse a kernel that is known to crash on `ADD_DEV`.
pub(super) fn check() -> Result<(), Error> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if crashes(&release) {
        return Err(Error::KernelCrashes { release });
    }
    Ok(())
}

/// Commit 529d4d632788 without its fix 011af85ccd87: Linux 6.18.4 and 6.18.5, and Ubuntu's cloud
/// kernels 6.17.0 that took the first of them (seen with 6.17.0-1015-azure).
fn crashes(release: &str) -> bool {
    let (version, rest) = release.split_once('-').unwrap_or((release, ""));
    if version == "6.18.4" || version == "6.18.5" {
        return true;
    }
    let mut parts = rest.split('-');
    let build = parts.next().and_then(|number| number.parse::<u32>().ok());
    let flavour = parts.next().unwrap_or("");
    version == "6.17.0"
        && ["azure", "aws", "gcp", "oracle"].contains(&flavour)
        && build.is_some_and(|build| (1000..=1015).contains(&build))
}

#[cfg(test)]
mod tests {
    use super::crashes;

    #[test]
    fn only_kernels_that_crash_are_refused() {
        for release in [
            "6.18.4",
            "6.18.5-amd64",
            "6.17.0-1015-azure",
            "6.17.0-1010-aws",
        ] {
            assert!(crashes(release), "{release}");
        }
        for release in [
            "6.18.44",
            "6.18.6",
            "6.17.0-22-generic",
            "6.17.0-1020-azure",
            "6.12.94+deb12-amd64",
            "7.3.4",
        ] {
            assert!(!crashes(release), "{release}");
        }
    }
}
