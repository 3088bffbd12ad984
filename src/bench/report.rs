//! What a bench found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::{Measured, Workload};
use crate::Refusal;
use crate::attachment::Cost;

/// All that was found. The names of the fields are those that scripts see.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The script.
    pub plugin: String,
    /// Whether it was opened for reading only.
    pub read_only: bool,
    /// How long each load was to last.
    pub seconds: f64,
    /// What each front end did.
    pub front_ends: Vec<FrontEnd>,
}

/// What the plugin does on one front end.
#[derive(Debug, Serialize)]
pub struct FrontEnd {
    /// `ublk`, `nbd-kernel`, `loop`, `fuse` or `nbd`.
    pub name: &'static str,
    /// Why it was not measured, or not to the end.
    pub reason: Option<String>,
    /// The same in its parts, where it is a fault.
    pub refusal: Option<Refusal>,
    /// Whether that is a fault; a front end that this host lacks is none.
    pub failed: bool,
    /// From the start of the processes until the disk could be used.
    pub attach_ms: Option<f64>,
    /// Bytes of the disk.
    pub size: Option<u64>,
    /// Requests that the plugin is in at the same time, at most.
    pub lanes: Option<u16>,
    /// What each load found.
    pub workloads: Vec<Row>,
}

impl FrontEnd {
    /// A front end that was not measured, and why.
    #[must_use]
    pub fn absent(name: &'static str, reason: String) -> Self {
        Self {
            name,
            reason: Some(reason),
            refusal: None,
            failed: false,
            attach_ms: None,
            size: None,
            lanes: None,
            workloads: Vec::new(),
        }
    }
}

/// One load on one front end.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The load in words.
    pub name: String,
    /// Bytes of a request.
    pub block: u32,
    /// Requests under way at a time.
    pub depth: usize,
    /// Requests that were answered.
    pub requests: u64,
    /// How many of them failed, by their errors.
    pub failed: BTreeMap<String, u64>,
    /// What the others did; nothing if there was none.
    pub figures: Option<Figures>,
}

/// What was measured; each `_us` but the percentiles is per request.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Requests a second.
    pub iops: f64,
    /// Data of them, in MiB a second.
    pub mib_per_s: f64,
    /// The time that half of the requests stayed below, as their user sees it.
    pub p50_us: f64,
    /// The time that 99 of 100 stayed below.
    pub p99_us: f64,
    /// Processor time of the process that serves.
    pub cpu_us: f64,
    /// Calls of the plugin.
    pub callbacks: f64,
    /// Time inside the plugin's callbacks.
    pub inside_us: f64,
    /// The rest of the time that a request takes up where it is the only one, or one of as many as
    /// the plugin takes at a time: pydisk, the kernel, waking up.
    pub outside_us: f64,
    /// The plugin's part of both, from 0 to 1.
    pub inside_share: f64,
}

