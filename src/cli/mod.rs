//! The command line: what the user says, and what is said back.
//!
//! Exit statuses: 0 done, 1 refused or not all stored (a sentence on standard error), 2 wrong usage, or the status
//! of the command of `--run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod attach;
mod bench;
mod check;
mod choice;
mod detach;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod info;
mod interpreter;
mod list;
mod nbdkit;
mod passed;
mod plugin;
mod probe;
mod server;
mod start;
mod usage;
mod words;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use {fuzzing::words, list::fuzzing::state};

use crate::attachment::{Process, patience};
use crate::{Kind, Refusal, agent, frontends, logging, worker};

const EXAMPLES: &str = "\
Examples:
  pydisk attach memory /dev/ublkb0 size=1G    a disk in memory, from a plugin that ships with pydisk
  pydisk attach ./disk.py size=1G             the best kind of device that this host offers
  pydisk attach ./disk.py ./disk.img          a disk as a file, for programs that want one
  pydisk attach ./disk.py nbd://localhost     an NBD server, a disk for each of its clients
  pydisk attach file --run 'fsck -n $device' file=/srv/disk.img
  pydisk list
  pydisk detach /dev/ublkb0

A plugin is an nbdkit Python plugin, unchanged.";

const CHECKING: &str = "\
Without --write the plugin is opened for reading only, and nothing is written. Exit status: 0 if
nothing wrong was found, 1 otherwise.

  pydisk check ./disk.py size=1G              what can be tried without changing the disk
  pydisk check --write ./disk.py size=64M     everything, on a disk that may be destroyed";

const BENCHING: &str = "\
Without --write the plugin is opened for reading only. Nothing stays attached. Exit status: 0 if every
request of every load succeeded, 1 otherwise.

  pydisk bench ./disk.py size=1G
  pydisk bench --front-end fuse --depth 4 --depth 32 --block 64k ./disk.py size=1G
  pydisk bench --write ./disk.py size=1G      writes, too, on a disk that may be destroyed";

/// Write a disk in Python. Mount it.
#[derive(Debug, Parser)]
#[command(name = "pydisk", version, after_help = EXAMPLES, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a Python plugin a block device or a file
    #[command(
        override_usage = "pydisk attach [OPTIONS] <PLUGIN> [TARGET] [KEY=VALUE]...",
        after_help = EXAMPLES
    )]
    Attach(attach::AttachArgs),
    /// Show what is attached
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of an attachment
    Show {
        /// Name, device or URI
        #[arg(value_name = "NAME|DEVICE")]
        which: String,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Remove a device: flush and close the disk, and end its processes
    Detach {
        /// Names, devices or URIs
        #[arg(
            value_name = "NAME|DEVICE",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        which: Vec<String>,
        /// Everything that is attached
        #[arg(long)]
        all: bool,
        /// Also while it is in use, and without waiting long for the plugin: what lies on the disk is stored
        /// first; exit status 1 if something could not be
        #[arg(long)]
        force: bool,
        /// Say nothing but errors
        #[arg(short, long)]
        quiet: bool,
        /// For programs: a list with what became of each
        #[arg(long, conflicts_with = "quiet")]
        json: bool,
    },
    /// Show what a plugin can do, without attaching it
    #[command(override_usage = "pydisk info [OPTIONS] <PLUGIN> [KEY=VALUE]...")]
    Info(info::InfoArgs),
    /// Try a plugin out and report what is wrong with it, for its author and for tests
    #[command(
        override_usage = "pydisk check [OPTIONS] <PLUGIN> [KEY=VALUE]...",
        after_help = CHECKING
    )]
    Check(check::CheckArgs),
    /// Measure what a plugin does on each front end, and how much of it is the plugin's own
    #[command(
        override_usage = "pydisk bench [OPTIONS] <PLUGIN> [KEY=VALUE]...",
        after_help = BENCHING
    )]
    Bench(bench::BenchArgs),
    /// Show which front ends work on this host, and why the others do not
    Probe {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Take a command line of nbdkit's for a Python plugin; so does pydisk by the name of `nbdkit`
    #[command(
        override_usage = "pydisk nbdkit [OPTIONS] python <SCRIPT> [KEY=VALUE]...",
        after_help = "`pydisk nbdkit --help` shows the options."
    )]
    Nbdkit,
    #[command(name = Process::Agent.subcommand(), hide = true)]
    AgentProcess,
    #[command(name = Process::Worker.subcommand(), hide = true)]
    WorkerProcess,
    #[command(name = Process::Stopper.subcommand(), hide = true)]
    StopProcess { device: PathBuf },
    #[command(name = Process::Check.subcommand(), hide = true)]
    CheckProcess {
        script: PathBuf,
        words: Vec<String>,
        #[command(flatten)]
        options: check::CheckOptions,
    },
    #[command(name = Process::Guard.subcommand(), hide = true)]
    GuardProcess { word: String },
    #[command(name = Process::Dump.subcommand(), hide = true)]
    DumpProcess {
        /// What the plugin is called.
        #[arg(long)]
        name: String,
        script: Option<PathBuf>,
        words: Vec<String>,
    },
    #[command(name = Process::Info.subcommand(), hide = true)]
    InfoProcess {
        script: PathBuf,
        words: Vec<String>,
        #[arg(long)]
        json: bool,
    },
}

