//! What an attachment does that may take long, and what those who wait are told of it.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

/// How long a user waits without a word, and from one word to the next.
pub const SILENCE: Duration = Duration::from_secs(2);
/// See [`SILENCE`].
pub const AGAIN: Duration = Duration::from_secs(10);

/// Something that is waited for, in the order of an attachment's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The script runs once, with all that it imports.
    Load,
    /// The user is asked for a password, and needs no word about that.
    Password,
    /// The callbacks that follow, up to the one that opens the disk.
    Config,
    /// See [`Step::Config`].
    GetReady,
    /// See [`Step::Config`].
    AfterFork,
    /// See [`Step::Config`].
    Open,
    /// The front end is being started, and reads.
    FirstRead,
    /// Those who use the disk are looked for, and what they have written is stored.
    Users,
    /// Requests that the plugin still has.
    Requests,
    /// The callbacks at the end of a disk.
    Flush,
    /// See [`Step::Flush`].
    Close,
    /// See [`Step::Flush`].
    Cleanup,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "the script to be loaded",
            Self::Password => "an answer at the terminal",
            Self::Config => "`config`",
            Self::GetReady => "`get_ready`",
            Self::AfterFork => "`after_fork`",
            Self::Open => "`open`",
            Self::FirstRead => "the first read",
            Self::Users => "what lies on the disk",
            Self::Requests => "requests under way",
            Self::Flush => "the last `flush`",
            Self::Close => "`close`",
            Self::Cleanup => "`cleanup`",
        })
    }
}

impl Step {
    /// What `config` waits for: `read_password` asks the user where a value is `-`.
    #[must_use]
    pub fn of_config(parameters: &[(String, String)]) -> Self {
        if parameters.iter().any(|(_, value)| value == "-") {
            return Self::Password;
        }
        Self::Config
    }
}

/// Tells of what takes long, until it is dropped.
pub struct Progress(Arc<Shared>);

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
    /// `tell` what is waited for, and for how long already, from a thread. Without one nothing is told.
    pub fn start(step: Step, tell: impl Fn(Step, Duration) + Send + 'static) -> Self {
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
    pub fn goes_on(&self, step: Step) {
        let now = &mut *self.0.now.lock();
        if now.step != step {
            now.step = step;
            now.since = Instant::now();
            now.due = now.since + now.silence;
            self.0.changed.notify_all();
        }
    }

    /// What is waited for.
    #[must_use]
    pub fn step(&self) -> Step {
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
        let given = |value: &str| [("password".to_owned(), value.to_owned())];
        assert_eq!(Step::of_config(&given("-")), Step::Password);
        assert_eq!(Step::of_config(&given("-1")), Step::Config);
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
