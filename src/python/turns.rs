//! Whose turn it is: the thread models, by which a plugin is promised that callbacks do not overlap.
//!
//! Every lock here is waited for before Python is entered, never inside: whoever holds one may need
//! the interpreter to let go of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, ReentrantMutex, ReentrantMutexGuard};

use super::ThreadModel;

/// The turns of one plugin, across all its handles.
#[derive(Debug)]
pub(super) struct Turns {
    model: ThreadModel,
    /// Held by the callback that runs, where there may be only one. A batch holds it throughout.
    callback: ReentrantMutex<()>,
    /// Whether a connection is open, where there may be only one; held only while looked at.
    taken: Mutex<bool>,
    left: Condvar,
}

impl Turns {
    pub(super) fn new(model: ThreadModel) -> Arc<Self> {
        Arc::new(Self {
            model,
            callback: ReentrantMutex::new(()),
            taken: Mutex::new(false),
            left: Condvar::new(),
        })
    }

    pub(super) fn model(&self) -> ThreadModel {
        self.model
    }

    /// The right to run callbacks until it is dropped. The models that let the callbacks of several
    /// handles overlap give it at once; that those of one handle do not is the front end's promise,
    /// which [`crate::disk::Limits::parallel`] asks for.
    pub(super) fn callback(&self) -> Option<ReentrantMutexGuard<'_, ()>> {
        match self.model {
            ThreadModel::SerializeConnections | ThreadModel::SerializeAllRequests => {
                Some(self.callback.lock())
            }
            ThreadModel::SerializeRequests | ThreadModel::Parallel => None,
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
            let _batch = turns.callback();
            let _nested = turns.callback();
            let free = std::thread::scope(|scope| {
                let other = scope.spawn(|| turns.callback.try_lock().is_some());
                other.join().unwrap()
            });
            assert_eq!(free, !alone, "{model:?}");
        }
    }
}
