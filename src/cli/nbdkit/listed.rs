//! Parameters that stand in a file: `@FILE` on a command line of nbdkit's.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Refusal, ResultExt};

/// Bytes of such a file.
const LONGEST: u64 = 16 << 20;

/// How many of them may name each other.
const DEEPEST: usize = 40;

/// The words, with what stands in a file in the place of each that names one.
///
/// # Errors
/// One sentence with the file.
pub(super) fn expanded(words: &[String]) -> Result<Vec<String>, Refusal> {
    let mut found = Vec::new();
    for word in words {
        add(word, Path::new(""), 0, &mut found)?;
    }
    Ok(found)
}

/// The file that a word names. As in nbdkit it takes a slash, for others begin with `@`, too.
fn named(word: &str) -> Option<&str> {
    word.strip_prefix('@').filter(|path| path.contains('/'))
}

/// Add what a word stands for that is found in `folder`.
fn add(word: &str, folder: &Path, depth: usize, found: &mut Vec<String>) -> Result<(), Refusal> {
    let Some(path) = named(word) else {
        found.push(word.to_owned());
        return Ok(());
    };
    let path = folder.join(path);
    let refused = |what: &str| Refusal::about(format_args!("@{}", path.display()), what);
    if depth == DEEPEST {
        return Err(refused("such files name each other without an end"));
    }
    let text = read(&path).refuse(format_args!("@{}", path.display()))?;
    let text = String::from_utf8(text).map_err(|_unsaid| refused("it is no text in UTF-8"))?;
    if text.contains('\0') {
        return Err(refused("there is a zero byte in it"));
    }
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    for line in text.split_terminator('\n') {
        let said = line.trim_start();
        if !said.is_empty() && !said.starts_with('#') {
            add(line, &folder, depth + 1, found)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(given: &[&str]) -> Vec<String> {
        given.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_file_stands_for_its_lines() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("sub")).unwrap();
        for (name, text) in [
            (
                "one",
                "# all\n\na=1\n  # more\n \t\nb=2  \n@sub/two\nd=x=y #z\ne=",
            ),
            ("sub/two", "c=3\r\n@./three\n@three\n"),
            ("sub/three", "  f=4\n"),
            ("empty", ""),
        ] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let one = format!("@{}/one", place.path().display());
        let empty = format!("@{}/empty", place.path().display());
        assert_eq!(
            expanded(&words(&["x.py", &one, &empty, "@one", "k=@/one"])),
            Ok(words(&[
                "x.py", "a=1", "b=2  ", "c=3\r", "  f=4", "@three", "d=x=y #z", "e=", "@one",
                "k=@/one"
            ]))
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_the_name_of_its_file() {
        let place = tempfile::tempdir().unwrap();
        for (name, text, what) in [
            ("loop", &b"@./loop\n"[..], "name each other"),
            ("bytes", b"a=\xff\n", "no text in UTF-8"),
            ("zero", b"a=1\0b=2\n", "a zero byte"),
            ("names", b"@./nosuch\n", "nosuch: No such file"),
        ] {
            let path = place.path().join(name);
            std::fs::write(&path, text).unwrap();
            let word = format!("@{}", path.display());
            let refusal = expanded(&words(&[&word])).unwrap_err().to_string();
            assert!(
                refusal.starts_with('@') && refusal.contains(what),
                "{refusal}"
            );
        }
        let folder = format!("@{}/", place.path().display());
        let refusal = expanded(&words(&[&folder])).unwrap_err().to_string();
        assert!(refusal.contains("Is a directory"), "{refusal}");
    }
}
