//! Why something was not done, said before anything was attached: one sentence for the user.

use std::fmt;

use crate::escape;

/// Bad input or a missing right, in one sentence that names what was wrong and what is accepted.
///
/// Lower case, no full stop, values in backticks. A traceback may follow below the sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    sentence: String,
    hint: Option<String>,
}

impl Refusal {
    /// A refusal without a suggestion. Control characters in it are shown, not sent to a terminal.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self {
            sentence: without_numbers(escape::lines(&sentence.into()).into_owned()),
            hint: None,
        }
    }

    /// Add what the user can do next; shown on a line of its own after `hint:`.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(escape::lines(&hint.into()).into_owned()),
            ..self
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// A sentence without the ` (os error 2)` that Rust puts behind the words of every system error. What
/// a worker says may be long: it is gone through once.
fn without_numbers(sentence: String) -> String {
    const MARK: &str = " (os error ";
    if !sentence.contains(MARK) {
        return sentence;
    }
    let (mut kept, mut rest) = (String::with_capacity(sentence.len()), &*sentence);
    while let Some((before, number)) = rest.split_once(MARK) {
        let Some((_, after)) = number.split_once(')') else {
            break;
        };
        kept.push_str(before);
        rest = after;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_system_errors_are_left_out() {
        let missing = std::io::Error::from_raw_os_error(2);
        let refusal = Refusal::new(format!("`a`: {missing}: `b`: {missing}"));
        let words = "`a`: No such file or directory: `b`: No such file or directory";
        assert_eq!(refusal.to_string(), words);
        assert_eq!(
            Refusal::new("odd (os error 2").to_string(),
            "odd (os error 2"
        );
    }

    #[test]
    fn a_long_sentence_takes_no_longer_than_it_must() {
        // As long as a message between processes may be; in quadratic time this is hours.
        let long = " (os error 5)x".repeat(1 << 20);
        assert_eq!(Refusal::new(long).to_string(), "x".repeat(1 << 20));
    }
}
