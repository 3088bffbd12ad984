//! The hand-written synchronisers of pydisk under a model checker: the product's own files, compiled a
//! second time with the checker's [primitives](sync) and with stand-ins for all that they only carry.
//!
//! The modules stand where they stand in the product, so that the files find by the same paths what
//! they use. A model is a function that plays one scene; `tests/models.rs` has them run in very many
//! orders. Where nobody can go on any more the checker says so: a wake-up was lost.
//!
//! shuttle rather than loom: loom has no scoped threads, which lanes are, and it tries every order, of
//! which three threads and a dozen steps each have too many. What it has instead, weak memory, these files
//! do not build on: what they share lies under locks, but for flags that only ever go up. Neither knows
//! waits with a time limit; [`sync`] has its own.

// `--all-targets` compiles a library's unit tests even where it has none to run. Those of the product's
// files find nothing here that they need.
#![cfg(not(test))]

// What the product takes from its other crate has stand-ins here, too.
extern crate self as pydisk_kernel;

mod explore;
pub mod frontends;
pub mod python;
mod sync;

pub use explore::{every_order, many_orders};

/// Stands in for the product's module.
pub(crate) mod pages {
    #[derive(Debug)]
    pub(crate) struct Slot;

    impl Slot {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn lent(&self) -> &[u8] {
            &[]
        }
    }
}

/// Stands in for the product's module.
pub(crate) mod threads {
    pub(crate) fn deep(name: &str) -> crate::sync::thread::Builder {
        crate::sync::thread::Builder::new().name(name.into())
    }
}

/// Stands in for the product's module.
pub(crate) mod refusal {
    pub(crate) fn words(error: &std::io::Error) -> String {
        error.to_string()
    }
}
