//! Why something was not done: a sentence for the user, in its parts for programs.
//!
//! Every part is made presentable when it is put in, and when it comes from another process: control characters are
//! shown, and a system error has no number. Nothing that holds a [`Refusal`] looks for something in its text.

use std::fmt;
use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::escape;

/// Bad input, a missing right or something that failed: `subject: what: cause`, each where there is one, and what the
/// user can do next.
///
/// Lower case, no full stop, values in backticks. A traceback may follow below the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Refusal {
    subject: Option<String>,
    what: Option<String>,
    cause: Option<Cause>,
    hint: Option<String>,
    kind: Kind,
}

/// What sort of refusal it is, for programs and for exit statuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line makes no sense.
    Usage,
    /// The plugin's code is wrong, or raised an exception.
    Plugin,
    /// A call of the system failed; the cause tells which way.
    System,
    /// Anything else, also what only a newer pydisk tells apart.
    #[default]
    #[serde(other)]
    Other,
}

/// Why it failed, as whoever failed says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    words: String,
    errno: Option<i32>,
}

impl Refusal {
    /// A refusal that is about nothing in particular.
    pub fn new(what: impl fmt::Display) -> Self {
        Self {
            subject: None,
            what: part(&what),
            cause: None,
            hint: None,
            kind: Kind::Other,
        }
    }

    /// What is wrong with `subject`: an option, a file, an attachment.
    pub fn about(subject: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self {
            subject: part(&subject),
            ..Self::new(what)
        }
    }

    /// The command line makes no sense.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(what).of_kind(Kind::Usage)
    }

    /// Something failed with `subject`.
    pub fn caused(subject: impl fmt::Display, cause: impl Into<Cause>) -> Self {
        let cause = cause.into();
        Self {
            kind: if cause.errno.is_some() {
                Kind::System
            } else {
                Kind::Other
            },
            cause: Some(cause),
            ..Self::about(subject, "")
        }
    }

    /// The same, of another kind.
    #[must_use]
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Add which step it was that failed.
    #[must_use]
    pub fn during(self, step: impl fmt::Display) -> Self {
        Self {
            what: part(&step),
            ..self
        }
    }

    /// Add what it is part of, in front of what it is about already.
    #[must_use]
    pub fn within(self, subject: impl fmt::Display) -> Self {
        let what = [self.subject, self.what].into_iter().flatten();
        let what: Vec<_> = what.collect();
        Self {
            subject: part(&subject),
            what: part(&what.join(": ")),
            ..self
        }
    }

    /// Add what the user can do next; shown on a line of its own after `hint:`.
    #[must_use]
    pub fn hint(self, hint: impl fmt::Display) -> Self {
        Self {
            hint: part(&hint),
            ..self
        }
    }

    /// What the user can do next, if anything is known.
    #[must_use]
    pub fn hinted(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What sort it is of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence and its hint on one line, where there is no more room; `between` stands between the two.
    #[must_use]
    pub fn with_hint_after(&self, between: &str) -> String {
        match &self.hint {
            Some(hint) => format!("{}{between}{hint}", self.sentence()),
            None => self.sentence().to_string(),
        }
    }

    /// Without the hint.
    fn sentence(&self) -> Sentence<'_> {
        Sentence(self)
    }
}

/// A part that is there, presentable.
fn part(text: &dyn fmt::Display) -> Option<String> {
    presentable(&text.to_string())
}

fn presentable(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    Some(escape::lines(text).into_owned())
}

struct Sentence<'a>(&'a Refusal);

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal {
            subject,
            what,
            cause,
            ..
        } = self.0;
        let cause = cause.as_ref().map(|cause| &cause.words);
        let parts = [subject.as_ref(), what.as_ref(), cause];
        let mut between = "";
        for part in parts.into_iter().flatten() {
            write!(f, "{between}{part}")?;
            between = ": ";
        }
        Ok(())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_hint_after("\nhint: "))
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.cause.as_ref()?)
    }
}

impl Cause {
    /// What somebody says who has no number for it.
    pub fn said(words: impl fmt::Display) -> Self {
        Self {
            words: escape::lines(&words.to_string()).into_owned(),
            errno: None,
        }
    }

    /// What somebody says who may have a number for it.
    #[must_use]
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.into();
        }
        match error.downcast_ref::<Errno>() {
            Some(errno) => (*errno).into(),
            None => Self::said(error),
        }
    }

    /// The system's number for it, if it was a call of the system.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Cause {}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Self {
        of_system(error)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        of_system(&error)
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        of_system(&errno.into())
    }
}

impl From<nix::Error> for Cause {
    fn from(error: nix::Error) -> Self {
        Self {
            errno: Some(error as i32),
            ..Self::said(error)
        }
    }
}

impl From<String> for Cause {
    fn from(words: String) -> Self {
        Self::said(words)
    }
}

impl From<&str> for Cause {
    fn from(words: &str) -> Self {
        Self::said(words)
    }
}

/// What is said of an error, without the ` (os error 2)` that Rust puts behind the words of every system error.
pub(crate) fn words(error: impl Into<Cause>) -> String {
    error.into().words
}

