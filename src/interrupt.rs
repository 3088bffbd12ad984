//! Ctrl-C while a command waits: it says what comes of that, and ends as it would without a word.

use std::thread;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::{Handle, Signals};

use crate::logging;

/// Says it, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Told(Option<Handle>);

/// End this process at Ctrl-C, and say before that what `words` gives: lines, or nothing. A process that ignores Ctrl-C
/// goes on doing so.
pub(crate) fn told(words: impl Fn() -> String + Send + 'static) -> Told {
    if pydisk_kernel::process::ignores(SIGINT) {
        return Told(None);
    }
    let started = Signals::new([SIGINT]).and_then(|mut signals| {
        let handle = signals.handle();
        let wait = move || {
            if signals.forever().next().is_some() {
                logging::say(&words());
                end();
            }
        };
        thread::Builder::new()
            .name("interrupt".into())
            .spawn(wait)?;
        Ok(handle)
    });
    started.map_or_else(
        |error| {
            log::debug!("Ctrl-C says nothing: {error}");
            Told(None)
        },
        |handle| Told(Some(handle)),
    )
}

/// End as a process does that does not handle it.
pub(crate) fn end() {
    if let Err(error) = signal_hook::low_level::emulate_default_handler(SIGINT) {
        log::debug!("SIGINT: {error}");
    }
    std::process::exit(130);
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}
