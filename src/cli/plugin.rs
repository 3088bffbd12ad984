//! Which script a plugin's name or path means.

use std::path::{Path, PathBuf};

use crate::Refusal;

/// Folders of plugins that ship, instead of those that are looked for; like PATH.
const VARIABLE: &str = "PYDISK_PLUGINS";

/// The source tree that this program was built from, which exists on the developer's machine.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugins");

/// The script of a plugin that ships with pydisk.
pub(super) fn find_shipped(name: &str) -> Option<PathBuf> {
    folders()
        .iter()
        .map(|folder| folder.join(format!("{name}.py")))
        .find(|script| script.is_file())
}

/// The names of the plugins that ship with pydisk, for people.
pub(super) fn known() -> String {
    let shipped = shipped(&folders());
    if shipped.is_empty() {
        return "none was found".to_owned();
    }
    shipped.join(", ")
}

/// Find the script that `word` means: a path, or the name of a plugin that ships with pydisk.
///
/// # Errors
/// One sentence: there is no such file or name.
pub(super) fn find(word: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(word);
    if word.contains('/') || word.ends_with(".py") || path.exists() {
        return script(path);
    }
    if let Some(script) = find_shipped(word) {
        return Ok(script);
    }
    let known = known();
    Err(Refusal::new(format!(
        "plugin `{word}`: there is no such file, and no plugin that ships with pydisk has this name"
    ))
    .hint(format!(
        "give the path of a Python file, or a name ({known})"
    )))
}

/// The script at `path`, as a path that holds in every folder.
///
/// # Errors
/// One sentence: there is no file.
pub(super) fn script(path: &Path) -> Result<PathBuf, Refusal> {
    let failed =
        |error: std::io::Error| Refusal::new(format!("plugin `{}`: {error}", path.display()));
    let found = std::fs::metadata(path).map_err(failed)?;
    if found.is_dir() {
        return Err(Refusal::new(format!(
            "plugin `{}`: a Python file is needed, this is a folder",
            path.display()
        )));
    }
    std::path::absolute(path).map_err(failed)
}

/// Where plugins that ship are looked for, in this order.
pub(super) fn folders() -> Vec<PathBuf> {
    if let Some(folders) = std::env::var_os(VARIABLE) {
        return std::env::split_paths(&folders).collect();
    }
    let installed = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.join("share/pydisk/plugins")));
    installed.into_iter().chain([SOURCE.into()]).collect()
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