fn of_system(error: &io::Error) -> Cause {
    // One that another one was made of as it is.
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return of_system(inner);
    }
    let errno = error.raw_os_error();
    let said = error.to_string();
    let words = errno.and_then(|errno| said.strip_suffix(&format!(" (os error {errno})")));
    Cause {
        errno,
        ..Cause::said(words.unwrap_or(&said))
    }
}

/// Errors that become a [`Refusal`] when it is said what they are about.
pub trait ResultExt<T> {
    /// `subject: cause`.
    ///
    /// # Errors
    /// As the result.
    fn refuse(self, subject: impl fmt::Display) -> Result<T, Refusal>;

    /// `subject: step: cause`.
    ///
    /// # Errors
    /// As the result.
    fn refuse_during(
        self,
        subject: impl fmt::Display,
        step: impl fmt::Display,
    ) -> Result<T, Refusal>;
}

impl<T, E: Into<Cause>> ResultExt<T> for Result<T, E> {
    fn refuse(self, subject: impl fmt::Display) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::caused(subject, error))
    }

    fn refuse_during(
        self,
        subject: impl fmt::Display,
        step: impl fmt::Display,
    ) -> Result<T, Refusal> {
        self.map_err(|error| Refusal::caused(subject, error).during(step))
    }
}

/// As it stands in a message.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    /// By an older pydisk, whose hint stands in the text.
    Sentence(String),
    Parts {
        subject: Option<String>,
        what: Option<String>,
        cause: Option<Cause>,
        hint: Option<String>,
        #[serde(default)]
        kind: Kind,
    },
}

impl From<Written> for Refusal {
    fn from(written: Written) -> Self {
        match written {
            Written::Sentence(text) => Self::new(text),
            Written::Parts {
                subject,
                what,
                cause,
                hint,
                kind,
            } => Self {
                subject: subject.as_deref().and_then(presentable),
                what: what.as_deref().and_then(presentable),
                cause: cause.map(|cause| Cause {
                    errno: cause.errno,
                    ..Cause::said(cause.words)
                }),
                hint: hint.as_deref().and_then(presentable),
                kind,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn missing() -> io::Error {
        io::Error::from_raw_os_error(2)
    }

    fn passed_on(refusal: &Refusal) -> Refusal {
        serde_json::from_str(&serde_json::to_string(refusal).unwrap()).unwrap()
    }

    #[test]
    fn the_sentence_is_made_of_the_parts_that_there_are() {
        let failed = || Err::<(), _>(missing());
        for (refusal, sentence) in [
            (Refusal::new("no"), "no"),
            (
                Refusal::about("`a`", "no").hint("yes"),
                "`a`: no\nhint: yes",
            ),
            (
                failed().refuse("`a`").unwrap_err(),
                "`a`: No such file or directory",
            ),
            (
                failed().refuse_during("`a`", "unmount").unwrap_err(),
                "`a`: unmount: No such file or directory",
            ),
            (
                failed().refuse("").unwrap_err().within("x"),
                "x: No such file or directory",
            ),
            (
                Refusal::about("`a`", "no").hint("yes").within("x"),
                "x: `a`: no\nhint: yes",
            ),
        ] {
            assert_eq!(refusal.to_string(), sentence);
            assert_eq!(passed_on(&refusal), refusal);
        }
        let hinted = Refusal::new("no").hint("yes");
        assert_eq!(hinted.with_hint_after("; "), "no; yes");
    }

    #[test]
    fn a_system_error_keeps_its_number_beside_the_words() {
        for error in [missing(), io::Error::other(missing())] {
            let refusal = passed_on(&Refusal::caused("`a`", error));
            let cause = refusal.source().unwrap().downcast_ref::<Cause>().unwrap();
            assert_eq!(cause.errno(), Some(2));
            assert_eq!(cause.to_string(), "No such file or directory");
            assert_eq!(refusal.kind(), Kind::System);
        }
        let refusal = Refusal::caused("`a`", io::Error::other("odd (os error 2)"));
        assert_eq!(refusal.to_string(), "`a`: odd (os error 2)");
        assert_eq!(refusal.kind(), Kind::Other);
    }

    #[test]
    fn every_part_is_presentable_also_where_another_process_says_it() {
        let refusal = Refusal::about("a\x1b", "b\x07").hint("c\r");
        let shown = "a\\u{1b}: b\\u{7}\nhint: c\\r";
        assert_eq!(refusal.to_string(), shown);
        let said = r#"{"subject": "a\u001b", "what": "b\u0007", "hint": "c\r",
            "cause": {"words": "\u009b", "errno": null}, "kind": "a new one"}"#;
        let said: Refusal = serde_json::from_str(said).unwrap();
        assert_eq!(said.to_string(), "a\\u{1b}: b\\u{7}: \\u{9b}\nhint: c\\r");
        assert_eq!(said.kind(), Kind::Other);
    }

    #[test]
    fn an_older_process_says_one_text() {
        let said: Refusal = serde_json::from_str(r#""a: no\u001b\nhint: yes""#).unwrap();
        assert_eq!(said.to_string(), "a: no\\u{1b}\nhint: yes");
    }
}
