//! Why something was not done, said before anything was attached: one sentence for the user.

use std::fmt;

/// Bad input or a missing right, in one sentence that names what was wrong and what is accepted.
///
/// Lower case, no full stop, values in backticks. A traceback may follow below the sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    sentence: String,
    hint: Option<String>,
}

impl Refusal {
    /// A refusal without a suggestion.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self {
            sentence: without_numbers(sentence.into()),
            hint: None,
        }
    }

    /// Add what the user can do next; shown on a line of its own after `hint:`.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
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

/// A sentence without the ` (os error 2)` that Rust puts behind the words of every system error.
fn without_numbers(mut sentence: String) -> String {
    const MARK: &str = " (os error ";
    while let Some(start) = sentence.find(MARK) {
        let number = start + MARK.len();
        let Some(end) = sentence[number..].find(')') else {
            break;
        };
        sentence.replace_range(start..=number + end, "");
    }
    sentence
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
}
