//! The shape of the crate: front ends, Python and layers know `disk`, and never each other.

use std::fs;
use std::path::Path;

/// A folder of `src/` and the words that must not stand in its code.
const FORBIDDEN: [(&str, &[&str]); 6] = [
    (
        "src/disk",
        &[
            "frontends",
            "python",
            "layers",
            "agent",
            "pydisk_kernel",
            "pyo3",
            "fuser",
        ],
    ),
    (
        "src/check",
        &[
            "frontends",
            "python",
            "layers",
            "agent",
            "pydisk_kernel",
            "pyo3",
        ],
    ),
    ("src/bench", &["python", "layers", "agent", "pyo3", "fuser"]),
    ("src/frontends", &["python", "layers", "agent", "pyo3"]),
    (
        "src/python",
        &["frontends", "layers", "agent", "pydisk_kernel", "fuser"],
    ),
    ("kernel/src", &["pydisk::", "pyo3", "fuser"]),
];

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_parts_know_disk_and_never_each_other() {
    for (folder, words) in FORBIDDEN {
        let mut found = Vec::new();
        files(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
            &mut found,
        );
        assert!(!found.is_empty(), "{folder}");
        for file in found {
            let text = fs::read_to_string(&file).unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                let broken = words.iter().find(|word| {
                    line.contains(&format!("crate::{word}"))
                        || line.contains(&format!("use {word}"))
                        || (!word.contains("::") && line.contains(&format!("{word}::")))
                });
                assert_eq!(broken, None, "{}: {line}", file.display());
            }
        }
    }
}
