//! From nbdkit's options to a job for the agent.

use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::{Group, User};

use super::debug;
use super::options::Options;
use super::place::{self, Placed, placed};
use super::script::{Named, configure};
use super::tls::{self, mode_asked_for};
use super::warn;
use crate::agent;
use crate::attachment::{Builder, Conduct, Job, Name, Root, Spelling};
use crate::cli::interpreter;
use crate::cli::passed::{self, is_passed};
use crate::cli::start::start;
use crate::frontends::Target;
use crate::frontends::nbd::{Bounds, Dialect, Place, ServerOptions, TlsMode};
use crate::logging::{Detail, Logging, Sink};
use crate::{Refusal, ResultExt, params};

/// nbdkit waits for its plugin as long as it takes; so long may one take to store what it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// nbdkit has no limit on clients; here each may take memory and descriptors.
const CLIENTS: u32 = 1000;

/// What is to be served, and how.
#[derive(Debug)]
pub(super) struct Plan {
    wanted: Builder,
    target: Target,
    command: Option<String>,
}

/// Refuse options that cannot be honoured by themselves, also where nothing is to be served: scripts
/// find out with `--version --filter=NAME` whether there is such a filter.
///
/// # Errors
/// One sentence that names the option.
pub(super) fn check(options: &Options) -> Result<(), Refusal> {
    refuse_absent(options)?;
    debug::check(options)?;
    threads(options)?;
    handshake(options)?;
    dialect(options)?;
    mode_asked_for(options)?;
    logging(options, false)?;
    place::exclude(options)
}

/// Understand the options, which were checked.
///
/// # Errors
/// One sentence that names the option which cannot be honoured.
pub(super) fn plan(options: Options) -> Result<Plan, Refusal> {
    let Some(word) = &options.plugin else {
        return Err(Refusal::new("no plugins given on the command line")
            .hint("`nbdkit --help` shows what is accepted"));
    };
    debug::warn_of_unused(&options);
    let named = Named::find(word)?;
    let configured = configure(&named, &options.words)?.ok_or_else(|| {
        Refusal::new("the first parameter must be script=/path/to/python/script.py")
    })?;
    let tls = tls::setup(&options)?;
    let shared = options.single && place::leave_connection()?;
    let Placed {
        address,
        family,
        passing,
    } = placed(&options, tls.mode == TlsMode::Required)?;
    let text = match address.place {
        Place::Stdio if is_passed(&configured.script) => {
            return Err(Refusal::about(
                "-s",
                "the client is on standard input, and the script cannot be",
            ));
        }
        _ => passed::read(&configured.script)?,
    };
    let activated = address.place == Place::Activation;
    let foreground = options.foreground
        || options.exit_with_parent
        || options.single
        || options.run.is_some()
        || activated;
    let threads = threads(&options)?;
    let mut wanted = Job::builder(configured.script, configured.parameters);
    wanted.inherit(passing);
    wanted.text = text;
    wanted.disk.read_only = options.read_only;
    wanted.disk.lanes = threads;
    wanted.server = ServerOptions {
        bounds: Bounds {
            clients: CLIENTS,
            handshake: handshake(&options)?,
            ..Bounds::default()
        },
        requests: threads,
        tls,
        dialect: dialect(&options)?,
        family,
        label: options.selinux_label.clone(),
    };
    wanted.logging = logging(&options, foreground && !shared)?;
    wanted.conduct = conduct(&options, foreground)?;
    wanted.plugin.called = options.name;
    Ok(Plan {
        wanted,
        target: address.into(),
        command: options.run,
    })
}

impl Plan {
    /// Serve.
    ///
    /// # Errors
    /// One sentence, as [`start`].
    pub(super) fn start(mut self) -> Result<ExitCode, Refusal> {
        let plugin = &mut self.wanted.plugin;
        plugin.python = interpreter::choose(None, &plugin.script)?;
        let root = Root::open_anywhere()?;
        agent::sweep(&root)?;
        let called = self.wanted.plugin.called.as_ref();
        let name = match called.filter(|called| !called.is_empty()) {
            Some(called) => Name::like(called),
            None => self.wanted.name(),
        };
        let reserved = self.wanted.reserve(root, &name, |_folder| self.target)?;
        start(reserved, self.command, false)
    }
}

/// What pydisk does not have.
fn refuse_absent(options: &Options) -> Result<(), Refusal> {
    if let Some(filter) = options.filter.first() {
        return Err(Refusal::about(
            format_args!("--filter `{filter}`"),
            "pydisk has no filters yet, so it cannot be honoured",
        ));
    }
    if options.tls_psk.is_some() {
        return Err(Refusal::about(
            "--tls-psk",
            "pre-shared keys are not supported, so it cannot be honoured",
        )
        .hint("use certificates: --tls-certificates DIR"));
    }
    if options.tls_priority.is_some() {
        return Err(Refusal::about(
            "--tls-priority",
            "which ciphers TLS may use cannot be chosen, so it cannot be honoured",
        )
        .hint("without it, those of TLS 1.2 and 1.3 that are held to be safe are used"));
    }
    Ok(())
}

