//! What the check found, for people: what is wrong by callback, what is only worth knowing, and how
//! much was tried.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::watch::Doing;
use crate::disk::Error;

/// Collects what a check finds. Several threads may add to it.
#[derive(Debug, Default)]
pub struct Report {
    /// Held only while looked at.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    troubles: Vec<Trouble>,
    notes: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose fault it is.
    pub callback: String,
    /// What is wrong, as the end of a sentence; a traceback may follow below it.
    pub text: String,
    /// How often it happened.
    pub times: u64,
    /// What makes it the same trouble.
    key: String,
}

impl Report {
    /// Something is wrong. What has the same callback and key is the same trouble once more.
    pub fn problem(&self, callback: &str, key: impl Into<String>, text: impl Into<String>) {
        let key = key.into();
        let mut inner = self.inner.lock();
        let known = inner
            .troubles
            .iter_mut()
            .find(|known| known.callback == callback && known.key == key);
        if let Some(known) = known {
            known.times += 1;
            return;
        }
        inner.troubles.push(Trouble {
            callback: callback.to_owned(),
            text: text.into(),
            times: 1,
            key,
        });
    }

    /// A request failed.
    pub(super) fn failure(&self, doing: Doing, error: &Error) {
        let text = error.to_string();
        let mark = format!(": {}: ", doing.callback);
        let cause = text.split_once(&mark).map_or(&*text, |(_, cause)| cause);
        let key = cause.lines().next().unwrap_or_default();
        self.problem(doing.callback, key, format!("{}: {cause}", doing.what()));
    }

    /// Something is worth knowing.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut inner = self.inner.lock();
        if !inner.notes.contains(&text) {
            inner.notes.push(text);
        }
    }

    pub(super) fn count(&self, callback: &'static str) {
        *self.inner.lock().counts.entry(callback).or_default() += 1;
    }

    /// Everything that is wrong, in the order in which it was found.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        self.inner.lock().troubles.clone()
    }

    /// What is worth knowing.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        self.inner.lock().notes.clone()
    }

    /// How often each callback was called.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let inner = self.inner.lock();
        inner
            .counts
            .iter()
            .map(|(name, count)| (*name, *count))
            .collect()
    }
}
