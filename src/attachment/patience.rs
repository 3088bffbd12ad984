//! How long the processes of an attachment wait for each other, all in one place, since these times add up to what a
//! user is promised: a signalled agent is gone within 5 s, that of a device within 7 s, as what lies on that is stored
//! before.

use std::time::Duration;

/// From a signal to the kill of a worker that has not ended by itself.
pub const SIGNAL: Duration = Duration::from_millis(3000);
/// How long a killed worker may take to be dead.
pub const DEATH: Duration = Duration::from_millis(900);
/// How long the removal of what a killed worker left may take. A front end gives up sooner.
pub const LEFTOVER: Duration = Duration::from_millis(900);
/// From `detach --force` to the kill of a worker that has not ended by itself.
pub const FORCE: Duration = Duration::from_secs(5);
/// How long before its end a worker is asked where it is.
pub const ASKED_BEFORE: Duration = Duration::from_secs(2);
/// How long a plain `detach` waits for the last flush of the plugin.
pub const DETACH: Duration = Duration::from_secs(60);
/// How long the last words of a dead worker may take to arrive. They are in the socket already, but the thread that reads
/// it may wait for its turn; and the socket's end does not come where a child of the plugin has it, too.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the plugin may take to stop when the agent was killed, with which its worker ends. A user who kills has no
/// time for more.
pub const ORPHAN: Duration = Duration::from_secs(10);
/// How long it may take to store what lies on a disk that is forced to end.
pub const STORE: Duration = Duration::from_millis(1500);
/// How much later than it should storing may be given up.
pub const STORE_LATE: Duration = Duration::from_millis(500);
/// How long it may take to find out which attachments lie on which.
pub const LOOK: Duration = Duration::from_secs(1);
/// How long a user of a disk may take to go away: udev and others open every device for a moment.
pub const USERS: Duration = Duration::from_millis(1500);
/// How often it is looked whether the users have gone.
pub const USERS_AGAIN: Duration = Duration::from_millis(50);
/// How long an agent waits for a question once somebody has connected, and for an answer to leave.
pub const CLIENT: Duration = Duration::from_secs(2);
/// How long a worker may take to publish something about itself, and a reader to take it.
pub const PUBLISH: Duration = Duration::from_secs(2);
/// How long an agent may take to answer `detach`, beyond what it gives the plugin: looking for users, storing, and
/// removing what is left.
pub const ANSWER: Duration = Duration::from_secs(12);
/// How long the folder of an attachment whose agent ended meanwhile may take to go.
pub const GONE: Duration = Duration::from_secs(6);
/// How long the agent of a crashed attachment may take to see to its end.
pub const CRASH: Duration = Duration::from_secs(3);
/// How long another pydisk may hold the registry, while it reserves a name or tidies up; that takes milliseconds.
pub const REGISTRY: Duration = Duration::from_secs(5);
/// How long another process may have a borrowed disk open that looked at it because it is new or was written to.
pub const OTHERS: Duration = Duration::from_secs(5);

// What is promised to the one who sends a signal, in milliseconds.
const _: () = {
    let end = SIGNAL.as_millis() + DEATH.as_millis() + LEFTOVER.as_millis();
    assert!(end <= 5000);
    assert!(end + STORE.as_millis() + STORE_LATE.as_millis() <= 7000);
    // `detach --force` waits for as long as its agent may take.
    let forced = STORE.as_millis() + STORE_LATE.as_millis() + FORCE.as_millis();
    assert!(forced + DEATH.as_millis() + LEFTOVER.as_millis() <= ANSWER.as_millis());
};
