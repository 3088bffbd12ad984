//! `pydisk attach`: from the user's words to a disk that can be used.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::choice::Choice;
use super::start::Start;
use super::{Failure, choice, interpreter, list, passed, plugin, server, words};
use crate::agent;
use crate::attachment::{self, Conduct, Job, Name, Passing, Root};
use crate::frontends::{Identity, Target};
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

pub(super) fn attach(args: AttachArgs) -> Result<ExitCode, Failure> {
    let words = words::parse(&args.words).map_err(Failure::Usage)?;
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
        return Err(refusal.into());
    }
    let address = target.as_ref().and_then(Target::address);
    let mut passing = address.map_or_else(|| Ok(Passing::default()), server::passing)?;
    let inherited = passing.numbers();
    let named = Passing::named_in(&words.parameters);
    let passwords = named.numbers();
    passing.add(named);
    let text = passed_text(&script, target.as_ref())?;
    let python = interpreter::choose(args.python.as_deref(), &script)?;
    let root = Root::open()?;
    agent::sweep(&root)?;
    target.as_ref().map_or(Ok(()), list::refuse_taken)?;
    let choice = if target.is_none() {
        Some(choice::choose(&choice::host())?)
    } else {
        None
    };
    if args.logical_block_size.is_some() {
        refuse_without_blocks(target.as_ref(), choice.as_ref())?;
    }

    let named_after = match text {
        Some(_) => Path::new(passed::KEPT),
        None => &script,
    };
    let name = args
        .name
        .map_or_else(|| Name::from_script(named_after), Name::Given);
    let (folder, held) = root.reserve(&name)?;
    let script = match text {
        Some(text) => passed::keep(&folder, &text)?,
        None => script,
    };
    let name = folder.name();
    if let Some(choice) = choice.as_ref().filter(|_| !args.quiet) {
        logging::say(&format!("pydisk: {name}: {}\n", choice.reason));
    }
    let target = target
        .or_else(|| Some((choice?.row.free)(folder.path())))
        .expect("one was chosen where none was named");
    let stdio = target.front_end().uses_stdio();
    let foreground = args.foreground || args.run.is_some() || stdio;
    // Standard output may be the client's, or the command's.
    let prints = args.run.is_none() && !stdio && !args.quiet;
    let job = Job {
        called: Some(name.clone()),
        name,
        folder: folder.path().to_owned(),
        identity: Identity::new(),
        script,
        parameters: words.parameters,
        target,
        read_only: args.read_only,
        lanes: args.lanes,
        python,
        logical_block: args.logical_block_size,
        layers: args.layer,
        measured: false,
        server,
        errnos: args.errno,
        inherited,
        passwords,
        foreground,
        logging: Logging {
            level: if args.verbose {
                Detail::Everything
            } else {
                Detail::Events
            },
            sink: if foreground {
                Sink::StandardError
            } else {
                Sink::Folder
            },
            quiet: args.quiet,
        },
        conduct: Conduct::of_attach(foreground, prints),
    };
    let start = Start {
        root,
        folder,
        held,
        passing,
        json: args.json,
    };
    Ok(start.go(job, args.run)?)
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
        .map_err(|refusal| refusal.to_string().replace("\nhint: ", "; "))
}

fn layer_help() -> String {
    format!(
        "Put a layer around the disk; may be repeated, the first is the outermost. There are: {}",
        layers::summary()
    )
}

/// Only block devices have logical blocks. A file is chosen where this host offers no device.
fn refuse_without_blocks(target: Option<&Target>, choice: Option<&Choice>) -> Result<(), Refusal> {
    let named = target.map(|target| target.front_end().row());
    let why = match (target, named.or_else(|| Some(choice?.row))) {
        (_, None) => return Ok(()),
        (_, Some(row)) if row.blocks => return Ok(()),
        (Some(target), Some(row)) if row.clients => {
            format!("the clients of `{target}` are told the plugin's own block sizes")
        }
        (Some(target), Some(_)) => format!("`{target}` is a file, which has no blocks"),
        (None, Some(_)) => "this host offers a file only, which has no blocks".to_owned(),
    };
    Err(Refusal::new(format!("--logical-block-size: {why}"))
        .hint("use it with /dev/ublkbN, /dev/nbdN or /dev/loopN"))
}

/// A client on standard input and output leaves no place for a command that uses the disk, nor for words to a
/// program.
fn unanswerable(target: Option<&Target>, args: &AttachArgs) -> Option<Refusal> {
    let target = target.filter(|target| target.front_end().uses_stdio())?;
    let options = [("--run", args.run.is_some()), ("--json", args.json)];
    let (option, _) = options.into_iter().find(|(_, given)| *given)?;
    Some(Refusal::new(format!(
        "{option}: the target `{target}` has its one client on standard input and output"
    )))
}

/// The text of a script that comes through a pipe; none of a file.
fn passed_text(script: &Path, target: Option<&Target>) -> Result<Option<Vec<u8>>, Refusal> {
    match target.filter(|target| target.front_end().uses_stdio()) {
        Some(target) if passed::is_passed(script) => Err(Refusal::new(format!(
            "plugin `{}`: the client of `{target}` is on standard input, so a file is needed",
            script.display()
        ))),
        _ => passed::read(script),
    }
}
