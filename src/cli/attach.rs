//! `pydisk attach`: from the user's words to a disk that can be used.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::choice::Choice;
use super::start::start;
use super::{choice, interpreter, list, passed, plugin, server, words};
use crate::agent;
use crate::attachment::{self, Builder, Conduct, DiskOptions, Folder, Job, Name, Passing, Root};
use crate::frontends::Target;
use crate::layers::{self, Named};
use crate::logging::{Detail, Logging, Sink};
use crate::params::ErrnoSource;
use crate::{Refusal, logging};

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// A Python file, or the name of a plugin that ships with pydisk (memory, file)
    plugin: String,
    /// Where it appears (/dev/ublkbN, /dev/nbdN, /dev/loopN, a path or nbd://HOST:PORT), and parameters of
    /// the plugin, in any order; a file with a `=` in its name is `./a=b`
    #[arg(value_name = "TARGET|KEY=VALUE")]
    words: Vec<String>,
    /// Open the disk for reading only
    #[arg(short, long)]
    read_only: bool,
    /// Do not go to the background; Ctrl-C detaches
    #[arg(short, long)]
    foreground: bool,
    /// Run a shell command with $device (or $uri and $unixsocket) and $name set, then detach and
    /// exit with its status
    #[arg(long, value_name = "CMD")]
    run: Option<String>,
    /// Name of the attachment [default: the plugin's file name]
    #[arg(long)]
    name: Option<String>,
    /// Requests that a plugin with the parallel thread model serves at the same time [default: 16,
    /// with `async def` 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    lanes: Option<u16>,
    /// Bytes in a block of the device: 512, 1024, 2048 or 4096 [default: the plugin's smallest block, from 512 to
    /// 4096]. Where it is smaller than the plugin's, parts of blocks are read, changed and written back
    #[arg(long, value_name = "BYTES", value_parser = logical_block)]
    logical_block_size: Option<u32>,
    #[arg(long, value_name = "NAME[:KEY=VALUE,...]", help = layer_help(), value_parser = layer)]
    layer: Vec<Named>,
    /// The Python or the virtual environment whose packages the plugin sees
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Whose errno a failed callback reports: only what nbdkit.set_error chose (nbdkit), or an
    /// OSError's own as well (native) [default: the plugin's PYDISK_ERRNO, else nbdkit]
    #[arg(long, value_name = "native|nbdkit")]
    errno: Option<ErrnoSource>,
    /// Log what only helps to find a fault
    #[arg(short, long)]
    verbose: bool,
    /// Say nothing but errors: no path, no choice of a front end, no warnings
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// For programs: print what `show --json` does in place of the path
    #[arg(long, conflicts_with_all = ["run", "quiet"])]
    json: bool,
    #[command(flatten)]
    server: server::ServerArgs,
}

pub(super) fn attach(args: AttachArgs) -> Result<ExitCode, Refusal> {
    let words = words::parse(&args.words).map_err(Refusal::usage)?;
    if let Some(name) = &args.name {
        attachment::check_name(name)?;
    }
    let script = plugin::find(&args.plugin)?;
    let mut target = words
        .target
        .as_deref()
        .map(str::parse::<Target>)
        .transpose()?;
    let server = args.server.options(&mut target, args.lanes)?;
    if let Some(refusal) = unanswerable(target.as_ref(), &args) {
        return Err(refusal);
    }
    let address = target.as_ref().and_then(Target::address);
    let mut wanted = Job::builder(script, words.parameters);
    wanted.inherit(address.map_or_else(|| Ok(Passing::default()), server::passing)?);
    wanted.server = server;
    let plugin = &mut wanted.plugin;
    wanted.text = passed_text(&plugin.script, target.as_ref())?;
    plugin.python = interpreter::choose(args.python.as_deref(), &plugin.script)?;
    let root = Root::open()?;
    agent::sweep(&root)?;
    let place = Place::of(target)?;
    if args.logical_block_size.is_some() {
        place.refuse_without_blocks()?;
    }
    args.ask_for(&mut wanted, place.is_stdio());

    let name = args.name.map_or_else(|| wanted.name(), Name::Given);
    let mut reserved = wanted.reserve(root, &name, |folder| place.target(folder))?;
    let name = &reserved.job.name;
    reserved.job.plugin.called = Some(name.clone());
    if let (Place::Chosen(choice), false) = (&place, args.quiet) {
        logging::say(&format!("pydisk: {name}: {}\n", choice.reason));
    }
    start(reserved, args.run, args.json)
}