/// The exit status of wrong usage.
const USAGE: u8 = 2;

/// Do what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(words) = nbdkit::words() {
        return nbdkit::main(words);
    }
    // One process of pydisk hands paths to another as they are.
    let first = std::env::args_os().nth(1);
    if !first.is_some_and(|word| Process::is_meant_by(&word)) {
        if let Err(refusal) = usage::refuse_bytes(std::env::args_os().skip(1)) {
            complain(&refusal);
            return ExitCode::from(USAGE);
        }
        if let Err(refusal) = patience::check() {
            complain(&refusal);
            return ExitCode::FAILURE;
        }
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if usage::is_answer(&error) => {
            // A reader that has gone away is no reason to fail otherwise than with the status.
            error.print().unwrap_or_default();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
        Err(error) => {
            complain(&usage::refusal(&error, &usage::help()));
            return ExitCode::from(USAGE);
        }
    };
    let done = match cli.command {
        Command::Attach(args) => attach::attach(args),
        Command::List { json } => list::list(json),
        Command::Show { which, json } => list::show(&which, json),
        Command::Detach {
            which,
            all,
            force,
            quiet,
            json,
        } => {
            let manner = detach::Manner { force, quiet, json };
            detach::detach(&which, all, manner)
        }
        Command::Info(args) => info::info(&args),
        Command::Check(args) => check::check(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Probe { json } => probe::probe(json),
        // Whatever follows the word went to another parser.
        Command::Nbdkit => return nbdkit::main(Vec::new()),
        Command::AgentProcess => return agent::process(),
        Command::WorkerProcess => return worker::process(),
        Command::StopProcess { device } => return frontends::stop_ublk(&device),
        Command::CheckProcess {
            script,
            words,
            options,
        } => check::process(&script, &words, &options),
        Command::GuardProcess { word } => return frontends::guard_nbd(&word),
        Command::DumpProcess {
            name,
            script,
            words,
        } => nbdkit::dump_process(&name, script.as_deref(), &words),
        Command::InfoProcess {
            script,
            words,
            json,
        } => info::process(&script, &words, json),
    };
    match done {
        Ok(code) => code,
        Err(refusal) if refusal.kind() == Kind::Usage => {
            complain(&refusal.hint(usage::help()));
            ExitCode::from(USAGE)
        }
        Err(refusal) => {
            complain(&refusal);
            ExitCode::FAILURE
        }
    }
}

/// Tell the user what was refused.
fn complain(refusal: &Refusal) {
    logging::say(&format!("pydisk: {refusal}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
