//! What an attachment does that may take long.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that is waited for, in the order of an attachment's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The script runs once, with all that it imports.
    Load,
    /// The user is asked for a password, and needs no word about that.
    Password,
    /// The callbacks that follow, up to the one that opens the disk.
    Config,
    /// See [`Step::Config`].
    GetReady,
    /// See [`Step::Config`].
    AfterFork,
    /// See [`Step::Config`].
    Open,
    /// The front end is being started, and reads.
    FirstRead,
    /// Those who use the disk are looked for, and what they have written is stored.
    Users,
    /// Requests that the plugin still has.
    Requests,
    /// The callbacks at the end of a disk.
    Flush,
    /// See [`Step::Flush`].
    Close,
    /// See [`Step::Flush`].
    Cleanup,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "the script to be loaded",
            Self::Password => "an answer at the terminal",
            Self::Config => "`config`",
            Self::GetReady => "`get_ready`",
            Self::AfterFork => "`after_fork`",
            Self::Open => "`open`",
            Self::FirstRead => "the first read",
            Self::Users => "what lies on the disk",
            Self::Requests => "requests under way",
            Self::Flush => "the last `flush`",
            Self::Close => "`close`",
            Self::Cleanup => "`cleanup`",
        })
    }
}

impl Step {
    /// What `config` waits for: `read_password` asks the user where a value is `-`.
    #[must_use]
    pub fn of_config(parameters: &[(String, String)]) -> Self {
        if parameters.iter().any(|(_, value)| value == "-") {
            return Self::Password;
        }
        Self::Config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_asked_for_where_a_value_is_a_dash() {
        let given = |value: &str| [("password".to_owned(), value.to_owned())];
        assert_eq!(Step::of_config(&given("-")), Step::Password);
        assert_eq!(Step::of_config(&given("-1")), Step::Config);
    }
}
