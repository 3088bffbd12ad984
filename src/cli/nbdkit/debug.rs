//! What a command line of nbdkit's wants to know for finding faults: `-v` and the flags of `-D`.

use super::options::Options;
use super::{facts, head, warn};
use crate::{Refusal, escape, logging};

/// The flag that has the environment shown.
const ENVIRONMENT: &str = "nbdkit.environ";

/// Flags that say how much is shown of what pydisk does not show at all.
const OF_NO_EFFECT: [&str; 2] = ["nbdkit.backend.controlpath", "nbdkit.backend.datapath"];

/// The name and the value of a flag.
fn parts(flag: &str) -> Option<(&str, i32)> {
    let (name, value) = flag.split_once('=')?;
    let (owner, flag) = name.split_once('.')?;
    let value = value.parse().ok()?;
    (!owner.is_empty() && !flag.is_empty()).then_some((name, value))
}

/// Refuse what is no flag.
///
/// # Errors
/// One sentence with the word.
pub(super) fn check(options: &Options) -> Result<(), Refusal> {
    let odd = options.debug.iter().find(|flag| parts(flag).is_none());
    odd.map_or(Ok(()), |flag| {
        Err(Refusal::about(
            format_args!("-D `{flag}`"),
            "a debug flag has the format NAME.FLAG=N",
        ))
    })
}

/// As in nbdkit, a flag that nobody uses is no reason to fail.
pub(super) fn warn_of_unused(options: &Options) {
    for flag in &options.debug {
        let known = |(name, _): (&str, i32)| name == ENVIRONMENT || OF_NO_EFFECT.contains(&name);
        if !parts(flag).is_some_and(known) {
            warn(&format!(
                "debug flag -D {flag} was not used: pydisk has none of this name"
            ));
        }
    }
}

/// What `-v` shows first.
pub(super) fn start(options: &Options) {
    if !options.verbose {
        return;
    }
    let say = |text: &str| logging::say(&format!("{}: debug: {text}\n", head()));
    say(&facts::name_and_version());
    let environment = options.debug.iter().rev().find_map(|flag| {
        let (name, value) = parts(flag)?;
        (name == ENVIRONMENT).then_some(value)
    });
    if environment.is_some_and(|value| value != 0) {
        for (name, value) in std::env::vars_os() {
            let line = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
            say(&escape::one_line(&line));
        }
    }
}
