//! nbdkit's command line for Python plugins: `nbdkit [OPTIONS] python SCRIPT [KEY=VALUE]...`, by a
//! link of that name to this program or as `pydisk nbdkit ...`.
//!
//! `options` parses, `script` finds the plugin, `listed` reads parameters from files, `place` says where it listens, `tls` how it encrypts, `debug` what is shown of the start,
//! `plan` makes a job of it all for the same agent and worker that `pydisk attach` has, `facts` shows
//! instead of serving.
//! What cannot be honoured is refused by the name of its option. Every failure has status 1, as there.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::Parser;
use rustix::fs::Mode;
use rustix::process::{Signal, getppid, set_parent_process_death_signal, umask};

mod debug;
mod facts;
mod listed;
mod options;
mod place;
mod plan;
mod script;
mod tls;

pub(super) use facts::process as dump_process;

use super::usage;
use crate::attachment::{Process, patience};
use crate::{Refusal, ResultExt, escape, logging};
use options::Options;

/// The words behind the program's name, if this is a command line of nbdkit's.
pub(super) fn words() -> Option<Vec<OsString>> {
    let mut words = std::env::args_os();
    let program = words.next()?;
    let first = words.next();
    if first.as_deref() == Some(OsStr::new("nbdkit")) && !is_nbdkit(&program) {
        return Some(words.collect());
    }
    // A copy of the program by that name calls itself for its agents and workers, too.
    let hidden = first.as_deref().is_some_and(Process::is_meant_by);
    if hidden || !is_nbdkit(&program) {
        return None;
    }
    Some(first.into_iter().chain(words).collect())
}

fn is_nbdkit(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new("nbdkit"))
}

/// Do what the words say.
pub(super) fn main(words: Vec<OsString>) -> ExitCode {
    if let Err(refusal) = usage::refuse_bytes(words.iter().cloned()) {
        logging::say(&format!("nbdkit: error: {refusal}\n"));
        return ExitCode::FAILURE;
    }
    let words = [OsString::from("nbdkit")].into_iter().chain(words);
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            let refusal = usage::refusal(&error, "`nbdkit --help` shows what is accepted");
            logging::say(&format!("nbdkit: error: {refusal}\n"));
            return ExitCode::FAILURE;
        }
    };
    if let Some(name) = &options.name {
        NAME.get_or_init(|| escape::one_line(name).into_owned());
    }
    match follow(options) {
        Ok(code) => code,
        Err(refusal) => {
            logging::say(&format!("{}: error: {refusal}\n", head()));
            ExitCode::FAILURE
        }
    }
}

/// What `--name` says, without what would look like another message.
static NAME: OnceLock<String> = OnceLock::new();

/// What stands at the head of messages.
fn head() -> String {
    match NAME.get() {
        Some(name) => format!("nbdkit[{name}]"),
        None => "nbdkit".to_owned(),
    }
}

fn follow(options: Options) -> Result<ExitCode, Refusal> {
    if options.long_options {
        return facts::long_options();
    }
    if options.short_options {
        return facts::short_options();
    }
    patience::check()?;
    plan::check(&options)?;
    if options.help {
        return facts::help(&options);
    }
    if options.version {
        return facts::version(&options);
    }
    if options.dump_config {
        return facts::config();
    }
    if options.dump_plugin {
        return facts::plugin(&options);
    }
    debug::start(&options);
    if options.exit_with_parent {
        follow_parent()?;
    }
    // What a plugin makes can be read by others, whatever the user's own preference is.
    umask(Mode::WGRP | Mode::WOTH);
    plan::plan(options)?.start()
}

/// Have the kernel tell this process to end when its parent does.
fn follow_parent() -> Result<(), Refusal> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).refuse("--exit-with-parent")?;
    if getppid() != parent {
        return Err(Refusal::about("--exit-with-parent", "the parent is gone"));
    }
    Ok(())
}

/// Say what is not done, to whoever may have expected it.
fn warn(what: &str) {
    logging::say(&format!("{}: warning: {what}\n", head()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_name_counts_not_its_folder() {
        for (program, is) in [
            ("nbdkit", true),
            ("/usr/sbin/nbdkit", true),
            ("./nbdkit", true),
            ("/opt/nbdkit/pydisk", false),
            ("nbdkit-1", false),
            ("", false),
        ] {
            assert_eq!(is_nbdkit(OsStr::new(program)), is, "{program}");
        }
    }
}
