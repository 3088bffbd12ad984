//! See the product's module of this name.

pub mod nbd;
#[path = "../../../../src/frontends/vigil.rs"]
pub(crate) mod vigil;
pub mod vigil_scenes;
