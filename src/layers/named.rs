//! The layers that users put in by name, and how they spell them: `NAME[:KEY=VALUE,...]`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Sleep, delay};
use crate::Refusal;
use crate::disk::Disk;

/// All layers that can be put in by name. Help comes from here, and `docs/layers.md` has them all.
pub const ALL: &[Row] = &[delay::ROW];

/// A layer that can be put in by name.
#[derive(Debug)]
pub struct Row {
    /// What users call it.
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// The keys of its parameters.
    pub parameters: &'static [&'static str],
    /// From its parameters, of which each has one of those keys and comes once.
    pub(super) make: Make,
}

/// Makes a layer for an attachment, whose sleeps it shares.
type Make = fn(&[(String, String)], &Arc<Sleep>) -> Result<Box<dyn Layer>, Refusal>;

/// A layer of one attachment, with what all handles share of it.
pub trait Layer: fmt::Debug + Send + Sync {
    /// Put it around one handle.
    ///
    /// It may wait in `serve`, for time, for a lock or for another disk: there it is neither inside of the plugin's
    /// interpreter nor does it have the plugin's turn, whatever it does.
    fn wrap(&self, disk: Arc<dyn Disk>) -> Arc<dyn Disk>;
}

/// A layer as the user spelled it, which is right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    name: String,
    parameters: Vec<(String, String)>,
}

impl FromStr for Named {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let words = rest.split(',').filter(|_| !rest.is_empty());
        let parameters = words.map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Refusal::about(
                format_args!("`{word}`"),
                "KEY=VALUE is expected",
            )),
        });
        let named = Self {
            name: name.to_owned(),
            parameters: parameters.collect::<Result<_, _>>()?,
        };
        named.make(&Arc::default())?;
        Ok(named)
    }
}

impl Named {
    /// Make the layer for an attachment.
    ///
    /// # Errors
    /// One sentence, if there is none of this name or it has other parameters.
    pub(super) fn make(&self, sleep: &Arc<Sleep>) -> Result<Box<dyn Layer>, Refusal> {
        let row = ALL.iter().find(|row| row.name == self.name);
        let row = row.ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|row| row.name).collect();
            Refusal::new(format!("there is no layer `{}`", self.name))
                .hint(format!("give one of {}", known.join(", ")))
        })?;
        for (index, (key, _)) in self.parameters.iter().enumerate() {
            if !row.parameters.contains(&key.as_str()) {
                let refusal = Refusal::about(row.name, format_args!("it has no parameter `{key}`"));
                return Err(refusal.hint(format!("give one of {}", row.parameters.join(", "))));
            }
            if self.parameters[..index]
                .iter()
                .any(|(other, _)| other == key)
            {
                let twice = format!("{}: `{key}` is given more than once", row.name);
                return Err(Refusal::new(twice));
            }
        }
        (row.make)(&self.parameters, sleep)
    }
}

/// The layers in a few words, for the help of commands.
#[must_use]
pub fn summary() -> String {
    let rows = ALL.iter().map(|row| {
        format!(
            "{} ({}: {})",
            row.name,
            row.about,
            row.parameters.join(", ")
        )
    });
    rows.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_words_are_refused_in_one_sentence() {
        for (text, words) in [
            ("", "there is no layer ``\nhint: give one of delay"),
            (
                "dealy:read=1",
                "there is no layer `dealy`\nhint: give one of delay",
            ),
            ("delay:read", "`read`: KEY=VALUE is expected"),
            ("delay:read=1,", "``: KEY=VALUE is expected"),
            (
                "delay:raed=1",
                "delay: it has no parameter `raed`\nhint: give one of read, write",
            ),
            (
                "delay:read=1,read=2",
                "delay: `read` is given more than once",
            ),
            (
                "delay:read=soon",
                "read `soon`: not a number with a unit\nhint: give a delay such as",
            ),
            (
                "delay",
                "delay: no delay is given\nhint: give one of read, write",
            ),
        ] {
            let refusal = text.parse::<Named>().unwrap_err().to_string();
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn every_layer_and_its_parameters_are_documented() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/layers.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        for row in ALL {
            assert!(docs.contains(&format!("## {}\n", row.name)), "{}", row.name);
            for key in row.parameters {
                assert!(
                    docs.contains(&format!("| `{key}` |")),
                    "{}: {key}",
                    row.name
                );
            }
        }
    }
}
