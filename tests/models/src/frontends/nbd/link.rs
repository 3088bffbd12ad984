//! Stands in for the connection: a request is a number, with its kind, and its reply is the number.

use std::io;

use super::ending::End;
use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(super) struct Link {
    wire: Mutex<Wire>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Wire {
    /// Requests that were not taken yet.
    said: Vec<u64>,
    /// Replies, as they came.
    heard: Vec<u64>,
    /// The next request has come in part.
    begun: bool,
    /// The client says nothing more.
    silent: bool,
    /// Nor does it hear anything.
    broken: bool,
    /// The end was read.
    ended: bool,
}

/// What the client does.
impl Link {
    pub(super) fn say(&self, requests: &[u64]) {
        let mut wire = self.wire.lock();
        wire.said.extend(requests);
        wire.begun = false;
        drop(wire);
        self.changed.notify_all();
    }

    /// Say the start of a request, and the rest with the next one.
    pub(super) fn begin_to_say(&self) {
        self.wire.lock().begun = true;
    }

    /// Wait for these replies.
    pub(super) fn hear(&self, requests: &[u64]) {
        let mut wire = self.wire.lock();
        while !requests.iter().all(|it| wire.heard.contains(it)) {
            self.changed.wait(&mut wire);
        }
    }

    pub(super) fn fall_silent(&self) {
        self.wire.lock().silent = true;
        self.changed.notify_all();
    }

    /// Say and hear nothing more.
    pub(super) fn hang_up(&self) {
        self.wire.lock().broken = true;
        self.fall_silent();
    }

    /// All replies in the order in which they came.
    pub(super) fn heard(&self) -> Vec<u64> {
        self.wire.lock().heard.clone()
    }
}

/// What the server does.
impl Link {
    /// Whether a request has begun to come.
    pub(super) fn has_begun(&self) -> bool {
        let wire = self.wire.lock();
        wire.begun || !wire.said.is_empty()
    }

    /// Take all that has come; where there is nothing, wait for it if that is wanted.
    pub(super) fn read(&self, wait: bool) -> Result<Vec<u64>, End> {
        let mut wire = self.wire.lock();
        assert!(!wire.ended, "it is read after its end");
        while wait && wire.said.is_empty() && !wire.silent {
            self.changed.wait(&mut wire);
        }
        if wire.said.is_empty() && wire.silent {
            wire.ended = true;
            return Err(End::Vanished);
        }
        Ok(std::mem::take(&mut wire.said))
    }

    pub(super) fn send(&self, replies: &mut Vec<u64>) -> io::Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        let mut wire = self.wire.lock();
        if wire.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for reply in replies.drain(..) {
            assert!(!wire.heard.contains(&reply), "{reply} is answered twice");
            wire.heard.push(reply);
        }
        drop(wire);
        self.changed.notify_all();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.fall_silent();
    }
}
