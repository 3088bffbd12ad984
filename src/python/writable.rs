//! Whether others may change what root is about to run.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::Mode;

/// What is said of a script that every user may write to, or put another file in the place of. Only root has rights that
/// others could gain by that.
#[must_use]
pub fn writable_by_all(script: &Path) -> Vec<String> {
    match rustix::process::geteuid().is_root() {
        true => faults(script),
        false => Vec::new(),
    }
}

/// Warn of it.
pub(super) fn warn(script: &Path) {
    for fault in writable_by_all(script) {
        log::warn!("{fault}");
    }
}

fn faults(script: &Path) -> Vec<String> {
    let shown = script.display();
    let mut faults = Vec::new();
    if mode(script).is_some_and(|mode| mode.contains(Mode::WOTH)) {
        faults.push(format!(
            "{shown}: every user may write to this file, and it runs as root: `chmod o-w` takes that right away"
        ));
    }
    // Links lie in one folder and what they lead to in another one.
    let real = script.canonicalize().ok();
    let folders = [Some(script), real.as_deref()].map(|path| path.and_then(Path::parent));
    let [given, real] = folders;
    for folder in given.into_iter().chain(real.filter(|_| real != given)) {
        let open = |mode: Mode| mode.contains(Mode::WOTH) && !mode.contains(Mode::SVTX);
        if mode(folder).is_some_and(open) {
            faults.push(format!(
                "{shown}: every user may put another file in its place, in the folder `{}`, and it runs as root: \
                 `chmod o-w` takes that right away",
                folder.display()
            ));
        }
    }
    faults
}

fn mode(path: &Path) -> Option<Mode> {
    let found = fs::metadata(path).ok()?;
    Some(Mode::from_raw_mode(found.mode()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_everybody_may_write_to_is_told() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("open");
        fs::create_dir(&folder).unwrap();
        let script = folder.join("disk.py");
        fs::write(&script, "").unwrap();
        let link = place.path().join("link.py");
        symlink(&script, &link).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (of_file, of_folder, words) in [
            (0o755, 0o755, &[][..]),
            (0o664, 0o775, &[]),
            (0o666, 0o755, &["write to this file"]),
            (0o644, 0o777, &["in its place, in the folder"]),
            (0o644, 0o1777, &[]),
            (0o646, 0o777, &["write to this file", "in its place"]),
        ] {
            set(&script, of_file);
            set(&folder, of_folder);
            for path in [&script, &link] {
                let found = faults(path);
                assert_eq!(
                    found.len(),
                    words.len(),
                    "{of_file:o} {of_folder:o}: {found:?}"
                );
                for (fault, words) in found.iter().zip(words) {
                    assert!(fault.contains(words), "{fault}");
                }
            }
        }
        assert!(faults(Path::new("/no/such/disk.py")).is_empty());
    }
}
