//! `pydisk bench`: what a plugin does on each front end that this host has, and how much of it is the
//! plugin's own.
//!
//! On one front end after the other the plugin is attached as `pydisk attach` would, by an agent that
//! gives the disk up when this process ends. Unless `--write` is given, the plugin is opened for
//! reading only.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::choice::{self, Found};
use super::{info, interpreter, passed, plugin};
use crate::agent;
use crate::attachment::Root;
use crate::bench::{FrontEnd, Pattern, Report, Workload};
use crate::frontends::{self, Row};
use crate::{Refusal, logging, params};

mod guard;
mod one;

use guard::Guard;
use one::Bench;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// A Python file, or the name of a plugin that ships with pydisk
    plugin: String,
    /// Parameters of the plugin
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// Write as well: what the disk holds is lost
    #[arg(long)]
    write: bool,
    /// Only this front end; repeatable [default: all that this host has]
    #[arg(long, value_name = "NAME", value_parser = names())]
    front_end: Vec<&'static Row>,
    /// How long each load lasts
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = delay)]
    time: Duration,
    /// Bytes of a request [default: 4k, and 256k of sequential reads]
    #[arg(long, value_name = "SIZE", value_parser = block)]
    block: Option<u32>,
    /// Requests under way at a time; repeatable [default: 1 and 16, and 8 of sequential reads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    depth: Vec<u16>,
    /// A load that gets no answer for so long hangs
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// Requests that a plugin with the parallel thread model serves at the same time [default: 16,
    /// with `async def` 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    lanes: Option<u16>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// The Python or the virtual environment whose packages the plugin sees
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

/// A front end by the name that `pydisk list` has for it.
fn names() -> impl TypedValueParser<Value = &'static Row> {
    let named = |name: &str| frontends::ALL.into_iter().find(|row| row.name == name);
    PossibleValuesParser::new(frontends::ALL.map(|row| row.name))
        .map(move |name| named(&name).expect("it is one of these names"))
}

/// Why this host does not have the front end.
fn absence(row: &Row, host: &[Found]) -> Option<String> {
    let found = host.iter().find(|found| found.row.name == row.name)?;
    found.works.as_ref().err().cloned()
}

fn delay(text: &str) -> Result<Duration, String> {
    let time = params::parse_delay("time", text).map_err(|refusal| refusal.to_string())?;
    if time.is_zero() {
        return Err("more than nothing is needed".into());
    }
    Ok(time)
}

/// What a front end takes in one request.
const LARGEST_BLOCK: u64 = 1 << 20;

fn block(text: &str) -> Result<u32, String> {
    let size = params::parse_size(text).map_err(|refusal| refusal.to_string())?;
    let fits = size % 512 == 0 && (512..=LARGEST_BLOCK).contains(&size);
    let size = u32::try_from(size).ok().filter(|_| fits);
    size.ok_or_else(|| "a multiple of 512 up to 1M is accepted".into())
}

/// The loads, in the order in which they are shown.
fn workloads(args: &BenchArgs) -> Vec<Workload> {
    let mut all = Vec::new();
    let mut add = |pattern, default_len, default_depths: &[u16]| {
        let depths = if args.depth.is_empty() {
            default_depths
        } else {
            &args.depth
        };
        all.extend(depths.iter().map(|depth| Workload {
            pattern,
            len: args.block.unwrap_or(default_len),
            depth: usize::from(*depth),
        }));
    };
    add(Pattern::RandomReads, 4 << 10, &[1, 16]);
    if args.write {
        add(Pattern::RandomWrites, 4 << 10, &[1, 16]);
    }
    add(Pattern::SequentialReads, 256 << 10, &[8]);
    all
}

pub(super) fn bench(args: &BenchArgs) -> Result<ExitCode, Refusal> {
    let parameters = info::parameters(&args.words)?;
    let script = plugin::find(&args.plugin)?;
    if passed::is_passed(&script) {
        return Err(Refusal::about(
            format_args!("plugin `{}`", script.display()),
            "it is started several times, so a file is needed",
        ));
    }
    let python = interpreter::choose(args.python.as_deref(), &script)?;
    let host = choice::host();
    for row in &args.front_end {
        if let Some(reason) = absence(row, &host) {
            return Err(Refusal::about(
                format_args!("--front-end {}", row.name),
                reason,
            ));
        }
    }
    let root = Root::open()?;
    agent::sweep(&root)?;
    let bench = Bench {
        script,
        parameters,
        python,
        root,
        workloads: workloads(args),
        time: args.time,
        lanes: args.lanes,
        write: args.write,
        guard: Guard::start(Duration::from_secs(args.patience.into()))?,
        told: AtomicBool::new(false),
    };
    let mut front_ends = Vec::new();
    for row in frontends::ALL {
        let wanted = args.front_end.iter().any(|wanted| wanted.name == row.name);
        if !args.front_end.is_empty() && !wanted {
            continue;
        }
        front_ends.push(match absence(row, &host) {
            Some(reason) => FrontEnd::absent(row.name, reason),
            None => bench.front_end(row),
        });
        bench.guard.check()?;
    }
    let report = Report {
        plugin: bench.script.display().to_string(),
        read_only: !args.write,
        seconds: args.time.as_secs_f64(),
        front_ends,
    };
    tell(&report, args.json)?;
    Ok(if report.is_fine() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tell(report: &Report, json: bool) -> Result<(), Refusal> {
    if !json {
        return logging::print(&report.text());
    }
    logging::print_json(report)
}
