//! `pydisk attach`: from the user's words to a disk that can be used.

use std::path::Path;
use std::process::ExitCode;

use super::start::Start;
use super::{AttachArgs, Failure, choice, interpreter, list, passed, plugin, server, words};
use crate::agent;
use crate::attachment::{self, Conduct, Job, Name, Passing, Root};
use crate::frontends::nbd::Place;
use crate::frontends::{Identity, Target};
use crate::logging::{Detail, Logging, Sink};
use crate::{Refusal, logging};

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
    let mut passing = server::passing(target.as_ref())?;
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
        let made = target.as_ref().or_else(|| choice.as_ref()?.target.as_ref());
        refuse_without_blocks(made)?;
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
        .or_else(|| choice?.target)
        .unwrap_or_else(|| Target::File(folder.disk_file()));
    let foreground = args.foreground || args.run.is_some() || is_stdio(&target);
    // Standard output may be the client's, or the command's.
    let prints = args.run.is_none() && !is_stdio(&target) && !args.quiet;
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

/// Only block devices have logical blocks. Without a target there is a file, because this host offers no device.
fn refuse_without_blocks(target: Option<&Target>) -> Result<(), Refusal> {
    let why = match target {
        Some(Target::Ublk(_) | Target::Nbd(_) | Target::Loop(_)) => return Ok(()),
        Some(Target::File(path)) => format!("`{}` is a file, which has no blocks", path.display()),
        Some(Target::Server(address)) => {
            format!("the clients of `{address}` are told the plugin's own block sizes")
        }
        None => "this host offers a file only, which has no blocks".to_owned(),
    };
    Err(Refusal::new(format!("--logical-block-size: {why}"))
        .hint("use it with /dev/ublkbN, /dev/nbdN or /dev/loopN"))
}

/// The target that is a conversation with whoever started this process, on standard input and output.
fn is_stdio(target: &Target) -> bool {
    matches!(target, Target::Server(address) if address.place == Place::Stdio)
}

/// A client on standard input and output leaves no place for a command that uses the disk, nor for words to a
/// program.
fn unanswerable(target: Option<&Target>, args: &AttachArgs) -> Option<Refusal> {
    let target = target.filter(|target| is_stdio(target))?;
    let options = [("--run", args.run.is_some()), ("--json", args.json)];
    let (option, _) = options.into_iter().find(|(_, given)| *given)?;
    Some(Refusal::new(format!(
        "{option}: the target `{target}` has its one client on standard input and output"
    )))
}

/// The text of a script that comes through a pipe; none of a file.
fn passed_text(script: &Path, target: Option<&Target>) -> Result<Option<Vec<u8>>, Refusal> {
    match target.filter(|target| is_stdio(target)) {
        Some(target) if passed::is_passed(script) => Err(Refusal::new(format!(
            "plugin `{}`: the client of `{target}` is on standard input, so a file is needed",
            script.display()
        ))),
        _ => passed::read(script),
    }
}
