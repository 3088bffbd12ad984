//! A script that is no file: it comes through a pipe or a descriptor, as of `pydisk attach /dev/stdin` and
//! `pydisk attach <(generate)`. It can be read once, here, and is kept for the processes that run it.

use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::attachment::SCRIPT;
use crate::{Refusal, ResultExt};

/// Bytes of a script.
const LONGEST: u64 = 16 << 20;

/// Where a process finds it whose standard input it is.
pub(super) const STDIN: &str = "/dev/stdin";

/// Whether the script is no file that another process could open.
pub(super) fn is_passed(script: &Path) -> bool {
    let by_descriptor = ["/dev/stdin", "/dev/fd", "/proc/self/fd"];
    by_descriptor.iter().any(|path| script.starts_with(path)) || !script.is_file()
}

/// What a script says that comes through a pipe or a descriptor; none if it does not.
///
/// # Errors
/// One sentence, if it cannot be read or is too long.
pub(super) fn read(script: &Path) -> Result<Option<Vec<u8>>, Refusal> {
    if !is_passed(script) {
        return Ok(None);
    }
    let about = format!("plugin `{}`", script.display());
    let mut text = Vec::new();
    File::open(script)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut text))
        .refuse(&about)?;
    if text.len() as u64 > LONGEST {
        return Err(Refusal::about(
            about,
            format_args!("it is longer than {} MiB", LONGEST >> 20),
        ));
    }
    Ok(Some(text))
}

/// Standard input for a process that runs it as [`STDIN`]. Whoever reads on from standard input finds nothing
/// there, as in any other plugin.
///
/// # Errors
/// One sentence, if there is no memory for it.
pub(super) fn as_stdin(text: &[u8]) -> Result<File, Refusal> {
    const ABOUT: &str = "a copy of the script";
    let file = memfd_create(SCRIPT, MemfdFlags::CLOEXEC).refuse(ABOUT)?;
    let mut file = File::from(file);
    // It comes with all rights for everybody.
    file.set_permissions(Permissions::from_mode(0o600))
        .refuse(ABOUT)?;
    file.write_all(text).refuse(ABOUT)?;
    file.seek(SeekFrom::End(0)).refuse(ABOUT)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_where_it_is_and_what_comes_through_a_descriptor_is_read() {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("x.py");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(read(&path), Ok(None));
        let file = File::open(&path).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for folder in ["/dev/fd", "/proc/self/fd"] {
            let path = Path::new(folder).join(number.to_string());
            assert_eq!(read(&path), Ok(Some(b"x".to_vec())));
        }
        assert_eq!(read(Path::new("/dev/null")), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_script_without_an_end_is_refused() {
        let refusal = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(refusal, "plugin `/dev/zero`: it is longer than 16 MiB");
    }

    #[test]
    fn the_copy_is_whole_where_it_is_opened_and_at_its_end_where_it_is_inherited() {
        let mut file = as_stdin(b"x = 1").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        let opened = std::fs::read(format!("/proc/self/fd/{number}"));
        assert_eq!(opened.unwrap(), b"x = 1");
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
