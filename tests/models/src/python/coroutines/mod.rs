//! See the product's module of this name: its synchronisers, and stand-ins for what Python gives them.

use std::marker::PhantomData;

#[path = "../../../../../src/python/coroutines/promise.rs"]
mod promise;
#[path = "../../../../../src/python/coroutines/queue.rs"]
mod queue;
pub mod scenes;
mod wake;

/// Stands in for being inside Python.
#[derive(Clone, Copy)]
pub(super) struct Python<'py>(PhantomData<&'py ()>);

const PYTHON: Python<'static> = Python(PhantomData);

/// The number of a request.
type Begun = u64;
/// What its coroutine gives.
type Outcome = Result<u64, &'static str>;
type Served = Option<Result<u64, &'static str>>;
/// Stands in for a task of the loop.
type TaskOfLoop = Box<u64>;

/// See the product's trait of this name.
trait Job: Send {
    fn begin(&mut self, py: Python<'_>) -> Result<Option<Begun>, &'static str>;
    fn end(self: Box<Self>, py: Python<'_>, outcome: Outcome) -> Result<u64, &'static str>;
}

fn cancelled() -> &'static str {
    "cancelled"
}

mod inbox {
    use super::promise::Promise;

    /// What the loop is to run: whole requests only.
    pub(super) type Work = Promise;
}
