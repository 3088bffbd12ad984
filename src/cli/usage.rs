//! What clap finds wrong with a command line, said as pydisk says everything: one sentence, and a hint.

use std::error::Error as _;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use super::Cli;
use crate::{Refusal, escape};

/// Refuse what is no text, before it is taken for anything. Which argument it is shows as bytes: `caf\xe9.py`.
///
/// # Errors
/// One sentence.
pub(super) fn refuse_bytes(arguments: impl Iterator<Item = OsString>) -> Result<(), Refusal> {
    for argument in arguments {
        if argument.to_str().is_none() {
            let shown = escape::bytes(argument.as_bytes());
            return Err(
                Refusal::about(format_args!("argument `{shown}`"), "it is not UTF-8")
                    .hint("a link to a file can have another name: `ln -s FILE LINK`"),
            );
        }
    }
    Ok(())
}

/// Whether it is no fault but what the user asked for, such as help.
pub(super) fn is_answer(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// The sentence, and where `help` has more, unless clap knows better.
pub(super) fn refusal(error: &Error, help: &str) -> Refusal {
    let suggested = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    // The likeliest comes last.
    let hint = match suggested
        .into_iter()
        .find_map(|kind| all(error, kind).pop())
    {
        Some(word) => format!("is `{word}` meant? {help}"),
        None => help.to_owned(),
    };
    Refusal::usage(sentence(error)).hint(hint)
}

/// Where this command line's help is.
pub(super) fn help() -> String {
    let commands = Cli::command();
    let named = std::env::args_os()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
        .find(|word| !word.starts_with('-'))
        .filter(|word| {
            let found = commands.find_subcommand(word);
            found.is_some_and(|command| !command.is_hide_set())
        });
    let command = named.map_or_else(String::new, |name| format!("{name} "));
    format!("`pydisk {command}--help` shows what is accepted")
}

fn sentence(error: &Error) -> String {
    let argument = first(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = first(error, ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("`{argument}`: there is no such option here")
        }
        ErrorKind::UnknownArgument => format!("`{argument}`: nothing more is expected here"),
        ErrorKind::InvalidSubcommand => {
            let command = first(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("`{command}`: there is no such command")
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{argument}: a value is missing"),
        ErrorKind::InvalidValue => {
            let accepted = all(error, ContextKind::ValidValue).join(", ");
            format!("{argument} `{value}`: accepted are {accepted}")
        }
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{argument} `{value}`: {why}")
        }
        ErrorKind::TooManyValues => format!("{argument}: it takes no value such as `{value}`"),
        ErrorKind::ArgumentConflict => match first(error, ContextKind::PriorArg) {
            Some(prior) if prior != argument => {
                format!("{argument}: it does not go together with {prior}")
            }
            _ => format!("{argument}: it is given more than once"),
        },
        ErrorKind::MissingRequiredArgument => {
            let missing = all(error, ContextKind::InvalidArg).join(" and ");
            format!("{missing} is missing")
        }
        ErrorKind::MissingSubcommand => "a command is missing".to_owned(),
        // What clap says in its first line, for kinds that no command line of pydisk's has.
        _ => {
            let said = error.to_string();
            let line = said.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}

fn first(error: &Error, kind: ContextKind) -> Option<String> {
    all(error, kind).into_iter().next()
}

/// What clap knows of this kind. Arguments are named as the user wrote them: `--lanes`, not `--lanes <N>`.
fn all(error: &Error, kind: ContextKind) -> Vec<String> {
    let found = match error.get(kind) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(several)) => several.clone(),
        _ => Vec::new(),
    };
    let is_argument = matches!(kind, ContextKind::InvalidArg | ContextKind::PriorArg);
    let named = |text: String| match text.split_once(" <") {
        Some((option, _)) if is_argument && option.starts_with('-') => option.to_owned(),
        _ if is_argument && text.starts_with(['<', '[']) => text
            .trim_end_matches("...")
            .trim_matches(['<', '>', '[', ']'])
            .to_owned(),
        _ => text,
    };
    found
        .into_iter()
        .map(|text| escape::one_line(&named(text)).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(words: &[&str]) -> String {
        let error = Cli::try_parse_from(["pydisk"].iter().chain(words)).unwrap_err();
        refusal(&error, "`pydisk --help` shows what is accepted").to_string()
    }

    #[test]
    fn each_kind_of_wrong_usage_is_one_sentence_and_a_hint() {
        for (words, sentence) in [
            (&["%%"][..], "`%%`: there is no such command"),
            (&["attach"], "PLUGIN is missing"),
            (&["detach"], "NAME|DEVICE is missing"),
            (
                &["attach", "x", "--nosuch"],
                "`--nosuch`: there is no such option here",
            ),
            (&["attach", "x", "-Q"], "`-Q`: there is no such option here"),
            (&["list", "x\ny"], "`x\\ny`: nothing more is expected here"),
            (&["attach", "x", "--lanes"], "--lanes: a value is missing"),
            (
                &["attach", "x", "--lanes", "0"],
                "--lanes `0`: 0 is not in 1..=256",
            ),
            (
                &["attach", "x", "--lanes", "q"],
                "--lanes `q`: invalid digit found in string",
            ),
            (
                &["attach", "x", "--tls", "maybe"],
                "--tls `maybe`: accepted are off, allowed, required",
            ),
            (&["attach", "x", "--errno", "own"], "--errno `own`: "),
            (
                &["attach", "x", "--layer", "dealy"],
                "--layer `dealy`: there is no layer `dealy`; give one of delay",
            ),
            (
                &["attach", "x", "--layer", "delay:read=1,raed=2"],
                "--layer `delay:read=1,raed=2`: delay: it has no parameter `raed`; give one of read, ",
            ),
            (
                &["attach", "x", "--read-only=1"],
                "--read-only: it takes no value such as `1`",
            ),
            (
                &["attach", "x", "--name=a", "--name=b"],
                "--name: it is given more than once",
            ),
            (
                &["detach", "x", "--all"],
                "NAME|DEVICE: it does not go together with --all",
            ),
        ] {
            let said = said(words);
            let (first, rest) = said.split_once('\n').unwrap();
            assert!(first.starts_with(sentence), "{words:?}: {said}");
            assert_eq!(
                rest, "hint: `pydisk --help` shows what is accepted",
                "{words:?}"
            );
        }
    }

    #[test]
    fn what_is_likely_meant_is_said() {
        for (words, meant) in [
            (&["atach"][..], "attach"),
            (&["attach", "x", "--read-onl"], "--read-only"),
            (&["attach", "x", "--tls", "requird"], "required"),
        ] {
            let said = said(words);
            assert!(
                said.contains(&format!("\nhint: is `{meant}` meant? ")),
                "{said}"
            );
        }
    }
}
