//! `pydisk check`: whether a plugin does what it says, for its author and for tests.
//!
//! The plugin is loaded in a process of its own, as for `pydisk info`: the right Python can be chosen
//! for it, and what it breaks is that process. Unless `--write` is given, it is opened for reading
//! only and nothing is ever written: what it serves may be somebody's disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use parking_lot::Mutex;
use serde_json::json;

use super::{info, interpreter, plugin};
use crate::attachment::{Process, Step};
use crate::check::{self, Doing, Plan, Report, Watch};
use crate::interrupt;
use crate::params::ErrnoSource;
use crate::progress::{AGAIN, SILENCE, tell_waiting};
use crate::python::{self, Plugin};
use crate::{Refusal, ResultExt, escape, logging};

/// How often the watch is looked at.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// A Python file, or the name of a plugin that ships with pydisk
    plugin: String,
    /// Parameters of the plugin
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    #[command(flatten)]
    options: CheckOptions,
}

#[derive(Debug, Args)]
pub(super) struct CheckOptions {
    /// Write, zero and trim as well: what the disk holds is lost
    #[arg(long)]
    write: bool,
    /// Repeat the random requests of an earlier check
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Requests in each part of the check
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// A callback that takes longer hangs; one that moves many bytes has so long for each 8 MiB
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// The export that is opened, as by a client of an NBD server [default: the plugin's own]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    export: String,
    /// The Python or the virtual environment whose packages the plugin sees
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Whose errno a failed callback reports, as for `attach` [default: the plugin's PYDISK_ERRNO, else
    /// nbdkit]
    #[arg(long, value_name = "native|nbdkit")]
    errno: Option<ErrnoSource>,
    /// Say nothing but what is wrong
    #[arg(short, long)]
    quiet: bool,
    /// For programs
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Refusal> {
    info::parameters(&args.words)?;
    let script = plugin::find(&args.plugin)?;
    let python = interpreter::choose(args.options.python.as_deref(), &script)?;
    let options = args.options.words();
    // The other process knows more.
    info::in_own_process(
        Process::Check,
        &options,
        &script,
        &args.words,
        python,
        String::new,
    )
}

impl CheckOptions {
    /// As the other process is told.
    fn words(&self) -> Vec<String> {
        let seed = self.seed.unwrap_or_else(seed);
        let mut words = vec![
            format!("--seed={seed}"),
            format!("--steps={}", self.steps),
            format!("--patience={}", self.patience),
        ];
        let flags = [
            ("--write", self.write),
            ("--quiet", self.quiet),
            ("--json", self.json),
        ];
        let given = flags.into_iter().filter(|(_, given)| *given);
        words.extend(given.map(|(flag, _)| flag.to_owned()));
        words.push(format!("--export={}", self.export));
        words.extend(self.errno.map(|errnos| match errnos {
            ErrnoSource::Nbdkit => "--errno=nbdkit".to_owned(),
            ErrnoSource::Native => "--errno=native".to_owned(),
        }));
        words
    }
}

/// A number that is another one each time, short enough to be typed.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.as_nanos());
    u64::try_from(nanos / 1000 % 1_000_000).unwrap_or(0)
}

/// What the check of one plugin needs on all its threads.
struct Examined {
    script: String,
    /// None until it is loaded.
    plugin: Mutex<Option<Loaded>>,
    report: Report,
    watch: Watch,
    plan: Plan,
    errnos: Option<ErrnoSource>,
    /// `config` asks the user for a password.
    asks: bool,
    export: String,
    told: Told,
    out: Mutex<File>,
}

/// How the report looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// All of it, for people.
    Text,
    /// Only what is wrong.
    Quiet,
    /// All of it, for programs.
    Json,
}

struct Loaded {
    plugin: Arc<Plugin>,
    /// Where callbacks begin. Asked in time: a plugin that hangs lets nobody ask.
    lines: Vec<(String, u32)>,
}

