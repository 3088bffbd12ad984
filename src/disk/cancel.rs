//! Whether anybody still waits: what is done in many steps, or sleeps, asks in between, and stops if not.
//!
//! A request may ask for more than a disk does in a day, such as zeroes in a petabyte that have to be
//! written. The front end says with the request how to find out whether there still is somebody to answer; a
//! disk or a layer that goes on step by step asks, on whatever thread it does so.

use std::fmt;
use std::sync::Arc;

use super::{Errno, Error, Result};

/// Tells whether there is still somebody who waits. Clones tell the same.
#[derive(Clone)]
pub struct Cancel(Arc<dyn Fn() -> bool + Send + Sync>);

impl Cancel {
    /// Cancelled once `somebody` says no. It is asked often, by any thread, and may not wait for anything.
    #[must_use]
    pub fn unless(somebody: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(somebody))
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !(self.0)()
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_set()).finish()
    }
}

/// Between two steps of one request: is the next one still wanted? Where no front end has said how to
/// find out, it is.
///
/// # Errors
/// `ESHUTDOWN` if nobody waits any more. The request has failed then: it was done in part.
pub fn go_on(cancel: Option<&Cancel>) -> Result {
    if cancel.is_none_or(|cancel| !cancel.is_set()) {
        return Ok(());
    }
    Err(Error::new(
        Errno::SHUTDOWN,
        "given up halfway: nobody waits for it any more",
    ))
}
