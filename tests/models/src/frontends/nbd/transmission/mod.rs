//! See the product's module of this name: its synchronisers, and stand-ins for what they carry.

use std::sync::Arc;

use super::link::Link;
use crate::sync;

#[path = "../../../../../../src/frontends/nbd/transmission/aside.rs"]
mod aside;
pub mod aside_scenes;
mod batch;
#[path = "../../../../../../src/frontends/nbd/transmission/batched.rs"]
mod batched;
mod incoming;
#[path = "../../../../../../src/frontends/nbd/transmission/lanes.rs"]
mod lanes;
pub mod lanes_scenes;
mod outbox;
mod performing;
#[path = "../../../../../../src/frontends/nbd/transmission/turns.rs"]
mod turns;
pub mod turns_scenes;

#[derive(Debug)]
struct Terms {
    disk: Disk,
    shape: Shape,
    lanes: u16,
}

/// Stands in for the shape of replies.
#[derive(Clone, Copy, Debug)]
struct Shape;

/// What a request asks for beside its number.
mod kind {
    /// It is none: the client is done.
    pub(super) const GOODBYE: u64 = 999;
    /// It takes long.
    pub(super) const SLOW: u64 = 1000;
    /// It takes as long as the client has not heard of the one before it.
    pub(super) const STUCK: u64 = 2000;
    /// The same with the one after it.
    pub(super) const EARLY: u64 = 3000;
}

#[derive(Debug)]
struct Disk {
    link: Arc<Link>,
    /// Threads that are in it now, and were at most.
    inside: sync::Mutex<(u16, u16)>,
}

impl Disk {
    fn lane(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn serve(&self, request: u64) {
        {
            let (now, most) = &mut *self.inside.lock();
            *now += 1;
            *most = (*now).max(*most);
        }
        let number = request % kind::SLOW;
        match request - number {
            0 | kind::SLOW => {}
            kind::STUCK => self.link.hear(&[number - 1]),
            kind::EARLY => self.link.hear(&[number + 1]),
            _ => unreachable!("there are no other kinds"),
        }
        if request >= kind::SLOW {
            sync::pass(std::time::Duration::from_millis(1));
        }
        self.inside.lock().0 -= 1;
    }
}
