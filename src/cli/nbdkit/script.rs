//! Which script a command line of nbdkit's means, and with which parameters.

use std::path::{Path, PathBuf};

use super::listed;
use crate::Refusal;
use crate::cli::{plugin, words};

/// Parameters that the plugins which ship with pydisk take without their key, as those of nbdkit that
/// have the same name do.
const MAGIC_KEYS: [(&str, &str); 2] = [("file", "file"), ("memory", "size")];

/// A plugin as nbdkit names it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// `python`: the script is its first parameter.
    Python,
    /// A script of its own.
    Script {
        /// What it is called.
        name: String,
        /// Where it is.
        path: PathBuf,
    },
}

impl Named {
    /// What `word` names.
    ///
    /// # Errors
    /// One sentence: pydisk has no such plugin.
    pub(super) fn find(word: &str) -> Result<Self, Refusal> {
        let name = short(word);
        if name == "python" {
            return Ok(Self::Python);
        }
        // As in nbdkit, a word with a slash or a dot is a path.
        if name == word && !word.contains(['/', '.']) {
            return match plugin::find_shipped(word) {
                Some(path) => Ok(Self::Script {
                    name: word.to_owned(),
                    path,
                }),
                None => Err(Refusal::about(
                    format_args!("plugin `{word}`"),
                    "pydisk runs Python plugins, and has none of this name",
                )
                .hint(format!(
                    "use `nbdkit python SCRIPT`, or a plugin that ships with pydisk ({})",
                    plugin::known()
                ))),
            };
        }
        if name != word || Path::new(word).extension().is_some_and(|kind| kind == "so") {
            return Err(Refusal::about(
                format_args!("plugin `{word}`"),
                "this is a compiled plugin of nbdkit, and pydisk runs Python plugins",
            )
            .hint("use `nbdkit python SCRIPT`"));
        }
        Ok(Self::Script {
            name: word.to_owned(),
            path: plugin::script(Path::new(word))?,
        })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Python => "python",
            Self::Script { name, .. } => name,
        }
    }

    /// The key of a parameter without one.
    pub(super) fn magic_key(&self) -> Option<&'static str> {
        let find = |(plugin, key): &(&str, &'static str)| (*plugin == self.name()).then_some(*key);
        MAGIC_KEYS.iter().find_map(find)
    }
}

/// The name in the path of one of nbdkit's own plugins, which some scripts write out.
fn short(word: &str) -> &str {
    let file = word.rsplit('/').next().unwrap_or(word);
    file.strip_prefix("nbdkit-")
        .and_then(|rest| rest.strip_suffix("-plugin.so"))
        .unwrap_or(word)
}

/// A script and what to configure it with.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) script: PathBuf,
    pub(super) parameters: Vec<(String, String)>,
}

/// Take the words behind the plugin apart. None if `python` got none at all.
///
/// # Errors
/// One sentence: there is no script, or a word is no parameter.
pub(super) fn configure(named: &Named, given: &[String]) -> Result<Option<Configured>, Refusal> {
    let given = listed::expanded(given)?;
    let mut parameters = given
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let bare = || {
                let key = match named {
                    Named::Python => (index == 0).then_some("script"),
                    Named::Script { .. } => named.magic_key(),
                };
                Some((key?.to_owned(), word.clone()))
            };
            words::parameter(word).or_else(bare).ok_or_else(|| {
                Refusal::about("expecting key=value on the command line but got", word)
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let script = match named {
        Named::Script { path, .. } => path.clone(),
        Named::Python if parameters.is_empty() => return Ok(None),
        Named::Python => {
            let (key, path) = parameters.remove(0);
            if key != "script" {
                return Err(Refusal::new(
                    "the first parameter must be script=/path/to/python/script.py",
                ));
            }
            plugin::script(Path::new(&path))?
        }
    };
    Ok(Some(Configured { script, parameters }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(named: &Named, given: &[&str]) -> Result<Option<Configured>, Refusal> {
        let given: Vec<String> = given.iter().map(|word| (*word).to_owned()).collect();
        configure(named, &given)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn python_is_known_by_its_name_and_its_path() {
        for word in [
            "python",
            "/usr/lib64/nbdkit/plugins/nbdkit-python-plugin.so",
        ] {
            assert_eq!(Named::find(word), Ok(Named::Python));
        }
        for (word, what) in [
            ("curl", "has none of this name"),
            ("/usr/lib/nbdkit-curl-plugin.so", "compiled plugin"),
            ("./curl.so", "compiled plugin"),
            ("./nosuch", "No such file"),
        ] {
            let refusal = Named::find(word).unwrap_err().to_string();
            assert!(refusal.contains(&format!("plugin `{word}`")), "{refusal}");
            assert!(refusal.contains(what), "{refusal}");
        }
    }

    #[test]
    fn the_script_is_the_first_parameter_with_or_without_its_key() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x.py");
        std::fs::write(&path, "").unwrap();
        let path = path.to_str().unwrap();
        for first in [path.to_owned(), format!("script={path}")] {
            let found = configured(&Named::Python, &[&first, "a=", "a.B-c_1=x=y"]).unwrap();
            let found = found.unwrap();
            assert_eq!(found.script, Path::new(path));
            assert_eq!(found.parameters, pairs(&[("a", ""), ("a.B-c_1", "x=y")]));
        }
        assert!(configured(&Named::Python, &[]).unwrap().is_none());
        for (given, what) in [
            (
                &[path, "bare"][..],
                "expecting key=value on the command line but got: bare",
            ),
            (&[path, "1=x"], "but got: 1=x"),
            (&["a=b", path], "but got: /"),
            (&["a=b"], "the first parameter must be script="),
            (&["/no/such.py"], "No such file"),
        ] {
            let refusal = configured(&Named::Python, given).unwrap_err().to_string();
            assert!(refusal.contains(what), "{refusal}");
        }
    }

    #[test]
    fn plugins_that_ship_take_a_word_for_their_key() {
        let memory = Named::find("memory").unwrap();
        let found = configured(&memory, &["1G", "x=y"]).unwrap().unwrap();
        assert_eq!(found.parameters, pairs(&[("size", "1G"), ("x", "y")]));
    }
}
