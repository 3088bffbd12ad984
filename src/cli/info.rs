//! `pydisk info`: what a plugin says of itself.
//!
//! The plugin is loaded in a process of its own, so that the right Python can be chosen for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::{Failure, InfoArgs, interpreter, plugin, words};
use crate::python::Plugin;
use crate::{Refusal, logging};

/// The hidden subcommand that loads the plugin.
pub(super) const INFO: &str = "info-process";

pub(super) fn info(args: &InfoArgs) -> Result<ExitCode, Failure> {
    parameters(&args.words)?;
    let script = plugin::find(&args.plugin)?;
    let python = interpreter::choose(args.python.as_deref(), &script)?;
    let failed = |error: std::io::Error| Refusal::new(format!("{}: {error}", script.display()));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg(INFO)
        .arg("--")
        .arg(&script)
        .args(&args.words)
        .stdin(Stdio::null());
    if let Some(python) = python {
        command.env("PYTHONEXECUTABLE", python);
    }
    let status = command.status().map_err(failed)?;
    let Some(code) = status.code() else {
        let how = crate::agent::ending(status);
        return Err(Refusal::new(format!("{}: Python {how}", script.display())).into());
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn parameters(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let words = words::parse(given).map_err(Failure::Usage)?;
    match words.target {
        None => Ok(words.parameters),
        Some(word) => Err(Failure::Usage(format!(
            "`{word}`: KEY=VALUE is expected here"
        ))),
    }
}

/// The hidden subcommand.
pub(super) fn process(script: &Path, words: &[String]) -> Result<ExitCode, Failure> {
    logging::start("info", false);
    let parameters = parameters(words)?;
    let failed = |error: std::io::Error| Refusal::new(format!("{}: {error}", script.display()));
    // What the plugin prints is not what the user asked for.
    let out = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)
        .map_err(|error| failed(error.into()))?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).map_err(|error| failed(error.into()))?;
    let text: String = Plugin::load(script)?
        .info(&parameters)?
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    // A reader that has gone away wants no more of it.
    File::from(out)
        .write_all(text.as_bytes())
        .unwrap_or_default();
    Ok(ExitCode::SUCCESS)
}