impl Row {
    /// What `measured` says, with what the worker spent on it. So many requests at most were in the
    /// plugin at the same time.
    #[must_use]
    pub fn new(workload: Workload, measured: &Measured, cost: Cost, at_once: usize) -> Self {
        Self {
            name: workload.to_string(),
            block: workload.len,
            depth: workload.depth,
            requests: measured.requests(),
            failed: measured.failed.clone(),
            figures: figures(workload, measured, cost, at_once),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for people; 52 bits are enough for what a bench counts"
)]
fn figures(workload: Workload, measured: &Measured, cost: Cost, at_once: usize) -> Option<Figures> {
    if measured.latencies.is_empty() {
        return None;
    }
    let seconds = measured.elapsed.as_secs_f64();
    let good = measured.latencies.len() as f64;
    // What the worker spent, it spent on those that failed, too.
    let per_request = |time: Duration| micros(time) / measured.requests() as f64;
    let inside_us = per_request(cost.inside);
    let percentile_us = |quantile| {
        let nanos = measured.latencies.value_at_quantile(quantile);
        micros(Duration::from_nanos(nanos))
    };
    let taken_up = per_request(measured.elapsed) * at_once as f64;
    Some(Figures {
        iops: good / seconds,
        mib_per_s: good * f64::from(workload.len) / f64::from(1 << 20) / seconds,
        p50_us: percentile_us(0.50),
        p99_us: percentile_us(0.99),
        cpu_us: per_request(cost.cpu),
        callbacks: cost.callbacks as f64 / measured.requests() as f64,
        inside_us,
        outside_us: (taken_up - inside_us).max(0.0),
        inside_share: (inside_us / taken_up).min(1.0),
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Above the columns of numbers.
const HEAD: [&str; 9] = [
    "IOPS",
    "MiB/s",
    "p50 µs",
    "p99 µs",
    "CPU µs",
    "CALLS",
    "PLUGIN µs",
    "OTHER µs",
    "PLUGIN",
];

const LEGEND: &str = "\
Per request: CPU is the worker's processor time, CALLS of the plugin's callbacks, PLUGIN the time inside
them, OTHER the rest of the time that the request takes up: pydisk, the kernel and waking up.
";

impl Report {
    /// Whether everything that was tried went well.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        let rows = || self.front_ends.iter().flat_map(|one| &one.workloads);
        !self.front_ends.iter().any(|one| one.failed) && rows().all(|row| row.failed.is_empty())
    }

    /// The table, and what it means.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.table();
        for one in &self.front_ends {
            if let Some(reason) = &one.reason {
                writeln!(text, "{}: {reason}", one.name).unwrap_or_default();
            }
        }
        for (front_end, row) in self.rows() {
            let (all, name) = (row.requests, &row.name);
            for (error, count) in &row.failed {
                writeln!(
                    text,
                    "{front_end}: {name}: {count} of {all} requests failed: {error}"
                )
                .unwrap_or_default();
            }
        }
        if let Some(verdict) = self.verdict() {
            text += LEGEND;
            text += &verdict;
        }
        text
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, &Row)> {
        let of = |one: &'_ FrontEnd| one.name;
        self.front_ends
            .iter()
            .flat_map(move |one| one.workloads.iter().map(move |row| (of(one), row)))
    }

    fn table(&self) -> String {
        let mut lines = Vec::new();
        let head = ["FRONT END", "WORKLOAD"].into_iter().chain(HEAD);
        lines.push(head.map(str::to_owned).collect::<Vec<_>>());
        for (front_end, row) in self.rows() {
            let Some(figures) = row.figures else {
                continue;
            };
            let mut line = vec![front_end.to_owned(), row.name.clone()];
            line.extend(figures.cells());
            lines.push(line);
        }
        if lines.len() == 1 {
            return String::new();
        }
        aligned(&lines)
    }

    /// The answer to the question that this is all about.
    fn verdict(&self) -> Option<String> {
        let shares = || {
            self.rows()
                .filter_map(|(_, row)| row.figures)
                .map(|figures| figures.inside_share)
        };
        let least = shares().reduce(f64::min)?;
        let most = shares().reduce(f64::max)?;
        let (low, high) = (percent(least), percent(most));
        let range = if low == high {
            low
        } else {
            format!("{low} to {high}")
        };
        let who = match (least >= 0.5, most >= 0.5) {
            (true, _) => "most of the time is the plugin's",
            (_, false) => "most of the time is not the plugin's",
            _ => "whose time it is depends on the load",
        };
        Some(format!("The plugin takes {range} of the time: {who}.\n"))
    }
}

impl Figures {
    fn cells(self) -> [String; HEAD.len()] {
        [
            format!("{:.0}", self.iops),
            short(self.mib_per_s),
            short(self.p50_us),
            short(self.p99_us),
            short(self.cpu_us),
            format!("{:.2}", self.callbacks),
            short(self.inside_us),
            short(self.outside_us),
            percent(self.inside_share),
        ]
    }
}

/// Two digits at least.
fn short(number: f64) -> String {
    if number < 10.0 {
        return format!("{number:.1}");
    }
    format!("{number:.0}")
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Words to the left, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = HEAD.len() + 2;
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let width = |line: &Vec<String>| line[column].chars().count();
            lines.iter().map(width).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            if column < 2 {
                write!(text, "{gap}{cell:<width$}").unwrap_or_default();
            } else {
                write!(text, "{gap}{cell:>width$}").unwrap_or_default();
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Pattern;
    use super::*;

    fn workload(depth: usize) -> Workload {
        Workload {
            pattern: Pattern::RandomReads,
            len: 4096,
            depth,
        }
    }

    /// A second of requests of a millisecond each.
    fn measured(requests: u64, failures: u64) -> Measured {
        let mut found = Measured {
            elapsed: Duration::from_secs(1),
            ..Measured::default()
        };
        for _ in 0..requests {
            found.succeeded(Duration::from_millis(1));
        }
        if failures > 0 {
            found.failed.insert("no".into(), failures);
        }
        found
    }

    fn row(depth: usize, found: &Measured, inside_ms: u64, at_once: usize) -> Row {
        let cost = Cost {
            callbacks: 2 * found.requests(),
            inside: Duration::from_millis(inside_ms),
            cpu: Duration::from_millis(100),
        };
        Row::new(workload(depth), found, cost, at_once)
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-6 * other.abs().max(1.0)
    }

    #[test]
    fn a_request_takes_up_its_time_in_the_plugin_and_the_rest() {
        let figures = row(1, &measured(1000, 0), 750, 1).figures.unwrap();
        assert!(close(figures.iops, 1000.0) && close(figures.mib_per_s, 1000.0 / 256.0));
        assert!(close(figures.inside_us, 750.0) && close(figures.outside_us, 250.0));
        assert!(close(figures.inside_share, 0.75) && close(figures.cpu_us, 100.0));
        assert!(close(figures.callbacks, 2.0));
        // Four at a time: each takes up four times as long.
        let figures = row(4, &measured(1000, 0), 3000, 4).figures.unwrap();
        assert!(close(figures.inside_us, 3000.0) && close(figures.outside_us, 1000.0));
    }

    #[test]
    fn failures_are_not_counted_as_work_done() {
        let found = row(1, &measured(500, 500), 1000, 1);
        let figures = found.figures.unwrap();
        assert!(close(figures.iops, 500.0) && close(figures.inside_us, 1000.0));
        assert_eq!((found.requests, found.failed["no"]), (1000, 500));
        assert!(row(1, &measured(0, 3), 1, 1).figures.is_none());
    }

    #[test]
    fn costs_are_differences() {
        let cost = |callbacks, ms| Cost {
            callbacks,
            inside: Duration::from_millis(ms),
            cpu: Duration::from_millis(2 * ms),
        };
        assert_eq!(cost(5, 50).since(cost(3, 20)), cost(2, 30));
    }

    fn report(workloads: Vec<Row>) -> Report {
        let fuse = FrontEnd {
            reason: None,
            workloads,
            ..FrontEnd::absent("fuse", String::new())
        };
        Report {
            plugin: "x.py".into(),
            read_only: true,
            seconds: 1.0,
            front_ends: vec![fuse, FrontEnd::absent("ublk", "no module".into())],
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_load_and_each_absence() {
        let found = report(vec![
            row(1, &measured(1000, 0), 750, 1),
            row(4, &measured(100_000, 0), 500, 1),
        ]);
        let text = found.text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("FRONT END  WORKLOAD"), "{text}");
        assert!(
            lines[1].starts_with("fuse       4k random reads, depth 1    1000"),
            "{text}"
        );
        let width = |line: &str| line.chars().count();
        assert_eq!(width(lines[0]), width(lines[2]), "{text}");
        assert_eq!(lines[3], "ublk: no module");
        assert!(text.ends_with("50% to 75% of the time: most of the time is the plugin's.\n"));
        assert!(found.is_fine());
    }

    #[test]
    fn failures_are_told_with_their_errors() {
        let found = report(vec![row(1, &measured(5, 3), 750, 1)]);
        let said = "fuse: 4k random reads, depth 1: 3 of 8 requests failed: no\n";
        assert!(found.text().contains(said), "{}", found.text());
        assert!(!found.is_fine());
    }
}
