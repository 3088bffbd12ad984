//! The words behind the plugin: a target, perhaps, and parameters.

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The first word, if it is no parameter.
    pub(super) target: Option<String>,
    /// In the order they were given; a key may come more than once.
    pub(super) parameters: Vec<(String, String)>,
}

/// Take the words apart.
///
/// # Errors
/// A sentence, if a word behind the first is no `KEY=VALUE`.
pub(super) fn parse(words: &[String]) -> Result<Words, String> {
    let (target, rest) = match words {
        [first, rest @ ..] if parameter(first).is_none() => (Some(first.clone()), rest),
        _ => (None, words),
    };
    let parameters = rest
        .iter()
        .map(|word| {
            parameter(word).ok_or_else(|| {
                if target.is_none() && word.starts_with(['/', '.']) {
                    return format!("`{word}`: the target stands before the parameters");
                }
                format!(
                    "`{word}`: KEY=VALUE is expected here, where KEY begins with a letter and goes \
                     on with letters, digits, `.`, `_` or `-`"
                )
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Words { target, parameters })
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
    fn a_target_behind_parameters_is_told_its_place() {
        for target in ["/dev/loop1", "./disk.img"] {
            let refused = parsed(&["size=1G", target]).unwrap_err();
            assert!(refused.contains("before the parameters"), "{refused}");
        }
    }

    #[test]
    fn the_first_word_is_a_target_if_it_is_no_parameter() {
        let both = parsed(&["/dev/ublkb0", "size=1G", "size=2G"]).unwrap();
        assert_eq!(both.target.as_deref(), Some("/dev/ublkb0"));
        assert_eq!(both.parameters.len(), 2);
        assert_eq!(parsed(&["size=1G"]).unwrap().target, None);
        assert_eq!(
            parsed(&[]).unwrap(),
            Words {
                target: None,
                parameters: Vec::new()
            }
        );
        // A path with a `=` in it needs a slash in front of that to be one.
        assert_eq!(parsed(&["./a=b"]).unwrap().target.as_deref(), Some("./a=b"));
    }

    #[test]
    fn further_bare_words_are_refused() {
        for words in [&["x", "y"][..], &["size=1", "/dev/ublkb0"], &["x", "1a=2"]] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }
}
