//! `pydisk detach`: remove devices, by their agents or without, in the order in which they lie on each
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use super::complain;
use super::list::{self, Entry};
use crate::agent;
use crate::attachment::{Answer, Ask, Folder, Root, Step, patience};
use crate::interrupt;
use crate::progress::Progress;
use crate::{Refusal, logging};

/// How it is done, and what is said of it.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// Whatever its users and the plugin do.
    pub(super) force: bool,
    /// Nothing is said but errors.
    pub(super) quiet: bool,
    /// What became of each is told to a program.
    pub(super) json: bool,
}

/// What became of one of them.
struct Ended {
    detached: bool,
    /// Whether everything was; nobody knows yet where it was not detached.
    stored: Option<bool>,
    /// What went wrong, as it was said.
    refusals: Vec<Refusal>,
}

pub(super) fn detach(which: &[String], all: bool, manner: Manner) -> Result<ExitCode, Refusal> {
    let found: Vec<Result<Entry, Refusal>> = if all {
        list::entries()?.into_iter().map(Ok).collect()
    } else {
        which
            .iter()
            .map(|which| list::find(list::entries()?, which))
            .collect()
    };
    let under_way = Arc::new(UnderWay::default());
    let _interrupted = interrupt::told({
        let under_way = Arc::clone(&under_way);
        move || under_way.interrupted()
    });
    let mut code = ExitCode::SUCCESS;
    let (mut entries, mut folders): (Vec<Entry>, Vec<Folder>) = Default::default();
    for entry in found {
        match entry {
            // A disk may be named by its name and by its device.
            Ok(entry) if folders.contains(&entry.folder) => {}
            Ok(entry) => {
                folders.push(entry.folder.clone());
                entries.push(entry);
            }
            Err(refusal) => {
                complain(&refusal);
                code = ExitCode::FAILURE;
            }
        }
    }
    let names = all && !manner.quiet && !manner.json;
    let ended = each(&folders, manner, names, &under_way);
    if manner.json {
        let all: Vec<_> = entries.iter().zip(&ended).map(as_json).collect();
        logging::print_json(&all)?;
    }
    if ended.iter().any(|ended| ended.stored != Some(true)) {
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

fn as_json((entry, ended): (&Entry, &Ended)) -> serde_json::Value {
    let known = entry.json();
    json!({
        "name": known["name"],
        "device": known["device"],
        "uri": known["uri"],
        "detached": ended.detached,
        "stored": ended.stored,
        "refusals": ended.refusals,
    })
}

/// Detach all of these at the same time, but a disk that lies on another one before that. The names of
/// those that are gone are printed as they go, if they are to be.
fn each(folders: &[Folder], manner: Manner, names: bool, told_of: &UnderWay) -> Vec<Ended> {
    let mut lying = match folders {
        [] | [_] => vec![BTreeSet::new(); folders.len()],
        _ => agent::lying_on_each(folders),
    };
    let mut waiting: BTreeSet<usize> = (0..folders.len()).collect();
    let (tell, told) = mpsc::channel();
    let mut under_way = 0_usize;
    let mut all: Vec<(usize, Ended)> = Vec::new();
    thread::scope(|scope| {
        while !waiting.is_empty() || under_way > 0 {
            for number in next(&waiting, &lying, under_way) {
                waiting.remove(&number);
                under_way += 1;
                let (tell, folder) = (tell.clone(), &folders[number]);
                scope.spawn(move || {
                    let ended = said(one(folder, manner, told_of));
                    tell.send((number, ended)).unwrap_or_default();
                });
            }
            let (number, ended) = told.recv().expect("this thread holds a sender");
            under_way -= 1;
            if names
                && ended.detached
                && let Err(refusal) = logging::print(&format!("{}\n", folders[number].name()))
            {
                complain(&refusal);
            }
            all.push((number, ended));
            lying.iter_mut().for_each(|above| {
                above.remove(&number);
            });
        }
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, ended)| ended).collect()
}

/// Those on which nothing lies any more. Disks that lie on each other have no order: then it is all.
fn next(waiting: &BTreeSet<usize>, lying: &[BTreeSet<usize>], under_way: usize) -> Vec<usize> {
    let free = |number: &&usize| lying[**number].is_empty();
    let found: Vec<usize> = waiting.iter().filter(free).copied().collect();
    if found.is_empty() && under_way == 0 {
        return waiting.iter().copied().collect();
    }
    found
}

/// Tell the user what went wrong with one of them.
fn said(done: Result<Vec<Refusal>, Refusal>) -> Ended {
    match done {
        Ok(unstored) => {
            unstored.iter().for_each(complain);
            Ended {
                detached: true,
                stored: Some(unstored.is_empty()),
                refusals: unstored,
            }
        }
        Err(refusal) => {
            complain(&refusal);
            Ended {
                detached: false,
                stored: None,
                refusals: vec![refusal],
            }
        }
    }
}

/// What the disks wait for that are being detached, by their names.
#[derive(Debug, Default)]
struct UnderWay(Mutex<BTreeMap<String, Arc<Progress>>>);

impl UnderWay {
    /// Tell the user of what takes long at the end of `name`, until the [`Progress`] is forgotten.
    fn begins(&self, name: &str, manner: Manner) -> Arc<Progress> {
        let hint = match manner.force {
            true => String::new(),
            false => format!("; `pydisk detach --force {name}` does not wait"),
        };
        let progress = Arc::new(Progress::told(name, manner.quiet, Step::Users, hint));
        let kept = Arc::clone(&progress);
        self.0.lock().insert(name.to_owned(), kept);
        progress
    }

    fn ends(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// What becomes of them without this process.
    fn interrupted(&self) -> String {
        let told = |(name, progress): (&String, &Arc<Progress>)| match progress.step() {
            Step::Users => format!(
                "pydisk: {name}: interrupted; it is detached all the same, unless it is in use\n"
            ),
            step => format!(
                "pydisk: {name}: interrupted; it goes on ending, and waits for {step}; `pydisk detach \
                 --force {name}` does not wait\n"
            ),
        };
        self.0.lock().iter().map(told).collect()
    }
}

/// Detach one of them, and give what could not be stored.
fn one(folder: &Folder, manner: Manner, under_way: &UnderWay) -> Result<Vec<Refusal>, Refusal> {
    let Manner { force, .. } = manner;
    let name = folder.name();
    let patience = if force {
        patience::ANSWER.get()
    } else {
        patience::DETACH.get() + patience::ANSWER.get()
    };
    // A plugin may flush for long, or hang: the user learns what is waited for.
    let progress = under_way.begins(&name, manner);
    let doing = |step| progress.goes_on(step);
    let answer = agent::ask(folder, Ask::Detach { force }, patience, doing);
    under_way.ends(&name);
    drop(progress);
    match answer {
        Ok(Answer::Done(None) | Answer::Doing(_)) => Ok(Vec::new()),
        Ok(Answer::Done(Some(told))) => {
            complain(&told.into());
            Ok(Vec::new())
        }
        Ok(Answer::Unstored(all)) => Ok(all.into_iter().map(Refusal::from).collect()),
        Ok(Answer::Refused(told)) => Err(told.into()),
        // It ended while it was asked: by a signal, or because somebody else detached.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => gone(folder, force),
        Err(error) if error.kind() == io::ErrorKind::TimedOut && !force => {
            Err(Refusal::about(&name, "its agent does not answer")
                .hint(format!("`pydisk detach --force {name}` ends it")))
        }
        // There is none, or it does not answer.
        Err(error) => {
            log::debug!("{name}: agent: {error}");
            without_agent(folder, force)
        }
    }
}

fn without_agent(folder: &Folder, force: bool) -> Result<Vec<Refusal>, Refusal> {
    let unstored = agent::detach_without_agent(folder, force)?;
    let lost = gone(folder, force)?;
    Ok(if unstored.is_empty() { lost } else { unstored })
}

/// Wait until the folder is gone, and help where nobody else is left to; gives what is lost of an attachment that
/// had crashed.
fn gone(folder: &Folder, force: bool) -> Result<Vec<Refusal>, Refusal> {
    let roots = Root::all()?;
    let patience = Instant::now() + patience::GONE.get();
    let (mut lost, mut failed) = (Vec::new(), None);
    loop {
        // What is lost is told of before all of it is gone.
        match agent::clear(folder, force) {
            Ok(found) => lost.extend(found),
            Err(refusal) => failed = Some(refusal),
        }
        roots.iter().try_for_each(agent::sweep)?;
        if !folder.path().exists() {
            return Ok(lost);
        }
        if Instant::now() >= patience {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    if let Some(refusal) = failed {
        return Err(refusal);
    }
    let refusal = Refusal::about(folder.name(), "it is not gone yet");
    Err(if force {
        refusal
    } else {
        refusal.hint("try again, or use --force")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_a_disk_goes_before_it_and_the_rest_at_once() {
        let mut lying = vec![BTreeSet::from([1, 2]), BTreeSet::from([2]), BTreeSet::new()];
        lying.push(BTreeSet::new());
        let waiting = BTreeSet::from([0, 1, 2, 3]);
        assert_eq!(next(&waiting, &lying, 0), [2, 3]);
        assert_eq!(next(&BTreeSet::from([0, 1]), &lying, 1), [0_usize; 0]);
        lying[1].clear();
        assert_eq!(next(&BTreeSet::from([0, 1]), &lying, 1), [1]);
    }

    #[test]
    fn a_program_is_told_what_went_wrong_in_its_parts() {
        let refused = said(Err(Refusal::about("x", "it is in use").hint("end it")));
        let told = serde_json::to_value(&refused.refusals).unwrap();
        let expected = json!([{
            "subject": "x", "what": "it is in use", "cause": null, "hint": "end it", "kind": "other",
        }]);
        assert_eq!((told, refused.stored), (expected, None));
        let unstored = said(Ok(vec![Refusal::about("x", "it is lost")]));
        assert_eq!((unstored.refusals.len(), unstored.stored), (1, Some(false)));
    }

    #[test]
    fn disks_that_lie_on_each_other_go_all_the_same() {
        let lying = [BTreeSet::from([1]), BTreeSet::from([0])];
        let both = BTreeSet::from([0, 1]);
        assert_eq!(next(&both, &lying, 1), [0_usize; 0]);
        assert_eq!(next(&both, &lying, 0), [0, 1]);
    }
}
