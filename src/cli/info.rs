//! `pydisk info`: what a plugin says of itself.
//!
//! The plugin is loaded in a process of its own, so that the right Python can be chosen for it.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::SIGINT;

use super::{interpreter, passed, plugin, words};
use crate::attachment::{Process, Step};
use crate::disk::Limits;
use crate::interrupt;
use crate::logging::Detail;
use crate::progress::{Progress, tell_waiting};
use crate::python::Plugin;
use crate::{Kind, Refusal, ResultExt, escape, logging};

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// A Python file, or the name of a plugin that ships with pydisk
    plugin: String,
    /// Parameters of the plugin
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// The Python or the virtual environment whose packages the plugin sees
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn info(args: &InfoArgs) -> Result<ExitCode, Refusal> {
    let step = match Step::of_config(&parameters(&args.words)?) {
        Step::Password => Step::Password,
        _ => Step::Load,
    };
    let script = plugin::find(&args.plugin)?;
    let python = interpreter::choose(args.python.as_deref(), &script)?;
    let shown = script.display().to_string();
    // Where it is within the plugin, the other process does not tell.
    let _progress = Progress::start(step, move |_step, waited| {
        tell_waiting(&shown, "the plugin", waited, "; Ctrl-C gives up");
    });
    let words = format!("pydisk: {}: interrupted\n", script.display());
    let told = move || words.clone();
    let options: Vec<_> = args.json.then(|| "--json".to_owned()).into_iter().collect();
    in_own_process(Process::Info, &options, &script, &args.words, python, told)
}

/// How long another process may take to end at Ctrl-C, which it gets as well.
const ITS_END: Duration = Duration::from_secs(1);

/// Run a hidden subcommand on a plugin, with the Python that was chosen for it; its exit status. At Ctrl-C, `told` is said
/// and both end.
pub(super) fn in_own_process(
    process: Process,
    options: &[String],
    script: &Path,
    words: &[String],
    python: Option<PathBuf>,
    told: impl Fn() -> String + Send + 'static,
) -> Result<ExitCode, Refusal> {
    let about = script.display().to_string();
    let (script, stdin) = match passed::read(script)? {
        Some(text) => (Path::new(passed::STDIN), passed::as_stdin(&text)?.into()),
        None => (script, Stdio::null()),
    };
    let mut command = process.command().refuse(&about)?;
    command
        .args(options)
        .arg("--")
        .arg(script)
        .args(words)
        .stdin(stdin);
    if let Some(python) = python {
        command.env("PYTHONEXECUTABLE", python);
    }
    let mut child = command.spawn().refuse(&about)?;
    let (tell, said) = mpsc::channel();
    let _interrupted = interrupt::told(move || {
        logging::say(&told());
        tell.send(()).unwrap_or_default();
        // This process ends with the other one, whose last words go before.
        thread::sleep(ITS_END);
        String::new()
    });
    let status = child.wait().refuse(&about)?;
    if status.signal() == Some(SIGINT) && said.recv_timeout(ITS_END).is_ok() {
        interrupt::end();
    }
    let Some(code) = status.code() else {
        let how = crate::agent::ending(status);
        return Err(Refusal::about(
            script.display(),
            format_args!("Python {how}"),
        ));
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// The parameters, where nothing else is accepted.
pub(super) fn parameters(given: &[String]) -> Result<Vec<(String, String)>, Refusal> {
    let words = words::parse(given).map_err(Refusal::usage)?;
    match words.target {
        None => Ok(words.parameters),
        Some(word) => Err(
            Refusal::about(format_args!("`{word}`"), "KEY=VALUE is expected here")
                .of_kind(Kind::Usage),
        ),
    }
}

/// The hidden subcommand.
pub(super) fn process(script: &Path, words: &[String], json: bool) -> Result<ExitCode, Refusal> {
    crate::python::remember_descriptors();
    logging::start("info", Detail::Events);
    let parameters = parameters(words)?;
    let mut out = own_output(script)?;
    let plugin = Plugin::load(script)?;
    let said = plugin.info(&parameters)?;
    // A reader that has gone away wants no more of it.
    let mut tell = |text: String| out.write_all(text.as_bytes()).unwrap_or_default();
    if !json {
        // Opening the plugin may take for ever, or end this process.
        tell(as_text(&said));
    }
    let limits = plugin.limits();
    if let Err(refusal) = &limits {
        logging::say(&format!("note: size and limits are not known: {refusal}\n"));
    }
    let limits = limit_facts(limits.ok().as_ref());
    tell(match json {
        true => as_json(limits, said),
        false => as_text(&known(limits)),
    });
    Ok(ExitCode::SUCCESS)
}

type Limit = (&'static str, Option<String>);

/// The size and which requests the plugin takes, as facts.
fn limit_facts(limits: Option<&Limits>) -> [Limit; 4] {
    let fact = |what: fn(&Limits) -> String| limits.map(what);
    [
        ("size", fact(|limits| limits.size.to_string())),
        (
            "block_size_minimum",
            fact(|limits| limits.block.minimum.to_string()),
        ),
        (
            "block_size_preferred",
            fact(|limits| limits.block.preferred.to_string()),
        ),
        (
            "block_size_maximum",
            fact(|limits| match limits.block.maximum {
                u32::MAX => "none".to_owned(),
                bytes => bytes.to_string(),
            }),
        ),
    ]
}

fn known(limits: [Limit; 4]) -> Vec<(String, String)> {
    let known = |(name, value): Limit| Some((name.to_owned(), value?));
    limits.into_iter().filter_map(known).collect()
}

fn as_text(facts: &[(String, String)]) -> String {
    let line = |(key, value): &(String, String)| {
        let line = format!("{key}={value}");
        format!("{}\n", escape::one_line(&line))
    };
    facts.iter().map(line).collect()
}

/// Facts that are several words each, a list in JSON.
const LISTS: [&str; 2] = ["callbacks", "async_callbacks"];
/// The fact that there is once for each parameter.
const PARAMETER: &str = "parameter";

/// Text, but for lists, by name. What pydisk says comes first, and no plugin can say otherwise.
fn as_json(limits: [Limit; 4], said: Vec<(String, String)>) -> String {
    let limits = limits.map(|(name, value)| (name.to_owned(), value.into()));
    let mut object = serde_json::Map::from_iter(limits);
    let (parameters, said): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|(key, _)| key == PARAMETER);
    object.insert(
        "parameters".to_owned(),
        parameters.into_iter().map(|(_, text)| text).collect(),
    );
    for (key, value) in said {
        let value = match LISTS.contains(&&*key) {
            true => value.split_ascii_whitespace().collect(),
            false => serde_json::Value::from(value),
        };
        object.entry(key).or_insert(value);
    }
    let text = format!("{:#}\n", serde_json::Value::from(object));
    escape::json(&text).into_owned()
}

/// Standard output, for what the user asked for: from here on, what the plugin prints goes to
/// standard error.
pub(super) fn own_output(script: &Path) -> Result<File, Refusal> {
    let about = script.display();
    let out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).refuse(&about)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).refuse(&about)?;
    Ok(out.into())
}
