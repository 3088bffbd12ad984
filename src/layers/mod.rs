//! What can stand around a plugin's disk: disks around a disk, each of which does one thing.
//!
//! A layer knows `disk` and nothing of front ends or Python. [`Stack`] says which ones stand there.

mod check;
mod delay;
mod emulate;
mod named;
mod sleep;
mod stack;
mod whole_sectors;

pub use check::Check;
pub use emulate::{Emulate, Parts};
pub use named::{ALL, Layer, Named, Row, summary};
pub use sleep::Sleep;
pub use stack::Stack;
pub use whole_sectors::WholeSectors;
