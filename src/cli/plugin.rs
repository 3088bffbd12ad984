//! Which script a plugin's name or path means.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Refusal, ResultExt, attachment};

/// Folders of plugins that ship, instead of those that are looked for; like PATH.
const VARIABLE: &str = "PYDISK_PLUGINS";

/// The source tree that this program was built from, which exists on the developer's machine. On others
/// its place may be anybody's: see [`trusted`].
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins");

/// The script of a plugin that ships with pydisk.
pub(super) fn find_shipped(name: &str) -> Option<PathBuf> {
    shipped_in(name, &folders())
}

fn shipped_in(name: &str, folders: &[PathBuf]) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(format!("{name}.py")))
        .find(|script| script.is_file())
}

/// The names of the plugins that ship with pydisk, for people.
pub(super) fn known() -> String {
    known_in(&folders())
}

fn known_in(folders: &[PathBuf]) -> String {
    let shipped = shipped(folders);
    if shipped.is_empty() {
        return "none was found".to_owned();
    }
    shipped.join(", ")
}

/// Find the script that `word` means: a path, or the name of a plugin that ships with pydisk. What
/// ships goes before what happens to lie where the user is, which `./` in front of it names.
///
/// # Errors
/// One sentence: there is no such file or name.
pub(super) fn find(word: &str) -> Result<PathBuf, Refusal> {
    find_in(word, &folders(), Path::new(""))
}

fn find_in(word: &str, folders: &[PathBuf], here: &Path) -> Result<PathBuf, Refusal> {
    let path = &here.join(word);
    if word.contains('/') || word.ends_with(".py") {
        return script(path);
    }
    if let Some(script) = shipped_in(word, folders) {
        return Ok(script);
    }
    if path.exists() {
        return script(path);
    }
    let known = known_in(folders);
    Err(Refusal::about(
        format_args!("plugin `{word}`"),
        "there is no such file, and no plugin that ships with pydisk has this name",
    )
    .hint(format!(
        "give the path of a Python file, or a name ({known})"
    )))
}

/// The script at `path`, as a path that holds in every folder.
///
/// # Errors
/// One sentence: there is no file.
pub(super) fn script(path: &Path) -> Result<PathBuf, Refusal> {
    let about = format!("plugin `{}`", path.display());
    let found = std::fs::metadata(path).refuse(&about)?;
    if found.is_dir() {
        return Err(Refusal::about(
            about,
            "a Python file is needed, this is a folder",
        ));
    }
    std::path::absolute(path).refuse(about)
}

/// Where plugins that ship are looked for, in this order.
pub(super) fn folders() -> Vec<PathBuf> {
    if let Some(folders) = std::env::var_os(VARIABLE) {
        return std::env::split_paths(&folders).collect();
    }
    let installed = attachment::myself()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.join("share/pydisk/plugins")));
    let source = trusted(Path::new(SOURCE)).then(|| SOURCE.into());
    installed.into_iter().chain(source).collect()
}

/// Whether code in this folder may be run unasked: it is root's, the user's, or belongs to whoever this
/// program belongs to, and not everybody may write there.
fn trusted(folder: &Path) -> bool {
    let program = std::fs::metadata("/proc/self/exe");
    let owners = [0, rustix::process::geteuid().as_raw()];
    std::fs::metadata(folder).is_ok_and(|found| {
        let theirs = program.is_ok_and(|program| program.uid() == found.uid());
        (theirs || owners.contains(&found.uid())) && found.mode() & 0o002 == 0
    })
}

fn shipped(folders: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<_> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_absolute() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("x.py");
        std::fs::write(&file, "").unwrap();
        assert_eq!(find(file.to_str().unwrap()), Ok(file));
    }

    #[test]
    fn what_ships_goes_before_what_lies_around() {
        let place = tempfile::tempdir().unwrap();
        let (ships, here) = (place.path().join("ships"), place.path().join("here"));
        std::fs::create_dir(&ships).unwrap();
        std::fs::write(ships.join("memory.py"), "").unwrap();
        std::fs::write(ships.join("file.py"), "").unwrap();
        std::fs::create_dir_all(here.join("memory")).unwrap();
        std::fs::write(here.join("file"), "").unwrap();
        std::fs::write(here.join("own"), "").unwrap();
        let find = |word: &str| find_in(word, std::slice::from_ref(&ships), &here);
        assert_eq!(find("memory"), Ok(ships.join("memory.py")));
        assert_eq!(find("file"), Ok(ships.join("file.py")));
        assert_eq!(find("own"), Ok(here.join("own")));
        let folder = find("./memory").unwrap_err().to_string();
        assert!(folder.contains("this is a folder"), "{folder}");
    }

    #[test]
    fn a_folder_where_others_may_write_is_not_trusted() {
        use std::os::unix::fs::{PermissionsExt, chown};

        let place = tempfile::tempdir().unwrap();
        let may = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(place.path(), mode).unwrap();
            trusted(place.path())
        };
        assert!(may(0o700) && may(0o775) && !may(0o777));
        assert!(!trusted(Path::new("/no/such/folder")));
        if rustix::process::geteuid().is_root() {
            chown(place.path(), Some(65534), None).unwrap();
            assert!(!may(0o755));
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        for (word, said) in [
            (
                "/no/such/x.py",
                "plugin `/no/such/x.py`: No such file or directory",
            ),
            ("x-y.py", "plugin `x-y.py`: No such file or directory"),
            (
                "/tmp",
                "plugin `/tmp`: a Python file is needed, this is a folder",
            ),
            ("nosuch", "plugin `nosuch`: there is no such file"),
        ] {
            let refusal = find(word).unwrap_err().to_string();
            assert!(refusal.starts_with(said), "{refusal}");
        }
    }

    #[test]
    fn names_of_plugins_are_listed_once() {
        let place = tempfile::tempdir().unwrap();
        for file in ["b.py", "a.py", "c.txt"] {
            std::fs::write(place.path().join(file), "").unwrap();
        }
        let folders = [place.path().to_owned(), place.path().to_owned()];
        assert_eq!(shipped(&folders), ["a", "b"]);
    }
}
