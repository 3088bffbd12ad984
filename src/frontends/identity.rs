//! Whose a device or a mount is. What a dead attachment left is removed by this and never by a number or a
//! path alone: those are used again, by another attachment, by another program, after a boot.
//!
//! The agent chooses an [`Identity`] before there is a worker, and keeps it in the attachment's state. Each
//! front end gives it to the kernel with the very command that makes the device or the mount, so that there
//! is no moment at which something is there and cannot be told from others':
//!
//! | front end | where the kernel keeps it |
//! |---|---|
//! | ublk | `ublksrv_flags`, a number that the driver keeps for whoever made the device |
//! | `/dev/nbdN` | the backend identifier, `/sys/block/nbdN/backend` |
//! | loop | the limit of the size, `/sys/block/loopN/loop/sizelimit`, which has no effect above the size |
//! | FUSE | the source of the mount, in `/proc/self/mountinfo` |

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::num::ParseIntError;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What tells what one attachment made from all that others made, at any time and on any boot: a random number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(u64);

impl Identity {
    /// One that nothing has had yet.
    #[must_use]
    pub fn new() -> Self {
        // The keys are the system's random numbers. 0 is what those devices have that nobody marked.
        Self(RandomState::new().hash_one(std::process::id()).max(1))
    }

    /// As a number, which is not 0.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// As a word that also tells the name of the attachment, for people.
    pub(super) fn word(self, name: &str) -> String {
        format!("{PREFIX}{name}:{self}")
    }

    /// As a number of bytes that only the largest of disks exceed: from 4 EiB to the largest size there is.
    pub(super) fn bytes(self) -> u64 {
        self.0 & (LARGE - 1) | LARGE
    }
}

/// Before the name of an attachment.
pub(super) const PREFIX: &str = "pydisk:";
/// 4 EiB.
const LARGE: u64 = 1 << 62;

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Identity {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number: std::num::NonZeroU64 = match u64::from_str_radix(text, 16)?.try_into() {
            Ok(number) => number,
            Err(_zero) => "0".parse()?,
        };
        Ok(Self(number.get()))
    }
}

impl TryFrom<String> for Identity {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

/// An attachment whose worker has ended, of which something may be left.
#[derive(Clone, Copy, Debug)]
pub struct Dead<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its folder.
    pub folder: &'a Path,
    /// Whose the device or the mount is; none where an older pydisk made it, which kept less.
    pub identity: Option<Identity>,
}

impl Dead<'_> {
    /// What a mount or a device of this attachment says, where that is a word.
    pub(super) fn word(&self) -> String {
        match self.identity {
            Some(identity) => identity.word(self.name),
            None => format!("{PREFIX}{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same_and_none_is_nobodys() {
        let one = Identity::new();
        assert_ne!(one, Identity::new());
        assert_ne!(one.number(), 0);
        assert!(one.bytes() >= LARGE && i64::try_from(one.bytes()).is_ok());
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        for number in [1, 0x1234, LARGE, u64::MAX] {
            let identity = Identity(number);
            assert_eq!(identity.to_string().parse(), Ok(identity));
            let text = serde_json::to_string(&identity).unwrap();
            assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity);
        }
        for text in ["\"\"", "\"0\"", "\"x\"", "\"10000000000000000\"", "1"] {
            assert!(serde_json::from_str::<Identity>(text).is_err(), "{text}");
        }
    }
}
