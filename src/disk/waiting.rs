//! Whether anybody still waits: what is done in many steps asks between two of them, and stops if not.
//!
//! A request may ask for more than a disk does in a day, such as zeroes in a petabyte that have to be
//! written. A front end says around all that a thread serves how to find out whether there still is
//! somebody to answer; a disk or a layer that goes on step by step asks here. The thread that took a
//! request serves it, so nothing of this stands in the request.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Errno, Error, Result};

thread_local! {
    /// How to find out. Borrowed only while it is copied or replaced.
    static SOMEBODY: RefCell<Option<Rc<dyn Fn() -> bool>>> = const { RefCell::new(None) };
}

/// Run `work`, all that this thread serves, while `somebody` tells whether there is still somebody who
/// waits for it. It is asked often and may not wait for anything.
pub fn waited_for<T>(somebody: Rc<dyn Fn() -> bool>, work: impl FnOnce() -> T) -> T {
    let _outer = Outer(SOMEBODY.replace(Some(somebody)));
    work()
}

/// Takes its place again, also after a panic.
struct Outer(Option<Rc<dyn Fn() -> bool>>);

impl Drop for Outer {
    fn drop(&mut self) {
        SOMEBODY.set(self.0.take());
    }
}

/// Between two steps of one request: is the next one still wanted? Where no front end has said how to
/// find out, it is.
///
/// # Errors
/// `ESHUTDOWN` if nobody waits any more. The request has failed then: it was done in part.
pub fn go_on() -> Result {
    let somebody = SOMEBODY.with_borrow(Clone::clone);
    if somebody.is_none_or(|somebody| somebody()) {
        return Ok(());
    }
    Err(Error::new(
        Errno::SHUTDOWN,
        "given up halfway: nobody waits for it any more",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_is_asked_and_only_on_its_thread() {
        go_on().unwrap();
        waited_for(Rc::new(|| false), || {
            assert_eq!(go_on().unwrap_err().errno, Errno::SHUTDOWN);
            waited_for(Rc::new(|| true), || go_on().unwrap());
            assert!(go_on().is_err());
            std::thread::scope(|scope| scope.spawn(|| go_on().unwrap()).join().unwrap());
        });
        go_on().unwrap();
    }

    #[test]
    fn a_panic_leaves_nothing_behind() {
        let panics = || waited_for(Rc::new(|| false), || panic!("the test wants this"));
        std::panic::catch_unwind(panics).unwrap_err();
        go_on().unwrap();
    }
}
