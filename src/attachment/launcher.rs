//! How the processes of pydisk start each other: each is this same program with a hidden subcommand.

use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde::de::DeserializeOwned;

use super::messages::Receiver;

/// A process that is started by another process of pydisk and never by a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Looks after an attachment.
    Agent,
    /// Serves its disk.
    Worker,
    /// Disconnects an NBD device when its worker has died.
    Guard,
    /// Stops a ublk device for its worker.
    Stopper,
    /// Runs a plugin for `pydisk info`.
    Info,
    /// Runs a plugin for `pydisk check`.
    Check,
    /// Runs a plugin for `nbdkit --dump-plugin`.
    Dump,
}

impl Process {
    const ALL: [Self; 7] = [
        Self::Agent,
        Self::Worker,
        Self::Guard,
        Self::Stopper,
        Self::Info,
        Self::Check,
        Self::Dump,
    ];

    /// The subcommand that is this process.
    #[must_use]
    pub const fn subcommand(self) -> &'static str {
        match self {
            Self::Agent => "agent-process",
            Self::Worker => "worker-process",
            Self::Guard => "guard-process",
            Self::Stopper => "stop-process",
            Self::Info => "info-process",
            Self::Check => "check-process",
            Self::Dump => "dump-process",
        }
    }

    /// Whether the first argument of a program means one of them.
    #[must_use]
    pub fn is_meant_by(word: &OsStr) -> bool {
        Self::ALL.iter().any(|process| process.subcommand() == word)
    }

    /// What starts it.
    ///
    /// # Errors
    /// If the path of this program is not known.
    pub fn command(self) -> io::Result<Command> {
        let program = match self {
            // A worker may have been running for long when it starts these: its file may be another one by now.
            Self::Guard | Self::Stopper => PathBuf::from("/proc/self/exe"),
            _ => myself()?,
        };
        let mut command = Command::new(program);
        command.arg(self.subcommand());
        Ok(command)
    }
}

/// The path of this program.
///
/// # Errors
/// If it is not known.
pub fn myself() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The socket at standard input, what comes from it, and the first message. Standard input is empty
/// afterwards. `None` if a user started this process.
#[must_use]
pub fn received<T: DeserializeOwned>() -> Option<(UnixStream, Receiver, T)> {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
    rustix::net::sockopt::socket_type(&socket).ok()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null").ok()?).ok()?;
    let stream = UnixStream::from(socket);
    let mut receiver = Receiver::of(&stream).ok()?;
    let message = receiver.receive().ok()??;
    Some((stream, receiver, message))
}
