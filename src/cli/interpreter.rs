//! Which Python's packages a plugin sees: `--python`, an active virtual environment, or one beside
//! the plugin. The interpreter itself is the one that pydisk was linked with, so its version must be
//! the same.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::refusal::words;
use crate::{Refusal, ResultExt};

/// The version that this program was linked with, such as `3.11`.
const LINKED: &str = env!("PYDISK_PYTHON");

/// Choose the program that Python shall believe it is (`PYTHONEXECUTABLE`), by which it finds its
/// packages. `None` leaves it to Python.
///
/// # Errors
/// One sentence: what was chosen is no Python, or one of another version.
pub(super) fn choose(asked: Option<&Path>, script: &Path) -> Result<Option<PathBuf>, Refusal> {
    if let Some(path) = asked {
        let path =
            std::path::absolute(path).refuse(format_args!("--python `{}`", path.display()))?;
        return checked(&path, "--python").map(Some);
    }
    if let Some(folder) = std::env::var_os("VIRTUAL_ENV").filter(|folder| !folder.is_empty()) {
        return checked(Path::new(&folder), "VIRTUAL_ENV").map(Some);
    }
    let beside = script.with_file_name(".venv");
    if beside.join("pyvenv.cfg").exists() {
        return checked(&beside, "the environment beside the plugin").map(Some);
    }
    // Python takes the first `python3` in PATH for itself, whatever version that is; say which one
    // is right.
    Ok(std::env::var_os("PATH").and_then(|path| in_path(&path)))
}

fn in_path(path: &OsString) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(format!("python{LINKED}")))
        .find(|program| program.is_file())
}

/// The program at `path`, which is a Python or an environment of the right version.
fn checked(path: &Path, what: &str) -> Result<PathBuf, Refusal> {
    let program = if path.is_dir() {
        path.join("bin/python3")
    } else {
        path.to_owned()
    };
    let shown = path.display();
    if !program.is_file() {
        return Err(
            Refusal::about(format_args!("{what} `{shown}`"), "there is no Python")
                .hint("give the path of a Python program or of a virtual environment"),
        );
    }
    let version = configured(&program)
        .map_or_else(|| ask(&program), Ok)
        .map_err(|why| {
            Refusal::about(
                format_args!("{what} `{shown}`"),
                format_args!("its version cannot be found out: {why}"),
            )
        })?;
    if version == LINKED {
        return Ok(program);
    }
    Err(Refusal::about(
        format_args!("{what} `{shown}`"),
        format_args!("this is Python {version}, and this pydisk is built with Python {LINKED}"),
    )
    .hint(format!(
        "choose a Python {LINKED} with --python, or build pydisk with PYO3_PYTHON={}",
        program.display()
    )))
}

/// The version as it stands in the environment's configuration, without running anything.
fn configured(program: &Path) -> Option<String> {
    let config = program.parent()?.parent()?.join("pyvenv.cfg");
    version_in(&fs::read_to_string(config).ok()?)
}

/// `version = 3.11.7` (venv) or `version_info = 3.11.7.final.0` (virtualenv, uv).
fn version_in(config: &str) -> Option<String> {
    config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        matches!(key.trim(), "version" | "version_info").then_some(())?;
        minor(value)
    })
}

/// `3.11` of `3.11.7`.
fn minor(version: &str) -> Option<String> {
    let mut parts = version.trim().split('.');
    let (major, minor) = (parts.next()?, parts.next()?);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (number(major) && number(minor)).then(|| format!("{major}.{minor}"))
}

/// The version as the program itself says it.
fn ask(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .args([
            "-I",
            "-S",
            "-c",
            "import sys; print('%d.%d' % sys.version_info[:2])",
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(words)?;
    minor(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| format!("it does not say, {}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_environments() {
        assert_eq!(
            version_in("home = /usr\nversion = 3.11.7\n"),
            Some("3.11".into())
        );
        assert_eq!(
            version_in("version_info = 3.13.0.final.0"),
            Some("3.13".into())
        );
        assert_eq!(version_in("home = /usr/bin"), None);
        assert_eq!(version_in("version = unknown"), None);
    }

    #[test]
    fn an_environment_of_another_version_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("bin/python3");
        fs::create_dir(place.path().join("bin")).unwrap();
        fs::write(&program, "").unwrap();
        let config = place.path().join("pyvenv.cfg");
        fs::write(&config, "version = 3.1.4\n").unwrap();
        let refusal = checked(place.path(), "--python").unwrap_err().to_string();
        let said = format!("this is Python 3.1, and this pydisk is built with Python {LINKED}");
        assert!(refusal.contains(&said), "{refusal}");
        fs::write(&config, format!("version = {LINKED}.0\n")).unwrap();
        assert_eq!(checked(place.path(), "--python"), Ok(program));
    }

    #[test]
    fn what_is_no_python_is_refused() {
        let place = tempfile::tempdir().unwrap();
        assert!(checked(place.path(), "--python").is_err());
        assert!(checked(Path::new("/no/such/python"), "--python").is_err());
        assert!(checked(Path::new("/bin/true"), "--python").is_err());
    }
}
