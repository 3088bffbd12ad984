//! What those who wait for an attachment are told of it.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::attachment::Step;
use crate::logging;

/// How long a user waits without a word, and from one word to the next.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// See [`SILENCE`].
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

/// Tell the user that `name` has been waiting for `what` for so long, and what can be done: `hint` ends the line.
pub(crate) fn tell_waiting(name: &str, what: impl Display, waited: Duration, hint: &str) {
    let seconds = waited.as_secs();
    logging::say(&format!(
        "pydisk: {name}: waiting for {what} for {seconds} s{hint}\n"
    ));
}

/// Tells of what takes long, until it is dropped.
pub(crate) struct Progress(Arc<Shared>);

struct Shared {
    /// Held only while looked at or changed.
    now: Mutex<Now>,
    changed: Condvar,
}

struct Now {
    step: Step,
    since: Instant,
    /// When there is something to tell.
    due: Instant,
    silence: Duration,
    over: bool,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Progress").field(&self.step()).finish()
    }
}

impl Progress {
    /// Tell the user what `name` waits for, with a `hint` at the end of the line; nothing where `quiet`.
    pub(crate) fn told(name: &str, quiet: bool, step: Step, hint: impl Into<String>) -> Self {
        let (name, hint) = (name.to_owned(), hint.into());
        Self::start(step, move |step, waited| {
            if !quiet {
                tell_waiting(&name, step, waited, &hint);
            }
        })
    }

    /// `tell` what is waited for, and for how long already, from a thread. Without one nothing is told.
    pub(crate) fn start(step: Step, tell: impl Fn(Step, Duration) + Send + 'static) -> Self {
        Self::paced(step, [SILENCE, AGAIN], tell)
    }

    fn paced(
        step: Step,
        [silence, again]: [Duration; 2],
        tell: impl Fn(Step, Duration) + Send + 'static,
    ) -> Self {
        let since = Instant::now();
        let shared = Arc::new(Shared {
            now: Mutex::new(Now {
                step,
                since,
                due: since + silence,
                silence,
                over: false,
            }),
            changed: Condvar::new(),
        });
        let watched = Arc::clone(&shared);
        let work = move || {
            while let Some((step, waited)) = watched.next(again) {
                tell(step, waited);
            }
        };
        let started = thread::Builder::new().name("progress".into()).spawn(work);
        if let Err(error) = started {
            log::debug!("nothing is told of what takes long: {error}");
        }
        Self(shared)
    }

    /// From here on this is waited for.
    pub(crate) fn goes_on(&self, step: Step) {
        let now = &mut *self.0.now.lock();
        if now.step != step {
            now.step = step;
            now.since = Instant::now();
            now.due = now.since + now.silence;
            self.0.changed.notify_all();
        }
    }

    /// What is waited for.
    pub(crate) fn step(&self) -> Step {
        self.0.now.lock().step
    }
}

impl Shared {
    /// Wait until there is something to tell; none at the end.
    fn next(&self, again: Duration) -> Option<(Step, Duration)> {
        let mut now = self.now.lock();
        while !now.over {
            if now.step == Step::Password {
                self.changed.wait(&mut now);
                continue;
            }
            let due = now.due;
            if Instant::now() >= due {
                now.due = due + again;
                return Some((now.step, now.since.elapsed()));
            }
            self.changed.wait_until(&mut now, due);
        }
        None
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.now.lock().over = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_takes_long_is_told_again_and_again_and_what_follows_anew() {
        let (tell, told) = channel();
        let pace = [Duration::from_millis(20), Duration::from_millis(10)];
        let progress = Progress::paced(Step::Load, pace, move |step, waited| {
            tell.send((step, waited)).unwrap();
        });
        let first = told.recv().unwrap();
        let second = told.recv().unwrap();
        assert_eq!((first.0, second.0), (Step::Load, Step::Load));
        assert!(first.1 >= pace[0] && second.1 >= pace[0] + pace[1]);
        progress.goes_on(Step::Open);
        let next = told.iter().find(|(step, _)| *step == Step::Open);
        assert!(next.unwrap().1 >= pace[0]);
        drop(progress);
        assert!(told.iter().all(|(step, _)| step == Step::Open), "it ends");
    }

    #[test]
    fn who_types_a_password_is_not_disturbed() {
        let (tell, told) = channel();
        let pace = [Duration::ZERO; 2];
        let progress = Progress::paced(Step::Password, pace, move |step, _| {
            tell.send(step).unwrap_or_default();
        });
        progress.goes_on(Step::Open);
        assert_eq!(told.recv(), Ok(Step::Open));
    }

    #[test]
    fn what_does_not_take_long_is_not_told() {
        let (tell, told) = channel();
        let progress = Progress::start(Step::Load, move |step, _| tell.send(step).unwrap());
        progress.goes_on(Step::Open);
        drop(progress);
        assert!(told.recv().is_err());
    }
}