fn threads(options: &Options) -> Result<Option<u16>, Refusal> {
    let mut wanted = None;
    for text in &options.threads {
        wanted = match text.parse::<u16>() {
            Ok(0) => None,
            Ok(threads @ 1..=256) => Some(threads),
            _ => {
                return Err(Refusal::about(
                    format_args!("-t `{text}`"),
                    "a number from 1 to 256 is accepted, or 0 for the default",
                ));
            }
        };
    }
    Ok(wanted)
}

fn handshake(options: &Options) -> Result<Duration, Refusal> {
    let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
    let mut wanted = Bounds::default().handshake;
    for text in &options.timeout {
        wanted = params::parse_delay("--timeout", text)?;
        if !range.contains(&wanted) {
            return Err(Refusal::about(
                format_args!("--timeout `{text}`"),
                "100ms to 86400 seconds are accepted",
            ));
        }
    }
    Ok(wanted)
}

fn dialect(options: &Options) -> Result<Dialect, Refusal> {
    let mut handshake = u16::MAX;
    for text in &options.mask_handshake {
        handshake = mask(text).ok_or_else(|| {
            Refusal::about(
                format_args!("--mask-handshake `{text}`"),
                "a number is accepted, such as 0 or 0x1",
            )
        })?;
    }
    Ok(Dialect {
        handshake,
        structured: !options.no_sr,
        several_connections: !options.no_mc,
        oldstyle: options.oldstyle,
    })
}

/// A number as C writes it: decimal, hexadecimal behind `0x`, octal behind `0`. What is beyond the
/// sixteen flags there are masks nothing.
fn mask(text: &str) -> Option<u16> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return None;
    }
    let mask = u32::from_str_radix(digits, radix).ok()?;
    u16::try_from(mask & u32::from(u16::MAX)).ok()
}

fn logging(options: &Options, foreground: bool) -> Result<Logging, Refusal> {
    let background = match options.verbose {
        // Whoever asks for so much wants to see it.
        true => Sink::StandardError,
        false => Sink::System,
    };
    let default = match foreground {
        true => Sink::StandardError,
        false => background,
    };
    let mut sink = default.clone();
    for text in &options.log {
        sink = match text.as_str() {
            "default" => default.clone(),
            "stderr" => Sink::StandardError,
            "syslog" => Sink::System,
            "null" => Sink::Nothing,
            path if path.starts_with('/') => Sink::File(path.into()),
            other => {
                return Err(Refusal::about(
                    format_args!("--log `{other}`"),
                    "stderr, syslog, null, default or an absolute path is accepted",
                ));
            }
        };
    }
    let level = match options.verbose {
        true => Detail::Everything,
        false => Detail::Warnings,
    };
    Ok(Logging {
        level,
        sink,
        quiet: false,
    })
}

fn conduct(options: &Options, foreground: bool) -> Result<Conduct, Refusal> {
    let pid_file = options
        .pid_file
        .as_deref()
        .map(|path| std::path::absolute(path).refuse(format_args!("-P `{}`", path.display())));
    if options.print_uri && options.single {
        warn("--print-uri: a server on standard input and output has no URI");
    }
    Ok(Conduct {
        foreground,
        prints_its_place: options.print_uri && !options.single,
        spelling: Spelling::Nbdkit {
            certificates: options.tls_certificates.clone(),
        },
        pid_file: pid_file.transpose()?,
        outlives_agent: false,
        leaves_folder: !foreground,
        ignores_hangup: false,
        patience: PATIENCE,
        group: options.group.as_deref().map(group).transpose()?,
        user: options.user.as_deref().map(user).transpose()?,
        locks_memory: options.swap,
    })
}

fn user(name: &str) -> Result<u32, Refusal> {
    let found = User::from_name(name)
        .refuse(format_args!("-u `{name}`"))?
        .map(|user| user.uid.as_raw());
    found.or_else(|| name.parse().ok()).ok_or_else(|| {
        Refusal::about(
            format_args!("-u `{name}`"),
            "there is no user of this name or number",
        )
    })
}

fn group(name: &str) -> Result<u32, Refusal> {
    let found = Group::from_name(name)
        .refuse(format_args!("-g `{name}`"))?
        .map(|group| group.gid.as_raw());
    found.or_else(|| name.parse().ok()).ok_or_else(|| {
        Refusal::about(
            format_args!("-g `{name}`"),
            "there is no group of this name or number",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_numbers_as_c_writes_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("3", Some(3)),
            ("0x1", Some(1)),
            ("010", Some(8)),
            ("4294967295", Some(u16::MAX)),
            ("0xffffffff", Some(u16::MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("08", None),
            ("x", None),
        ] {
            assert_eq!(mask(text), number, "{text}");
        }
    }

    #[test]
    fn users_and_groups_have_names_and_numbers() {
        assert_eq!(user("root"), Ok(0));
        assert_eq!(user("12345"), Ok(12345));
        assert_eq!(group("root"), Ok(0));
        assert_eq!(group("12345"), Ok(12345));
        let refusal = user("no such user").unwrap_err().to_string();
        assert!(refusal.starts_with("-u `no such user`"), "{refusal}");
        let refusal = group("-1").unwrap_err().to_string();
        assert!(refusal.starts_with("-g `-1`"), "{refusal}");
    }
}
