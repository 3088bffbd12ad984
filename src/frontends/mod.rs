//! How a disk reaches its users: each front end turns the words of the kernel or of a client into
//! [`crate::disk::Request`]s and answers every one of them.
//!
//! The worker starts one front end and stops it; front ends know disks, never Python or layers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use crate::Refusal;
use crate::disk::Disk;

mod answer;
mod block;
mod endpoint;
mod fuse;
mod identity;
mod kernel_errnos;
mod loopback;
pub mod nbd;
mod nbd_kernel;
mod target;
#[cfg(test)]
mod testing;
mod ublk;
mod vigil;

use answer::log_failure;
pub use answer::{answer, answer_extents, tell_hidden};
pub use block::logical_block;
pub use endpoint::Endpoint;
pub use fuse::{fails as file_fails, remove_leftover as remove_leftover_file, start_file};
pub use identity::{Dead, Identity};
pub use loopback::{remove_leftover as remove_leftover_loop, start_loop};
pub use nbd_kernel::{
    guard as guard_nbd, remove_leftover as remove_leftover_nbd, word as nbd_word,
};
pub use target::Target;
pub use ublk::remove_leftover as remove_leftover_ublk;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use {fuse::fuse_calls, ublk::fuzzing::ublk_requests};

/// What the worker says about a disk beyond the disk itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this attachment, for thread names and messages.
    pub name: String,
    /// Folder of this attachment below /run/pydisk, for a hidden mount point or the like.
    pub folder: PathBuf,
    /// Threads that serve a parallel disk; at least 1. Others are served by one thread.
    pub lanes: u16,
    /// Bytes in a block of the device, a power of two from 512 to 4096; none is for the disk to decide.
    pub logical_block: Option<u32>,
    /// What tells the device or the mount from those of others.
    pub identity: Identity,
}

/// Told once, with the reason, when a front end ended although nobody stopped it: the device was
/// removed or the file unmounted from outside.
pub type Ended = mpsc::Sender<String>;

/// A disk that its users can reach.
pub trait Attached: Send {
    /// The path that users open.
    fn path(&self) -> &std::path::Path;

    /// Remove the device and end the threads. Requests under way are answered first; the disk is
    /// not called any more once this returns. Whether somebody still uses the device was the
    /// caller's question: it is removed all the same.
    ///
    /// # Errors
    /// One sentence, if something could not be removed.
    fn stop(self: Box<Self>) -> Result<(), Refusal>;
}

/// Make `disk` reachable at `target`.
///
/// # Errors
/// One sentence, and nothing is left behind.
pub fn start(
    target: &Target,
    disk: Arc<dyn Disk>,
    options: &Options,
    ended: Ended,
) -> Result<Box<dyn Attached>, Refusal> {
    match target {
        Target::File(path) => fuse::start_file(path, disk, options, ended),
        Target::Loop(index) => loopback::start_loop(*index, disk, options, ended),
        Target::Ublk(index) => ublk::start(*index, disk, options, ended),
        Target::Nbd(index) => nbd_kernel::start(*index, disk, options, ended),
        Target::Server(_) => Err(Refusal::new("NBD is not served yet")),
    }
}
