//! See the product's module of this name.

pub mod coroutines;

/// Stands in for the product's module.
mod forks {
    use super::coroutines::Python;

    pub(super) fn end_child(_: Python<'_>) {}
}
