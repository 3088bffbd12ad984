//! The words behind the plugin: a target, perhaps, and parameters, in any order.

use crate::escape;

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The word that is no parameter.
    pub(super) target: Option<String>,
    /// In the order they were given; a key may come more than once.
    pub(super) parameters: Vec<(String, String)>,
}

/// Take the words apart.
///
/// # Errors
/// A sentence, if a second word is no `KEY=VALUE`, or one looks like that and is none.
pub(super) fn parse(words: &[String]) -> Result<Words, String> {
    let mut target: Option<String> = None;
    let mut parameters = Vec::new();
    for word in words {
        if let Some(parameter) = parameter(word) {
            parameters.push(parameter);
        } else if is_likely_parameter(word) {
            let word = escape::one_line(word);
            return Err(format!("`{word}`: {KEYS}; `./{word}` is a file"));
        } else if let Some(target) = &target {
            let (word, target) = (escape::one_line(word), escape::one_line(target));
            return Err(format!(
                "`{word}`: KEY=VALUE is expected here, for `{target}` is the target already; {KEYS}"
            ));
        } else {
            target = Some(word.clone());
        }
    }
    Ok(Words { target, parameters })
}

const KEYS: &str = "KEY begins with a letter and goes on with letters, digits, `.`, `_` or `-`";

/// Whether it is neither a path nor an address, and has a `=`.
fn is_likely_parameter(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(key, _)| !key.contains(['/', ':']))
}

/// Take `key=value` apart by nbdkit's rule for keys. The value may be empty and may contain `=`.
pub(super) fn parameter(word: &str) -> Option<(String, String)> {
    let (key, value) = word.split_once('=')?;
    let rest = key.strip_prefix(|first: char| first.is_ascii_alphabetic())?;
    rest.chars()
        .all(|char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-'))
        .then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Words, String> {
        parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn keys_follow_nbdkit() {
        for (word, key, value) in [
            ("size=1G", "size", "1G"),
            ("a.b_c-1=", "a.b_c-1", ""),
            ("url=http://x/?a=b", "url", "http://x/?a=b"),
        ] {
            assert_eq!(parameter(word), Some((key.into(), value.into())), "{word}");
        }
        for word in [
            "size", "=1", "1a=1", "_a=1", "/dev/x=1", "a b=1", "é=1", "./a=b",
        ] {
            assert_eq!(parameter(word), None, "{word}");
        }
    }

    #[test]
    fn the_target_stands_before_between_or_behind_the_parameters() {
        let parameters =
            [("size", "1G"), ("size", "2G")].map(|(key, value)| (key.into(), value.into()));
        for target in [
            "/dev/ublkb0",
            "./a=b",
            "/tmp/a=b",
            "nbd+unix:///?socket=x",
            "disk",
            "",
        ] {
            for words in [
                [target, "size=1G", "size=2G"],
                ["size=1G", target, "size=2G"],
                ["size=1G", "size=2G", target],
            ] {
                let found = parsed(&words).unwrap();
                assert_eq!(found.target.as_deref(), Some(target));
                assert_eq!(found.parameters, parameters);
            }
        }
        assert_eq!(parsed(&["size=1G"]).unwrap().target, None);
        assert_eq!(
            parsed(&[]).unwrap(),
            Words {
                target: None,
                parameters: Vec::new()
            }
        );
    }

    #[test]
    fn what_is_only_like_a_parameter_is_no_target() {
        for word in ["1size=1G", "=1G", "si ze=1G", "\u{e9}=1"] {
            for words in [&[word][..], &["a=1", word], &["x", word]] {
                let refused = parsed(words).unwrap_err();
                assert!(refused.contains("KEY begins with a letter"), "{refused}");
                assert!(
                    refused.contains(&format!("`./{word}` is a file")),
                    "{refused}"
                );
            }
        }
    }

    #[test]
    fn further_bare_words_are_refused() {
        for words in [
            &["x", "y"][..],
            &["x", "size=1", "y"],
            &["size=1", "x", "y"],
        ] {
            let refused = parsed(words).unwrap_err();
            assert!(
                refused.starts_with("`y`: KEY=VALUE is expected here, for `x` is"),
                "{refused}"
            );
        }
    }
}
