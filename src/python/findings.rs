//! What a plugin's author should know although the plugin runs: said once, and kept for
//! `pydisk check`.

use std::fmt;

use parking_lot::Mutex;

/// A likely mistake, with its place in the script.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// In the script; none if it is not known.
    pub line: Option<u32>,
    /// The callback, or another name in the script.
    pub name: String,
    /// What is wrong with it, as the end of a sentence.
    pub text: String,
}

/// Findings that are kept and said at most: some show a value, which may be another one each time.
const MOST: usize = 200;

/// The findings about one script.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// In the order they were made, each once; held only while looked at.
    list: Mutex<Vec<Finding>>,
}

impl Findings {
    /// Keep a finding and warn of it, unless that was done before.
    pub(super) fn add(&self, script: &str, finding: Finding) {
        let said = finding.at(script).to_string();
        let mut list = self.list.lock();
        if list.len() >= MOST || list.contains(&finding) {
            return;
        }
        list.push(finding);
        drop(list);
        log::warn!("{said}");
    }

    pub(super) fn list(&self) -> Vec<Finding> {
        self.list.lock().clone()
    }
}

impl Finding {
    /// `disk.py:12: can_trim: returns 1`, as editors understand it.
    #[must_use]
    pub fn at(&self, script: &str) -> impl fmt::Display {
        let Self { line, name, text } = self;
        match line {
            Some(line) => format!("{script}:{line}: {name}: {text}"),
            None => format!("{script}: {name}: {text}"),
        }
    }
}
