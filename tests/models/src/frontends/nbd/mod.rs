//! See the product's module of this name.

#[expect(dead_code, reason = "the models end in few ways")]
#[path = "../../../../../src/frontends/nbd/ending.rs"]
mod ending;
mod link;
pub mod transmission;
