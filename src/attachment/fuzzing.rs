//! The fuzz target `messages`: what the processes of an attachment may say to each other.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::clients::Connected;
use super::job::Job;
use super::messages::{
    Answer, Ask, FromAgent, FromWorker, Receiver, ToAgent, ToWorker, Told, send,
};
use crate::Refusal;

/// No more is said, so that all of it fits into a socket before anybody listens.
const MOST: usize = 64 << 10;

/// Let somebody say all but the first byte of `input`, which chooses whom to.
///
/// # Panics
/// If something is not taken as it was said, or refused otherwise than is promised.
pub fn messages(input: &[u8]) {
    let Some((whom, said)) = input.split_first() else {
        return;
    };
    let said = &said[..said.len().min(MOST)];
    match whom % 8 {
        0 => hear::<Job>(said, |_| None),
        1 => hear::<FromWorker>(said, |message| match message {
            FromWorker::Refused(told) | FromWorker::Stopped(Some(told)) => Some(told),
            _ => None,
        }),
        2 => hear::<ToWorker>(said, |_| None),
        3 => hear::<FromAgent>(said, |message| match message {
            FromAgent::Refused(told) => Some(told),
            FromAgent::Ready(_) | FromAgent::Doing(_) => None,
        }),
        4 => hear::<ToAgent>(said, |_| None),
        5 => hear::<Ask>(said, |_| None),
        6 => hear::<Answer>(said, |message| match message {
            Answer::Refused(told) | Answer::Done(Some(told)) => Some(told),
            Answer::Unstored(all) => all.into_iter().next(),
            Answer::Done(None) | Answer::Doing(_) => None,
        }),
        _ => hear::<Vec<Connected>>(said, |_| None),
    }
}

/// Hear all that is said, up to the first line that is no message.
fn hear<T: Serialize + DeserializeOwned>(said: &[u8], told: fn(T) -> Option<Told>) {
    let mut receiver = saying(|mut stream| stream.write_all(said));
    let mut whole = said.iter().filter(|byte| **byte == b'\n').count();
    loop {
        match receiver.receive::<T>() {
            Ok(Some(message)) => {
                whole = whole.checked_sub(1).expect("a message has a line");
                let json = serde_json::to_value(&message).expect("it came as JSON");
                let again = saying(|stream| send(stream, &message)).receive::<T>();
                let again = again.expect("it is a message").expect("it was said");
                let again = serde_json::to_value(&again).expect("it came as JSON");
                assert_eq!(again, json, "it changed on its way");
                if let Some(told) = told(message) {
                    // At most an escape for each byte: `\u{7f}` for one that JSON leaves alone.
                    let most = 6 * json.to_string().len();
                    let words = Refusal::from(told).to_string();
                    assert!(words.len() <= most, "words were added");
                }
            }
            Ok(None) => {
                assert_eq!(whole, 0, "a message was lost");
                return;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                assert_ne!(whole, 0, "half a message is an end, no error");
                return;
            }
        }
    }
}

/// Who hears what `say` says and then the end.
fn saying(say: impl FnOnce(&UnixStream) -> io::Result<()>) -> Receiver {
    let (one, other) = UnixStream::pair().expect("a socket");
    say(&one).expect("there is room for it");
    Receiver::of(&other).expect("a descriptor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_every_kind_is_among_the_kept_ones() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/messages");
        let taken = |whom: u8, said: &[u8]| {
            let mut receiver = saying(|mut stream| stream.write_all(said));
            match whom {
                0 => receiver.receive::<Job>().is_ok_and(|heard| heard.is_some()),
                1 => receiver
                    .receive::<FromWorker>()
                    .is_ok_and(|heard| heard.is_some()),
                2 => receiver
                    .receive::<ToWorker>()
                    .is_ok_and(|heard| heard.is_some()),
                3 => receiver
                    .receive::<FromAgent>()
                    .is_ok_and(|heard| heard.is_some()),
                4 => receiver
                    .receive::<ToAgent>()
                    .is_ok_and(|heard| heard.is_some()),
                5 => receiver.receive::<Ask>().is_ok_and(|heard| heard.is_some()),
                6 => receiver
                    .receive::<Answer>()
                    .is_ok_and(|heard| heard.is_some()),
                _ => receiver
                    .receive::<Vec<Connected>>()
                    .is_ok_and(|heard| heard.is_some()),
            }
        };
        let mut found = [false; 8];
        for entry in std::fs::read_dir(folder).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            if let Some((whom, said)) = input.split_first() {
                found[usize::from(whom % 8)] |= taken(whom % 8, said);
            }
        }
        assert_eq!(found, [true; 8]);
    }
}
