//! How a disk reaches its users: each front end turns the words of the kernel or of a client into
//! [`crate::disk::Request`]s and answers every one of them.
//!
//! [`ALL`] is the table of them, and a [`Target`] is one of their places, see [`Target::front_end`]. Whoever has a
//! target asks that, and never which front end it is. The worker starts one front end and stops it; front ends know
//! disks, never Python or layers.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use crate::disk::{Exports, OpenDisk};
use crate::{Cause, Refusal};

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
#[cfg(test)]
mod tests;
mod ublk;
mod vigil;

use answer::log_failure;
pub use answer::{answer, answer_extents, tell_hidden};
pub use block::logical_block;
pub use endpoint::Endpoint;
pub use identity::{Dead, Identity};
use nbd::{Connected, ServerOptions};
pub use nbd_kernel::guard as guard_nbd;
pub use pydisk_kernel::probe::Host;
pub use target::Target;
pub use ublk::stop_process as stop_ublk;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use {fuse::fuse_calls, ublk::fuzzing::ublk_requests};

/// What the worker says about an attachment beyond what is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this attachment, for thread names and messages.
    pub name: String,
    /// Folder of this attachment below /run/pydisk, for a hidden mount point or the like.
    pub folder: PathBuf,
    /// Threads that serve a parallel disk, or each client of a server; at least 1. Others are served by one thread.
    pub lanes: u16,
    /// Bytes in a block of the device, a power of two from 512 to 4096; none is for the disk to decide.
    pub logical_block: Option<u32>,
    /// What tells the device or the mount from those of others.
    pub identity: Identity,
    /// What a server is told besides its address.
    pub server: ServerOptions,
}

/// The front ends, from the one with the least between the user and the plugin to the one with the most.
pub static ALL: [&Row; 5] = [
    &ublk::ROW,
    &nbd_kernel::ROW,
    &loopback::ROW,
    &fuse::ROW,
    &nbd::ROW,
];

/// Whether a host offers what a front end needs, or in one sentence why not.
pub type Offers = fn(&Host) -> Result<(), String>;

/// What is known of a front end before there is a target.
#[derive(Debug)]
pub struct Row {
    /// Its name, as scripts see it.
    pub name: &'static str,
    /// What it is called in a sentence.
    pub words: &'static str,
    /// Whether a host offers what it needs. None where it needs nothing; such a front end is used where the user names
    /// it, and is not chosen.
    pub offered: Option<Offers>,
    /// A target that is free, for the attachment in this folder.
    pub free: fn(&Path) -> Target,
    /// It makes block devices, which have logical blocks and nothing but whole ones.
    pub blocks: bool,
    /// It serves clients, each of which opens disks of its own. Others have one disk for as long as they serve.
    pub clients: bool,
    /// What it makes is seen in the mount namespace of its process only.
    pub mounts: bool,
    /// By which word a guard knows what is to be removed when its process has died, which the kernel does not see.
    pub guard: Option<fn(&Options) -> String>,
    /// Another process tells the kernel to stop its device, because that cannot be killed meanwhile.
    pub stopper: bool,
}

/// A place for a disk: what the front end of a [`Target`] knows and does there.
pub trait FrontEnd: Debug {
    /// Which front end it is.
    fn row(&self) -> &'static Row;

    /// Take all that needs a right: the process may give up its rights before there is something to serve. `passed`
    /// are the descriptors that whoever wants the disk has for it.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    fn prepare(
        &self,
        options: &Options,
        passed: Vec<OwnedFd>,
    ) -> Result<Box<dyn Prepared>, Refusal>;

    /// Remove what a dead attachment left here. It is no error if there is nothing, and what others made is never
    /// touched. `new` tells, for attachments of an older pydisk, whether there was nothing here before.
    ///
    /// # Errors
    /// One sentence, if it could not be removed yet.
    fn remove_leftover(&self, dead: &Dead<'_>, new: bool) -> Result<(), Refusal>;

    /// Whether what a dead attachment left here fails whoever uses it, and better stays so, because the place would
    /// otherwise be free. `there` is the mount namespace that the attachment was made in.
    fn fails(&self, _dead: &Dead<'_>, _there: Option<&Path>) -> bool {
        false
    }

    /// Whether a worker that was asked for this place, with its attachment in `folder`, may say that its disk is at
    /// `endpoint`. Devices are served with the rights of whoever asks.
    fn may_be_at(&self, _folder: &Path, endpoint: &Endpoint) -> bool {
        endpoint.device().is_some()
    }

    /// Whether there is nothing yet where the disk shall appear, so that nothing may stay there.
    fn is_new(&self) -> bool {
        false
    }

    /// Whether only one attachment can be here at a time.
    fn is_one_place(&self) -> bool {
        true
    }

    /// Whether the disk has its one client on standard input and output.
    fn uses_stdio(&self) -> bool {
        false
    }
}

/// Told once, with the reason, when a front end ended although nobody stopped it: the device was
/// removed or the file unmounted from outside, or the only client of a server has left.
pub type Ended = mpsc::Sender<String>;

/// A front end that holds all it needs but something to serve.
pub trait Prepared {
    /// Make what `exports` offers reachable. [`Row::clients`] tells whether that is for clients or for one guest that
    /// stays.
    ///
    /// # Errors
    /// One sentence, and nothing is left behind.
    fn publish(
        self: Box<Self>,
        exports: &Arc<dyn Exports>,
        ended: Ended,
    ) -> Result<Box<dyn Published>, Refusal>;
}

/// What users can reach.
pub trait Published: Send {
    /// Where they find it.
    fn endpoint(&self) -> &Endpoint;

    /// Who is connected, in the order of connecting.
    fn clients(&self) -> Vec<Connected> {
        Vec::new()
    }

    /// It has told its end, for this reason; logs what can be said of that.
    ///
    /// # Errors
    /// The reason again, if it has not served as long as it was to.
    fn has_ended(&self, why: String) -> Result<(), String> {
        log::warn!("ended from outside: {why}");
        Ok(())
    }

    /// Take it away and end the threads. Requests under way are answered first; no disk is called any
    /// more once this returns. Whether somebody still uses it was the caller's question: it is removed
    /// all the same.
    ///
    /// # Errors
    /// One sentence, if something could not be removed.
    fn stop(self: Box<Self>) -> Result<(), Refusal>;
}

/// A front end that makes something of one disk, and holds nothing before there is one.
struct OneDisk<F>(F);

impl<F> Prepared for OneDisk<F>
where
    F: FnOnce(Arc<dyn OpenDisk>, Ended) -> Result<Box<dyn Published>, Refusal>,
{
    fn publish(
        self: Box<Self>,
        exports: &Arc<dyn Exports>,
        ended: Ended,
    ) -> Result<Box<dyn Published>, Refusal> {
        let disk = exports
            .resident()
            .map_err(|error| Refusal::caused("", Cause::of(&*error.cause)))?;
        (self.0)(disk, ended)
    }
}

#[cfg(test)]
impl dyn Published {
    /// The path of what is no server.
    fn path(&self) -> &Path {
        self.endpoint().device().expect("it is no server")
    }
}