impl AttachArgs {
    /// Put the options into the job; those of a server are in it already.
    fn ask_for(&self, wanted: &mut Builder, stdio: bool) {
        wanted.plugin.errnos = self.errno;
        wanted.disk = DiskOptions {
            read_only: self.read_only,
            lanes: self.lanes,
            logical_block: self.logical_block_size,
            layers: self.layer.clone(),
            ..DiskOptions::default()
        };
        let foreground = self.foreground || self.run.is_some() || stdio;
        wanted.logging = Logging {
            level: if self.verbose {
                Detail::Everything
            } else {
                Detail::Events
            },
            sink: if foreground {
                Sink::StandardError
            } else {
                Sink::Folder
            },
            quiet: self.quiet,
        };
        // Standard output may be the client's, or the command's.
        let prints = self.run.is_none() && !stdio && !self.quiet;
        wanted.conduct = Conduct::of_attach(foreground, prints);
    }
}

/// Where the disk appears.
enum Place {
    /// Where the user wants it.
    Named(Target),
    /// Wherever the best front end has a free place.
    Chosen(Choice),
}

impl Place {
    /// The target if there is one, which nobody else has.
    fn of(target: Option<Target>) -> Result<Self, Refusal> {
        match target {
            Some(target) => {
                list::refuse_taken(&target)?;
                Ok(Self::Named(target))
            }
            None => choice::choose(&choice::host()).map(Self::Chosen),
        }
    }

    fn target(&self, folder: &Folder) -> Target {
        match self {
            Self::Named(target) => target.clone(),
            Self::Chosen(choice) => (choice.row.free)(folder.path()),
        }
    }

    fn is_stdio(&self) -> bool {
        matches!(self, Self::Named(target) if target.front_end().uses_stdio())
    }

    /// Only block devices have logical blocks. A file is chosen where this host offers no device.
    fn refuse_without_blocks(&self) -> Result<(), Refusal> {
        let row = match self {
            Self::Named(target) => target.front_end().row(),
            Self::Chosen(choice) => choice.row,
        };
        let why = match self {
            _ if row.blocks => return Ok(()),
            Self::Named(target) if row.clients => {
                format!("the clients of `{target}` are told the plugin's own block sizes")
            }
            Self::Named(target) => format!("`{target}` is a file, which has no blocks"),
            Self::Chosen(_) => "this host offers a file only, which has no blocks".to_owned(),
        };
        Err(Refusal::about("--logical-block-size", why)
            .hint("use it with /dev/ublkbN, /dev/nbdN or /dev/loopN"))
    }
}

/// A block size that every front end of a block device takes.
fn logical_block(text: &str) -> Result<u32, String> {
    let bytes = crate::params::parse_size(text).ok();
    [512, 1024, 2048, 4096]
        .into_iter()
        .find(|&known| bytes == Some(u64::from(known)))
        .ok_or_else(|| "512, 1024, 2048 and 4096 are accepted".to_owned())
}

/// A layer, as one sentence where it is none.
fn layer(text: &str) -> Result<Named, String> {
    text.parse::<Named>()
        .map_err(|refusal| refusal.with_hint_after("; "))
}

fn layer_help() -> String {
    format!(
        "Put a layer around the disk; may be repeated, the first is the outermost. There are: {}",
        layers::summary()
    )
}

/// A client on standard input and output leaves no place for a command that uses the disk, nor for words to a
/// program.
fn unanswerable(target: Option<&Target>, args: &AttachArgs) -> Option<Refusal> {
    let target = target.filter(|target| target.front_end().uses_stdio())?;
    let options = [("--run", args.run.is_some()), ("--json", args.json)];
    let (option, _) = options.into_iter().find(|(_, given)| *given)?;
    Some(Refusal::about(
        option,
        format_args!("the target `{target}` has its one client on standard input and output"),
    ))
}

/// The text of a script that comes through a pipe; none of a file.
fn passed_text(script: &Path, target: Option<&Target>) -> Result<Option<Vec<u8>>, Refusal> {
    match target.filter(|target| target.front_end().uses_stdio()) {
        Some(target) if passed::is_passed(script) => Err(Refusal::about(
            format_args!("plugin `{}`", script.display()),
            format_args!("the client of `{target}` is on standard input, so a file is needed"),
        )),
        _ => passed::read(script),
    }
}
