//! What a command line of nbdkit's shows instead of serving: help, versions, `--dump-config` and
//! `--dump-plugin`.

use std::fmt::Write;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;

use super::options::Options;
use super::script::{Configured, Named, configure};
use super::tls::CERTIFICATES;
use crate::attachment::{self, Process};
use crate::cli::info::{in_own_process, own_output};
use crate::cli::passed::is_passed;
use crate::cli::{info, interpreter, plugin};
use crate::logging::{self, Detail};
use crate::python::{self, Dump, Plugin, ThreadModel};
use crate::{Refusal, ResultExt, escape};

/// The release of nbdkit whose options for Python plugins are taken.
const VERSION: (u32, u32, u32) = (1, 48, 0);

/// Callbacks that nbdkit's own plugin for Python has, whatever the script defines.
const CALLBACKS: &str = "load unload dump_plugin config config_complete config_help thread_model \
    get_ready after_fork cleanup preconnect list_exports default_export open close \
    export_description get_size block_size can_write can_flush is_rotational can_trim can_zero \
    can_fast_zero can_extents can_fua can_multi_conn can_cache pread pwrite flush trim zero extents \
    cache";

fn release() -> String {
    let (major, minor, patch) = VERSION;
    format!("{major}.{minor}.{patch}")
}

/// `--help`.
pub(super) fn help(options: &Options) -> Result<ExitCode, Refusal> {
    let mut text = Options::command().render_help().to_string();
    if let Some(word) = &options.plugin {
        let named = Named::find(word)?;
        writeln!(text, "\nplugin: {}", named.name()).expect("a string takes all");
        text += &match named {
            Named::Python => "script=<FILENAME>     (required) The Python plugin to run.\n\
                 [other arguments may be used by the plugin that you load]\n"
                .to_owned(),
            Named::Script { path, .. } => format!(
                "({})\n[its arguments stand in the comment at its head]\n",
                path.display()
            ),
        };
    }
    logging::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What this program says that it is.
pub(super) fn name_and_version() -> String {
    format!(
        "nbdkit {} (pydisk {})",
        release(),
        env!("CARGO_PKG_VERSION")
    )
}

/// `--version`.
pub(super) fn version(options: &Options) -> Result<ExitCode, Refusal> {
    let release = release();
    let mut text = format!("{}\n", name_and_version());
    if let Some(word) = &options.plugin {
        let named = Named::find(word)?;
        writeln!(text, "{} {release}", named.name()).expect("a string takes all");
    }
    logging::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Options that are known only to be refused by their names.
const REFUSED: [&str; 3] = ["filter", "tls-priority", "tls-psk"];

/// `--long-options`: all names that can be given, for the completion of command lines.
pub(super) fn long_options() -> Result<ExitCode, Refusal> {
    let command = Options::command();
    let honoured = command.get_arguments().filter(|option| {
        option
            .get_long()
            .is_some_and(|name| !REFUSED.contains(&name))
    });
    let mut names: Vec<&str> = honoured
        .flat_map(|option| option.get_long().into_iter().chain(aliases(option)))
        .collect();
    names.sort_unstable();
    let lines: String = names.iter().map(|name| format!("--{name}\n")).collect();
    logging::print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

fn aliases(option: &clap::Arg) -> Vec<&str> {
    option.get_all_aliases().unwrap_or_default()
}

/// `--short-options`: the same for those of one letter.
pub(super) fn short_options() -> Result<ExitCode, Refusal> {
    let command = Options::command();
    let mut letters: Vec<char> = command
        .get_arguments()
        .filter_map(clap::Arg::get_short)
        .collect();
    letters.sort_unstable_by_key(|letter| (letter.to_ascii_lowercase(), letter.is_uppercase()));
    let lines: String = letters
        .iter()
        .map(|letter| format!("-{letter}\n"))
        .collect();
    logging::print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// This program, as it was called into being.
fn program() -> Result<PathBuf, Refusal> {
    attachment::myself().refuse("this program's own path")
}

/// `--dump-config`.
pub(super) fn config() -> Result<ExitCode, Refusal> {
    let program = program()?;
    let folder = program.parent().unwrap_or(Path::new("/")).display();
    let folders = plugin::folders();
    let plugins = folders
        .iter()
        .find(|folder| folder.is_dir())
        .or(folders.first())
        .map(|folder| folder.display().to_string())
        .unwrap_or_default();
    let selinux = match Path::new("/sys/fs/selinux/status").exists() {
        true => "yes",
        false => "no",
    };
    let (major, minor, _) = VERSION;
    let text = format!(
        "binary={}\nbindir={folder}\nexit_with_parent=yes\nhost_cpu={}\nhost_os=linux-gnu\n\
         max_api_version=2\nname=nbdkit\nplugindir={plugins}\n\
         root_tls_certificates_dir={CERTIFICATES}\nrun_default_socket=Unix\nsbindir={folder}\n\
         selinux={selinux}\ntimeout_option=yes\ntls=yes\nversion={}\nversion_major={major}\n\
         version_minor={minor}\nvsock_option=yes\nzstd=no\npydisk_version={}\n",
        program.display(),
        std::env::consts::ARCH,
        release(),
        env!("CARGO_PKG_VERSION"),
    );
    logging::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `--dump-plugin`, in a process with the Python that is right for the script.
pub(super) fn plugin(options: &Options) -> Result<ExitCode, Refusal> {
    let Some(word) = &options.plugin else {
        return Err(Refusal::about("--dump-plugin", "which one is not said")
            .hint("use `nbdkit PLUGIN --dump-plugin`, or --dump-config for this program"));
    };
    let named = Named::find(word)?;
    let about = ["--name".to_owned(), named.name().to_owned()];
    match configure(&named, &options.words)? {
        // The process that loads it has no such descriptor.
        Some(Configured { script, .. }) if is_passed(&script) => Err(Refusal::about(
            "--dump-plugin",
            format_args!("a file is needed, not `{}`", script.display()),
        )),
        Some(Configured { script, parameters }) => {
            let python = interpreter::choose(None, &script)?;
            let words: Vec<String> = parameters
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            in_own_process(Process::Dump, &about, &script, &words, python, String::new)
        }
        None => dump(named.name(), None, &[]),
    }
}

/// The hidden subcommand.
pub(in crate::cli) fn process(
    name: &str,
    script: Option<&Path>,
    words: &[String],
) -> Result<ExitCode, Refusal> {
    python::remember_descriptors();
    logging::start("dump-plugin", Detail::Events);
    let parameters = info::parameters(words)?;
    // By the name that the user called.
    Ok(dump(name, script, &parameters).unwrap_or_else(|refusal| {
        logging::say(&format!("nbdkit: error: {refusal}\n"));
        ExitCode::FAILURE
    }))
}

fn dump(
    name: &str,
    script: Option<&Path>,
    parameters: &[(String, String)],
) -> Result<ExitCode, Refusal> {
    let program = program()?;
    let mut out = own_output(script.unwrap_or(&program))?;
    let dump = match script {
        Some(script) => Plugin::load(script)?.dump(parameters)?,
        None => Dump {
            thread_model: ThreadModel::SerializeAllRequests,
            python: python::version()?,
            own: String::new(),
        },
    };
    let mut text = format!(
        "path={}\nname={name}\nversion={}\napi_version=2\nmax_thread_model=parallel\n\
         thread_model={}\nerrno_is_preserved=0\n",
        program.display(),
        release(),
        dump.thread_model.word(),
    );
    if let Some(key) = Named::find(name).ok().and_then(|named| named.magic_key()) {
        writeln!(text, "magic_config_key={key}").expect("a string takes all");
    }
    for callback in CALLBACKS.split_ascii_whitespace() {
        writeln!(text, "has_{callback}=1").expect("a string takes all");
    }
    write!(
        text,
        "python_version={}\nnbdkit_python_maximum_api_version=2\n{}",
        dump.python, dump.own
    )
    .expect("a string takes all");
    if out.is_terminal() {
        text = escape::lines(&text).into_owned();
    }
    // A reader that has gone away wants no more of it.
    out.write_all(text.as_bytes()).unwrap_or_default();
    Ok(ExitCode::SUCCESS)
}
