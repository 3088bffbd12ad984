//! What a plugin's docstring says of it: a sentence, and its parameters.
//!
//! Everything that ships has a part `Parameters:` there, in which the lines that are set in least begin a
//! parameter, and those that are set in more go on with it.

use pyo3::prelude::*;

use super::script::Script;

/// The head of the part about parameters.
const HEAD: &str = "parameters:";

/// As facts of `pydisk info`: `description`, and a `parameter` for each.
pub(super) fn facts(py: Python<'_>, script: &Script) -> Vec<(String, String)> {
    let Some(text) = script.docstring(py) else {
        return Vec::new();
    };
    let described = text.lines().map(str::trim).find(|line| !line.is_empty());
    let described = described.map(|line| ("description".to_owned(), line.to_owned()));
    let parameters = parameters(&text)
        .into_iter()
        .map(|said| ("parameter".to_owned(), said));
    described.into_iter().chain(parameters).collect()
}

/// Each parameter in one line.
fn parameters(text: &str) -> Vec<String> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines();
    let Some(head) = lines.find(|line| line.trim().eq_ignore_ascii_case(HEAD)) else {
        return Vec::new();
    };
    let mut said: Vec<String> = Vec::new();
    let mut least = None;
    for line in lines.take_while(|line| line.trim().is_empty() || depth(line) > depth(head)) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let goes_on = depth(line) > *least.get_or_insert(depth(line));
        match said.last_mut().filter(|_| goes_on) {
            Some(last) => {
                last.push(' ');
                last.push_str(&words.join(" "));
            }
            None => said.push(words.join(" ")),
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_a_line() {
        let text = "A disk.\n\nParameters:\n    size=SIZE   how big\n                it is\n\n    \
                    mode=off    nothing\n\nMore of it.\n    x=1\n";
        assert_eq!(
            parameters(text),
            ["size=SIZE how big it is", "mode=off nothing"]
        );
        assert_eq!(
            parameters("A disk.\n  PARAMETERS:\n      a=1\n  b=2"),
            ["a=1"]
        );
        for none in ["", "A disk.", "Parameters:", "Parameters:\nsize=1"] {
            assert!(parameters(none).is_empty(), "{none}");
        }
    }
}