/// The hidden subcommand.
pub(super) fn process(
    script: &Path,
    words: &[String],
    options: &CheckOptions,
) -> Result<ExitCode, Refusal> {
    crate::python::remember_descriptors();
    let parameters = info::parameters(words)?;
    let out = info::own_output(script)?;
    let examined = Arc::new(Examined {
        script: script.display().to_string(),
        plugin: Mutex::new(None),
        report: Report::default(),
        watch: Watch::default(),
        plan: Plan {
            seed: options.seed.unwrap_or_default(),
            steps: options.steps,
            write: options.write,
        },
        errnos: options.errno,
        asks: Step::of_config(&parameters) == Step::Password,
        export: options.export.clone(),
        told: match (options.json, options.quiet) {
            (true, _) => Told::Json,
            (false, true) => Told::Quiet,
            (false, false) => Told::Text,
        },
        out: Mutex::new(out),
    });
    logging::collect({
        let examined = Arc::downgrade(&examined);
        move |line| {
            if let Some(examined) = examined.upgrade() {
                examined.logged(line);
            }
        }
    });
    watch(&examined, Duration::from_secs(options.patience.into()))?;
    let _interrupted = interrupt::told({
        let examined = Arc::clone(&examined);
        move || examined.interrupted()
    });
    let outcome = examined.run(script, &parameters);
    if let Err(refusal) = outcome {
        if examined.wrong() > 0 {
            examined.tell(&["the rest was not tried".to_owned()]);
        }
        return Err(refusal);
    }
    let fine = examined.tell(&[]);
    // Threads of the plugin may still be inside Python.
    std::process::exit(i32::from(!fine))
}

/// Tell, and end, if the plugin does not return.
fn watch(examined: &Arc<Examined>, patience: Duration) -> Result<(), Refusal> {
    let examined = Arc::clone(examined);
    let body = move || {
        let mut told = None;
        loop {
            thread::sleep(TICK);
            examined.tell_progress(&mut told);
            let Some((doing, allowed)) = examined.watch.overdue(patience) else {
                continue;
            };
            let text = format!("{}: has not returned for {allowed:?}", doing.what());
            examined.report.problem(doing.callback, "hangs", text);
            examined.tell(&["the rest was not tried".to_owned()]);
            std::process::exit(1);
        }
    };
    let started = thread::Builder::new().name("watch".into()).spawn(body);
    started.map(drop).refuse("a thread that watches")
}

impl Examined {
    fn run(&self, script: &Path, parameters: &[(String, String)]) -> Result<(), Refusal> {
        let during = |callback, work: &mut dyn FnMut() -> Result<(), Refusal>| {
            self.watch.during(Doing::call(callback), work)
        };
        let watch = &self.watch;
        for fault in python::writable_by_all(script) {
            self.report.note(fault);
        }
        let plugin = watch.during(Doing::call("the script"), || Plugin::load(script))?;
        *self.plugin.lock() = Some(Loaded {
            lines: plugin.lines(),
            plugin: Arc::clone(&plugin),
        });
        if let Some(errnos) = self.errnos {
            plugin.settle_errnos(errnos);
        }
        during("config", &mut || plugin.configure(parameters))?;
        during("get_ready", &mut || plugin.get_ready())?;
        // As for a disk in the background: a relative path that is opened later is found out here.
        std::env::set_current_dir("/").refuse("folder `/`")?;
        during("after_fork", &mut || plugin.after_fork())?;
        let open = || plugin.open_export(&self.export, !self.plan.write);
        let outcome = check::run(&open, self.plan, &self.report, watch);
        watch.during(Doing::call("cleanup"), || plugin.cleanup());
        outcome
    }

    /// Tell the user what the check waits for, where that takes long; `told` is when that was last.
    fn tell_progress(&self, told: &mut Option<(Instant, Instant)>) {
        let Some((doing, since)) = self.watch.oldest() else {
            return;
        };
        let asks = self.asks && doing.callback == "config";
        if asks || matches!(self.told, Told::Quiet) {
            return;
        }
        let due = match *told {
            Some((last, whose)) if whose == since => last + AGAIN,
            _ => since + SILENCE,
        };
        if Instant::now() < due {
            return;
        }
        *told = Some((Instant::now(), since));
        tell_waiting(&self.script, doing, since.elapsed(), "; Ctrl-C gives up");
    }

    /// What Ctrl-C ends.
    fn interrupted(&self) -> String {
        let during = match self.watch.oldest() {
            Some((doing, _)) => format!(", waiting for {doing}"),
            None => String::new(),
        };
        format!(
            "pydisk: {}: interrupted{during}: the rest was not tried\n",
            self.script
        )
    }

