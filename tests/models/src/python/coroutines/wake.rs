//! Stands in for the event that the loop's selector watches.

use crate::sync::{Condvar, Mutex};

#[derive(Default)]
pub(super) struct Wake {
    up: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub(super) fn up(&self) {
        *self.up.lock() = true;
        self.changed.notify_all();
    }

    pub(super) fn taken(&self) {
        *self.up.lock() = false;
    }

    /// What the selector does.
    pub(super) fn watch(&self) {
        let mut up = self.up.lock();
        while !*up {
            self.changed.wait(&mut up);
        }
    }
}
