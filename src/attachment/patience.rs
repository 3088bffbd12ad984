//! How long the processes of an attachment wait for each other, all in one place, since these times add up to what a
//! user is promised: a signalled agent is gone within 5 s, that of a device within 7 s, as what lies on that is stored
//! before. `PYDISK_PATIENCE` multiplies them all, for machines on which that is too short.

use std::sync::OnceLock;
use std::time::Duration;

use crate::Refusal;

/// By how much all of these times are multiplied: a whole number from 1 to 100, in the environment.
pub const VARIABLE: &str = "PYDISK_PATIENCE";

/// A time, on a machine that is as fast as most.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Duration);

impl Patience {
    const fn milliseconds(time: u64) -> Self {
        Self(Duration::from_millis(time))
    }

    const fn seconds(time: u64) -> Self {
        Self(Duration::from_secs(time))
    }

    /// The time on this machine.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0 * factor()
    }
}

fn factor() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| wanted().unwrap_or(1))
}

fn wanted() -> Result<u32, Refusal> {
    match std::env::var_os(VARIABLE) {
        None => Ok(1),
        Some(text) => parsed(&text.to_string_lossy()),
    }
}

fn parsed(text: &str) -> Result<u32, Refusal> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=100).contains(number))
        .ok_or_else(|| {
            Refusal::about(
                format_args!("{VARIABLE} `{text}`"),
                "a whole number from 1 to 100 is needed",
            )
        })
}

/// Whether what the user wants can be had.
///
/// # Errors
/// One sentence.
pub fn check() -> Result<(), Refusal> {
    wanted().map(drop)
}

/// From a signal to the kill of a worker that has not ended by itself.
pub const SIGNAL: Patience = Patience::milliseconds(3000);
/// How long a killed worker may take to be dead.
pub const DEATH: Patience = Patience::milliseconds(900);
/// How long the removal of what a killed worker left may take. A front end gives up sooner.
pub const LEFTOVER: Patience = Patience::milliseconds(900);
/// From `detach --force` to the kill of a worker that has not ended by itself.
pub const FORCE: Patience = Patience::seconds(5);
/// How long before its end a worker is asked where it is.
pub const ASKED_BEFORE: Patience = Patience::seconds(2);
/// How long a plain `detach` waits for the last flush of the plugin.
pub const DETACH: Patience = Patience::seconds(60);
/// How long the last words of a dead worker may take to arrive. They are in the socket already, but the thread that reads
/// it may wait for its turn; and the socket's end does not come where a child of the plugin has it, too.
pub const LAST_WORDS: Patience = Patience::seconds(1);
/// How long the plugin may take to stop when the agent was killed, with which its worker ends. A user who kills has no
/// time for more.
pub const ORPHAN: Patience = Patience::seconds(10);
/// How long it may take to store what lies on a disk that is forced to end.
pub const STORE: Patience = Patience::milliseconds(1500);
/// How much later than it should storing may be given up.
pub const STORE_LATE: Patience = Patience::milliseconds(500);
/// How long it may take to find out which attachments lie on which.
pub const LOOK: Patience = Patience::seconds(1);
/// How long a user of a disk may take to go away: udev and others open every device for a moment.
pub const USERS: Patience = Patience::milliseconds(1500);
/// How often it is looked whether the users have gone.
pub const USERS_AGAIN: Patience = Patience::milliseconds(50);
/// How long an agent waits for a question once somebody has connected, and for an answer to leave.
pub const CLIENT: Patience = Patience::seconds(2);
/// How long a worker may take to publish something about itself, and a reader to take it.
pub const PUBLISH: Patience = Patience::seconds(2);
/// How long an agent may take to answer `detach`, beyond what it gives the plugin: looking for users, storing, and
/// removing what is left.
pub const ANSWER: Patience = Patience::seconds(12);
/// How long the folder of an attachment whose agent ended meanwhile may take to go.
pub const GONE: Patience = Patience::seconds(6);
/// How long the agent of a crashed attachment may take to see to its end.
pub const CRASH: Patience = Patience::seconds(3);
/// How long another pydisk may hold the registry, while it reserves a name or tidies up; that takes milliseconds.
pub const REGISTRY: Patience = Patience::seconds(5);
/// How long another process may have a borrowed disk open that looked at it because it is new or was written to.
pub const OTHERS: Patience = Patience::seconds(5);

// What is promised to the one who sends a signal, in milliseconds.
const _: () = {
    let end = SIGNAL.0.as_millis() + DEATH.0.as_millis() + LEFTOVER.0.as_millis();
    assert!(end <= 5000);
    assert!(end + STORE.0.as_millis() + STORE_LATE.0.as_millis() <= 7000);
    // `detach --force` waits for as long as its agent may take.
    let forced = STORE.0.as_millis() + STORE_LATE.0.as_millis() + FORCE.0.as_millis();
    let removed = DEATH.0.as_millis() + LEFTOVER.0.as_millis();
    assert!(forced + removed <= ANSWER.0.as_millis());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_number_up_to_a_hundred_is_taken() {
        assert_eq!(
            ["1", "7", "100"].map(|text| parsed(text).unwrap()),
            [1, 7, 100]
        );
        for text in ["", "0", "101", "-1", "1.5", "two", " 3"] {
            let refusal = parsed(text).unwrap_err().to_string();
            let words = format!("PYDISK_PATIENCE `{text}`: a whole number from 1 to 100 is needed");
            assert_eq!(refusal, words);
        }
    }
}
