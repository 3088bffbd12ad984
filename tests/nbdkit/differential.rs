//! The same plugins and the same clients on nbdkit and on pydisk, by the programs in `tests/nbdkit/differential`:
//! what is told and what is called has to be the same, but for what is listed there with its reason.

use std::path::Path;
use std::process::Command;

use support::nbd::{Said, clients, nbdkit};
use support::nbdkit::newer_nbdkit;
use support::say;

/// Compare, with these options.
fn compare(options: &[&str]) -> Said {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("/usr/bin/python3")
        .args(["-B", "-m", "differential"])
        .args(["--pydisk", support::program()])
        .args(options)
        .env("PYTHONPATH", root.join("tests/nbdkit"))
        .env_remove("PYDISK_PLUGINS")
        .env_remove("VIRTUAL_ENV")
        .output()
        .unwrap();
    Said::of(&output)
}

/// Whether there is all that is needed.
fn available() -> bool {
    nbdkit() && clients(&["libnbd"])
}

#[test]
fn plugins_behave_as_in_nbdkit_but_for_what_is_meant() {
    if !available() {
        return;
    }
    let said = compare(&[]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    say(said.stdout.trim_end());
}

#[test]
fn plugins_behave_as_in_a_newer_nbdkit_but_for_what_is_meant() {
    if !available() {
        return;
    }
    let Some(newer) = newer_nbdkit() else { return };
    let said = compare(&["--nbdkit", &newer]);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("plugins, nbdkit 1.48."),
        "{}",
        said.stdout
    );
    say(said.stdout.trim_end());
}

#[test]
fn a_difference_that_is_not_listed_fails() {
    if !available() {
        return;
    }
    let entry = "what pread does not fill is zeroes";
    let one = ["--only", "pread fills nothing"];
    let said = compare(&one);
    assert_eq!(said.code, 0, "{}{}", said.stdout, said.stderr);
    let said = compare(&[&one[..], &["--ignore", entry]].concat());
    assert_eq!(said.code, 1, "{}{}", said.stdout, said.stderr);
    let words = ["read 513 at middle+1", "pydisk: 513 bytes of 0"];
    assert!(
        words.iter().all(|words| said.stdout.contains(words)),
        "{}",
        said.stdout
    );
}

#[test]
fn an_entry_that_does_not_occur_any_more_fails() {
    if !available() {
        return;
    }
    let said = compare(&["--only", "version 2", "--all-entries"]);
    assert_eq!(said.code, 1, "{}{}", said.stdout, said.stderr);
    let stale = "`what pread does not fill is zeroes` does not occur any more";
    assert!(said.stdout.contains(stale), "{}", said.stdout);
    assert!(
        said.stdout.contains("0 plugins with others"),
        "{}",
        said.stdout
    );
}
