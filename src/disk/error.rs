//! Why a request failed: the errno that the application sees, and the cause that the log shows.

use std::fmt;

pub use rustix::io::Errno;

/// The outcome of a request, or of opening a disk.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// An errno with the reason for it.
///
/// The errno is chosen where the cause is known; the cause is logged once, by the front end that
/// answers the request.
#[derive(Debug)]
pub struct Error {
    /// What the application sees, as far as its front end can express it.
    pub errno: Errno,
    /// What the log shows: one sentence, or a sentence and a traceback below it.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// An error with a cause in words, or another error as its cause.
    pub fn new(errno: Errno, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            errno,
            cause: cause.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}
