//! How whoever started a server is told where it is: in pydisk's words, or in nbdkit's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::frontends::Endpoint;
use crate::frontends::nbd::Address;

/// How whoever started a server is told where it is. Everybody else is told in pydisk's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spelling {
    /// As pydisk says it everywhere.
    Own,
    /// As nbdkit does.
    Nbdkit {
        /// The folder of certificates as it was given, if it was.
        certificates: Option<PathBuf>,
    },
}

impl Spelling {
    /// The URI of a server, or the path of a device.
    pub(crate) fn place(&self, at: &Endpoint) -> String {
        let Self::Nbdkit { certificates } = self else {
            return at.to_string();
        };
        match at.to_string().parse::<Address>() {
            Ok(address) => address.as_nbdkit_spells_it(certificates.as_deref()),
            Err(_other) => at.to_string(),
        }
    }

    /// What is printed to tell it.
    pub(crate) fn printed(&self, at: &Endpoint) -> String {
        let place = self.place(at);
        match self {
            Self::Own => format!("{place}\n"),
            Self::Nbdkit { .. } => {
                let quoted = quoted(&place);
                format!(
                    "{place}\nShell-quoted URI: {quoted}\n\
                     Command to query the NBD endpoint:\n  nbdinfo {quoted}\n"
                )
            }
        }
    }

    /// What the user's command finds the certificates by, where pydisk's own word does not count.
    pub(crate) fn certificates(&self) -> Option<&Path> {
        match self {
            Self::Own => None,
            Self::Nbdkit { certificates } => Some(certificates.as_deref().unwrap_or(Path::new(""))),
        }
    }
}

/// As a word for a shell. A URI has nothing in it that means something between double quotes.
fn quoted(uri: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-._=,:/".contains(char);
    match uri.chars().all(plain) {
        true => uri.to_owned(),
        false => format!("\"{uri}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_a_shell_would_read_more_in_it() {
        for (uri, word) in [
            ("nbd://localhost:10809", "nbd://localhost:10809"),
            ("nbd+unix://?socket=/s", "\"nbd+unix://?socket=/s\""),
            ("nbd://localhost:7/x%20y", "\"nbd://localhost:7/x%20y\""),
        ] {
            assert_eq!(quoted(uri), word);
        }
    }
}
