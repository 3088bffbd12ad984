//! Why a conversation ended.

use std::fmt;
use std::io;

use crate::refusal::words;

/// Why a conversation ended; for the log, and for tests.
#[derive(Debug)]
pub(super) enum End {
    /// The client said that it was done.
    Disconnected,
    /// The stream ended.
    Vanished,
    /// The client said something that cannot be answered or followed.
    Broken(&'static str),
    /// The client was not let in, or its export could not be opened and there was no way to say so.
    Refused(String),
    /// A fault of ours: something panicked.
    Panicked,
    /// The connection failed, or the client took too long to negotiate.
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Vanished;
        }
        Self::Failed(error)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("disconnected"),
            Self::Vanished => f.write_str("went away without a word"),
            Self::Broken(what) => write!(f, "broke the protocol: {what}"),
            Self::Refused(why) => write!(f, "was refused: {why}"),
            Self::Panicked => f.write_str("was given up: internal error"),
            Self::Failed(error) if error.kind() == io::ErrorKind::TimedOut => {
                f.write_str("took too long to negotiate")
            }
            Self::Failed(error) => write!(f, "was lost: {}", words(error)),
        }
    }
}
