//! One front end: the plugin is attached, the loads are put on it, and it is detached.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Guard;
use crate::agent::Loan;
use crate::attachment::{self, Cost, DiskOptions, Folder, Job, Name, Reserved, Root};
use crate::bench::{self, FrontEnd, Place, Row, Workload};
use crate::cli::complain;
use crate::frontends::{self, Endpoint};
use crate::logging;
use crate::{Refusal, ResultExt};

/// How long each load goes on before it is measured, at most: what is only slow at first is not what
/// the user asks for.
const WARM: Duration = Duration::from_millis(200);

/// What is to be measured, and how.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) script: PathBuf,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) python: Option<PathBuf>,
    pub(super) root: Root,
    pub(super) workloads: Vec<Workload>,
    pub(super) time: Duration,
    pub(super) lanes: Option<u16>,
    pub(super) write: bool,
    pub(super) guard: Guard,
    /// Whether an error of the plugin was shown.
    pub(super) told: AtomicBool,
}

impl Bench {
    /// Measure one front end. What goes wrong is told with the rest.
    pub(super) fn front_end(&self, row: &frontends::Row) -> FrontEnd {
        let mut found = FrontEnd {
            reason: None,
            ..FrontEnd::absent(row.name, String::new())
        };
        if let Err(refusal) = self.measure(row, &mut found) {
            found.reason = Some(refusal.to_string());
            found.refusal = Some(refusal);
            found.failed = true;
        }
        found
    }

    fn measure(&self, row: &frontends::Row, found: &mut FrontEnd) -> Result<(), Refusal> {
        let name = format!("bench-{}-{}", std::process::id(), row.name);
        // The lock is held until the disk is gone: before it has an agent the folder is ours.
        let reserved = self.reserve(row, name)?;
        let folder = &reserved.folder;
        let start = Instant::now();
        let loan = match Loan::take(&reserved.job, self.guard.recall()) {
            Ok(loan) => loan,
            Err(refusal) => {
                if let Err(refusal) = reserved.release() {
                    complain(&refusal);
                }
                self.guard.check()?;
                return Err(refusal);
            }
        };
        let served = loan.served();
        found.attach_ms = Some(start.elapsed().as_secs_f64() * 1000.0);
        found.lanes = Some(served.lanes);
        found.size = served.size;
        let loads = self
            .guard
            .watching(|| self.loads(&place(&served.at, served.size), folder, found));
        let failed = found.workloads.iter().any(|row| !row.failed.is_empty());
        if failed && !self.told.swap(true, Ordering::Relaxed) {
            tell_first_error(folder);
        }
        let ended = loan.give_back(self.guard.recall());
        drop(reserved);
        self.guard.check()?;
        // A disk that was lost is why its users saw errors.
        ended.and(loads)
    }

    fn reserve(&self, row: &frontends::Row, name: String) -> Result<Reserved, Refusal> {
        let mut wanted = Job::builder(self.script.clone(), self.parameters.clone());
        wanted.plugin.called = Some(name.clone());
        wanted.plugin.python = self.python.clone();
        wanted.disk = DiskOptions {
            read_only: !self.write,
            lanes: self.lanes,
            measured: true,
            ..DiskOptions::default()
        };
        wanted.server.requests = self.lanes;
        wanted.reserve(self.root.clone(), &Name::Given(name), |folder| {
            (row.free)(folder.path())
        })
    }

    fn loads(&self, place: &Place, folder: &Folder, found: &mut FrontEnd) -> Result<(), Refusal> {
        let smallest = place.smallest().refuse(ENDED)?;
        for workload in &self.workloads {
            let workload = Workload {
                // A plugin may take no smaller blocks.
                len: workload.len.max(smallest),
                ..*workload
            };
            if io::stderr().is_terminal() {
                logging::say(&format!("{}: {workload}\n", found.name));
            }
            let row = self.load(place, folder, workload, found)?;
            found.workloads.push(row);
        }
        Ok(())
    }

    fn load(
        &self,
        place: &Place,
        folder: &Folder,
        workload: Workload,
        found: &mut FrontEnd,
    ) -> Result<Row, Refusal> {
        let mut way = place.open(workload).refuse(ENDED)?;
        found.size = Some(way.size());
        let warm = WARM.min(self.time / 10);
        bench::run(&mut way, workload, warm, &self.guard).refuse(ENDED)?;
        let before = cost(folder)?;
        let measured = bench::run(&mut way, workload, self.time, &self.guard).refuse(ENDED)?;
        let spent = cost(folder)?.since(before);
        let at_once = usize::from(found.lanes.unwrap_or(1)).min(workload.depth);
        Ok(Row::new(workload, &measured, spent, at_once))
    }
}

/// Where the load goes.
fn place(at: &Endpoint, size: Option<u64>) -> Place {
    match at.device() {
        Some(path) => Place::Device {
            path: path.to_owned(),
            size: size.unwrap_or_default(),
        },
        None => Place::Server(at.unix_socket().unwrap_or(Path::new("")).to_owned()),
    }
}

fn cost(folder: &Folder) -> Result<Cost, Refusal> {
    attachment::cost(folder).refuse("the worker does not tell")
}

const ENDED: &str = "the load ended";

/// Show what the plugin raised first: the log goes with the disk.
fn tell_first_error(folder: &Folder) {
    let text = std::fs::read_to_string(folder.log()).unwrap_or_default();
    let head = format!(" pydisk: {}: ", folder.name());
    let error = format!("{head}error: ");
    let mut lines = text.lines();
    let Some(first) = lines.find_map(|line| Some(line.split_once(&error)?.1)) else {
        return;
    };
    let mut said = format!("the first error: {first}\n");
    // A traceback, as far as the next line with a head of its own.
    for line in lines.take_while(|line| !line.contains(&head)) {
        said += &format!("{line}\n");
    }
    logging::say(&said);
}
