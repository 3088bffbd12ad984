//! What the processes of one attachment say to each other: one JSON object a line.
//!
//! The launcher (`pydisk attach`) sends a [`Job`](super::Job) to the agent and the agent hands it to the worker,
//! each over a socket pair that the receiver finds at its standard input: nothing of it shows in the
//! arguments or the environment of a process, where anybody could read a password.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::state::Served;
use super::step::Step;
use crate::Refusal;

/// What the worker tells the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromWorker {
    /// What it does from here on, which may take long.
    Doing(Step),
    /// The plugin is open; the front end is being started, and from here on there may be a device
    /// to remove.
    Starting,
    /// The device can be used.
    Ready(Served),
    /// The plugin wants the end, as a signal would.
    Shutdown,
    /// The worker was told to end by a signal, of which others may know nothing.
    Signalled,
    /// Nothing was attached, and nothing is left behind. The worker ends.
    Refused(Told),
    /// The device is gone, the plugin closed; what went wrong on the way, if anything. The worker
    /// ends.
    Stopped(Option<Told>),
}

/// What the agent tells the worker after the [`Job`](super::Job).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToWorker {
    /// Remove the device, flush and close the disk, and end.
    Stop,
}

/// What the agent tells the launcher.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAgent {
    /// What is waited for from here on.
    Doing(Step),
    /// The device can be used.
    Ready(Served),
    /// Nothing was attached.
    Refused(Told),
}

/// What the launcher tells the agent after the [`Job`](super::Job): it has the device path. An agent that loses
/// its launcher before that gives the disk up, because nobody knows of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToAgent {
    /// The path was passed on.
    Taken,
}

/// A question to an agent's control socket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Remove the device.
    Detach {
        /// Also while it is in use, and whatever the plugin does.
        force: bool,
    },
}

/// The answer of the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What is waited for from here on; another answer follows.
    Doing(Step),
    /// It is done; what went wrong on the way, if anything, without a loss for the disk's users.
    Done(Option<Told>),
    /// It is done, and this could not be stored.
    Unstored(Vec<Told>),
    /// It is not done, or not wholly.
    Refused(Told),
}

/// A [`Refusal`] on its way from one process to another, in its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told(Refusal);

impl From<Refusal> for Told {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<Told> for Refusal {
    fn from(told: Told) -> Self {
        told.0
    }
}

/// Longest line that is taken: parameters are bounded by what a command line can hold.
pub const LONGEST_LINE: u64 = 16 << 20;

/// Send one message.
///
/// # Errors
/// What the socket says; `BrokenPipe` if nobody listens any more.
pub fn send<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    stream.write_all(&line(message)?)
}

/// A message as it is sent.
///
/// # Errors
/// If a path in it is not text.
pub fn line<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Receives messages.
#[derive(Debug)]
pub struct Receiver(BufReader<UnixStream>);

impl Receiver {
    /// Receive from a second descriptor of this stream.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        Ok(Self(BufReader::new(stream.try_clone()?)))
    }

    /// Wait for the next message; `None` when the other side is gone.
    ///
    /// # Errors
    /// What the socket says; `InvalidData` for a line that is no such message.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let limited = &mut (&mut self.0).take(LONGEST_LINE);
        match limited.read_until(b'\n', &mut line) {
            Ok(_) => {}
            // Unread data at the other end turns its going away into this error.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        if !line.ends_with(b"\n") {
            // Nothing, or half a message of a process that was killed.
            return Ok(None);
        }
        parsed(&line).map(Some)
    }
}

/// What stands in `json`.
///
/// # Errors
/// `InvalidData`, also where it ends too soon: that is no stream's end, which `serde_json` would make
/// of it.
pub fn parsed<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_and_then_the_end() {
        let (one, other) = UnixStream::pair().unwrap();
        send(&one, &FromWorker::Starting).unwrap();
        send(
            &one,
            &FromWorker::Refused(Refusal::new("no").hint("yes").into()),
        )
        .unwrap();
        drop(one);
        let mut receiver = Receiver::of(&other).unwrap();
        assert!(matches!(
            receiver.receive().unwrap(),
            Some(FromWorker::Starting)
        ));
        let Some(FromWorker::Refused(told)) = receiver.receive().unwrap() else {
            panic!("the second message was lost");
        };
        let refusal = Refusal::from(told);
        assert_eq!(refusal.to_string(), "no\nhint: yes");
        assert_eq!(refusal.hinted(), Some("yes"));
        assert!(receiver.receive::<FromWorker>().unwrap().is_none());
    }

    #[test]
    fn an_agent_of_an_older_pydisk_is_heard() {
        let (one, other) = UnixStream::pair().unwrap();
        (&one)
            .write_all(b"{\"refused\": \"x: no\\nhint: yes\"}\n")
            .unwrap();
        let heard = Receiver::of(&other).unwrap().receive::<Answer>();
        let Some(Answer::Refused(told)) = heard.unwrap() else {
            panic!("it was not understood");
        };
        assert_eq!(Refusal::from(told).to_string(), "x: no\nhint: yes");
    }

    #[test]
    fn half_a_message_is_the_end() {
        let (one, other) = UnixStream::pair().unwrap();
        (&one).write_all(b"{\"det").unwrap();
        drop(one);
        assert!(
            Receiver::of(&other)
                .unwrap()
                .receive::<Ask>()
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        let (one, other) = UnixStream::pair().unwrap();
        (&one)
            .write_all(b"GET / HTTP/1.1\n{\"detach\":\n\n")
            .unwrap();
        let mut receiver = Receiver::of(&other).unwrap();
        for _ in 0..3 {
            let error = receiver.receive::<Ask>().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