    /// An error that pydisk logged: what a callback raised that has nobody to tell.
    fn logged(&self, line: &str) {
        let rest = line.strip_prefix(&format!("{}: ", self.script));
        let (callback, text) = rest
            .and_then(|rest| rest.split_once(": "))
            .unwrap_or(("pydisk", line));
        let key = text.lines().next().unwrap_or_default();
        self.report.problem(callback, key, text);
    }

    /// How much was found.
    fn wrong(&self) -> usize {
        let loaded = self.plugin.lock();
        let findings = loaded.as_ref().map_or(0, |it| it.plugin.findings().len());
        findings + self.report.troubles().len()
    }

    /// Print what was found; whether that is nothing.
    fn tell(&self, last: &[String]) -> bool {
        let script = &*escape::one_line(&self.script);
        let loaded = self.plugin.lock();
        // What is said of something stands below it: only pydisk begins a line.
        let below = |said: &str| said.trim_end().replace('\n', "\n    ");
        let mut text = String::new();
        let findings = loaded.as_ref().map(|loaded| loaded.plugin.findings());
        let findings = findings.unwrap_or_default();
        for finding in &findings {
            text += &format!("{}\n", below(&finding.at(script).to_string()));
        }
        let troubles = self.report.troubles();
        for trouble in &troubles {
            let lines = loaded.as_ref().map_or(&[][..], |loaded| &loaded.lines);
            let line = lines.iter().find(|(name, _)| *name == trouble.callback);
            let place = line.map_or_else(String::new, |(_, line)| format!(":{line}"));
            let said = below(&trouble.text);
            text += &format!("{script}{place}: {}: {said}\n", trouble.callback);
            if trouble.times > 1 {
                text += &format!("    ({} times)\n", trouble.times);
            }
        }
        let wrong = findings.len() + troubles.len();
        let fine = wrong == 0 && last.is_empty();
        if self.told != Told::Text {
            if self.told == Told::Json {
                text = self.as_json(loaded.as_ref(), last);
            }
            drop(loaded);
            self.say(&text);
            return fine;
        }
        for note in self.report.notes().iter().chain(last) {
            text += &format!("note: {}\n", below(note));
        }
        if !self.plan.write {
            text += "note: nothing was written: `--write` tries that, too, and destroys what the \
                     disk holds\n";
        }
        let counts = self.report.counts();
        let counts: Vec<_> = counts
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        text += &format!("seed {}: {}\n", self.plan.seed, counts.join(", "));
        text += &match (wrong, last) {
            (0, []) => "nothing wrong was found\n".to_owned(),
            (1, _) => "1 problem\n".to_owned(),
            (count, _) => format!("{count} problems\n"),
        };
        drop(loaded);
        self.say(&text);
        fine
    }

    /// The same for programs; with last words, the check was not done to its end.
    fn as_json(&self, loaded: Option<&Loaded>, last: &[String]) -> String {
        let lines = loaded.map_or(&[][..], |loaded| &loaded.lines);
        let line = |name: &str| lines.iter().find(|(known, _)| known == name);
        let findings = loaded.map(|loaded| loaded.plugin.findings());
        let findings = findings.unwrap_or_default().into_iter().map(|finding| {
            json!({
                "line": finding.line,
                "callback": finding.name,
                "text": finding.text,
                "times": 1,
            })
        });
        let troubles = self.report.troubles().into_iter().map(|trouble| {
            json!({
                "line": line(&trouble.callback).map(|(_, line)| line),
                "callback": trouble.callback,
                "text": trouble.text,
                "times": trouble.times,
            })
        });
        let counts: BTreeMap<_, _> = self.report.counts().into_iter().collect();
        let problems: Vec<_> = findings.chain(troubles).collect();
        let all = json!({
            "plugin": self.script,
            "fine": problems.is_empty() && last.is_empty(),
            "complete": last.is_empty(),
            "problems": problems,
            "notes": self.report.notes(),
            "written": self.plan.write,
            "seed": self.plan.seed,
            "calls": counts,
        });
        escape::json(&format!("{all:#}\n")).into_owned()
    }

    fn say(&self, text: &str) {
        // A reader that has gone away wants no more of it.
        self.out
            .lock()
            .write_all(escape::lines(text).as_bytes())
            .unwrap_or_default();
    }
}
