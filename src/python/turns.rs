//! Whose turn it is: the thread models, by which a plugin is promised that callbacks do not overlap.
//!
//! Every lock here is waited for before Python is entered, never inside: whoever holds one may need
//! the interpreter to let go of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, ReentrantMutex, ReentrantMutexGuard};

use super::ThreadModel;
use super::callbacks::Callback;
use super::doing::Doing;

/// The turns of one plugin, across all its handles.
#[derive(Debug)]
pub(super) struct Turns {
    model: ThreadModel,
    /// Where the plugin did not name a model: the callbacks that are coroutines, which may overlap.
    /// The others of such a plugin are called one at a time, as its author may count on.
    coroutines: Option<Vec<Callback>>,
    /// Held by the callback that runs, where there may be only one. A batch holds it throughout.
    callback: ReentrantMutex<()>,
    /// Whether a connection is open, where there may be only one; held only while looked at.
    taken: Mutex<bool>,
    left: Condvar,
}

impl Turns {
    pub(super) fn new(model: ThreadModel) -> Arc<Self> {
        Self::with(model, None)
    }

    /// The turns of a plugin that names no model and has these coroutines.
    pub(super) fn of_coroutines(coroutines: Vec<Callback>) -> Arc<Self> {
        Self::with(ThreadModel::Parallel, Some(coroutines))
    }

    fn with(model: ThreadModel, coroutines: Option<Vec<Callback>>) -> Arc<Self> {
        Arc::new(Self {
            model,
            coroutines,
            callback: ReentrantMutex::new(()),
            taken: Mutex::new(false),
            left: Condvar::new(),
        })
    }

    pub(super) fn model(&self) -> ThreadModel {
        self.model
    }

    /// The right to run this callback until it is dropped. The models that let the callbacks of several
    /// handles overlap give it at once; that those of one handle do not is the front end's promise,
    /// which [`crate::disk::Limits::parallel`] asks for.
    pub(super) fn callback(&self, callback: Callback) -> Option<Held<'_>> {
        (!self.overlaps(callback)).then(|| self.callback.lock())
    }

    /// As [`Turns::callback`], while the thread is known to wait for its turn and then to run the callback.
    pub(super) fn take(&self, callback: Callback) -> Turn<'_> {
        let taken = match self.overlaps(callback) {
            true => Some(None),
            false => self.callback.try_lock().map(Some),
        };
        if let Some(held) = taken {
            // The usual case: to wait would take another look at the clock.
            return Turn {
                _held: held,
                _doing: Doing::run(callback),
            };
        }
        let doing = Doing::wait(callback);
        let held = self.callback(callback);
        doing.begin(callback);
        Turn {
            _held: held,
            _doing: doing,
        }
    }

    fn overlaps(&self, callback: Callback) -> bool {
        let coroutines = self.coroutines.as_ref();
        self.many_run() && coroutines.is_none_or(|coroutines| coroutines.contains(&callback))
    }

    /// Whether callbacks of several handles may overlap.
    fn many_run(&self) -> bool {
        matches!(
            self.model,
            ThreadModel::SerializeRequests | ThreadModel::Parallel
        )
    }

    /// The right to run any callbacks, one after the other, without leaving Python in between; none
    /// where nobody may have that right, because the turn may have to be waited for in between.
    pub(super) fn batch(&self) -> Option<Batch<'_>> {
        match self.coroutines {
            None => Some(Batch((!self.many_run()).then(|| self.callback.lock()))),
            Some(_) => None,
        }
    }

    /// The right to have a handle open, waited for until `patience` ends.
    pub(super) fn connection(self: &Arc<Self>, patience: Option<Duration>) -> Option<Place> {
        if self.model != ThreadModel::SerializeConnections {
            return Some(Place(None));
        }
        let until = patience.map(|patience| Instant::now() + patience);
        let mut taken = self.taken.lock();
        while *taken {
            match until {
                None => self.left.wait(&mut taken),
                Some(at) if self.left.wait_until(&mut taken, at).timed_out() && *taken => {
                    return None;
                }
                Some(_) => {}
            }
        }
        *taken = true;
        Some(Place(Some(Arc::clone(self))))
    }
}

type Held<'a> = ReentrantMutexGuard<'a, ()>;

/// The right to run a callback, which this thread does.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _held: Option<Held<'a>>,
    _doing: Doing,
}

/// The right to run callbacks, where it takes one.
#[derive(Debug)]
pub(super) struct Batch<'a>(#[expect(dead_code, reason = "held")] Option<Held<'a>>);

/// The right to have a handle open.
#[derive(Debug)]
pub(super) struct Place(Option<Arc<Turns>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(turns) = &self.0 {
            *turns.taken.lock() = false;
            turns.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_millis(10));

    #[test]
    fn one_connection_at_a_time_where_the_model_says_so() {
        let turns = Turns::new(ThreadModel::SerializeConnections);
        let place = turns.connection(SOON).unwrap();
        assert!(turns.connection(SOON).is_none());
        drop(place);
        let place = turns.connection(SOON).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.connection(None).is_some());
            drop(place);
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn the_other_models_let_any_number_in() {
        for model in [
            ThreadModel::SerializeAllRequests,
            ThreadModel::SerializeRequests,
            ThreadModel::Parallel,
        ] {
            let turns = Turns::new(model);
            let _first = turns.connection(SOON).unwrap();
            assert!(turns.connection(SOON).is_some(), "{model:?}");
        }
    }

    #[test]
    fn a_turn_keeps_other_threads_out_but_not_its_own() {
        for (model, alone) in [
            (ThreadModel::SerializeConnections, true),
            (ThreadModel::SerializeAllRequests, true),
            (ThreadModel::SerializeRequests, false),
            (ThreadModel::Parallel, false),
        ] {
            let turns = Turns::new(model);
            let _batch = turns.batch();
            let _nested = turns.callback(Callback::Pread);
            let free = std::thread::scope(|scope| {
                let other = scope.spawn(|| turns.callback.try_lock().is_some());
                other.join().unwrap()
            });
            assert_eq!(free, !alone, "{model:?}");
        }
    }

    #[test]
    fn without_a_model_coroutines_overlap_and_other_callbacks_do_not() {
        let turns = Turns::of_coroutines(vec![Callback::Pread]);
        assert_eq!(turns.model(), ThreadModel::Parallel);
        assert!(turns.batch().is_none());
        assert!(turns.callback(Callback::Pread).is_none());
        assert!(turns.callback(Callback::Pwrite).is_some());
        let _writing = turns.callback(Callback::Pwrite);
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let others = turns.callback.try_lock().is_some();
                (turns.callback(Callback::Pread).is_none(), others)
            });
            assert_eq!(others.join().unwrap(), (true, false));
        });
    }
}
