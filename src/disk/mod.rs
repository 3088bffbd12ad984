//! What a disk is: the one trait that plugins, layers and test disks implement and front ends use.
//!
//! This module names no other part of the crate. A front end turns what the kernel or a client said
//! into a [`Request`]; the request travels down through layers to the disk that serves it; the
//! [`Result`] travels back. Offsets and lengths are bytes everywhere.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

mod admission;
mod cancel;
mod error;
mod exports;
mod extents;
mod limits;
pub mod memory;
mod open;

pub use cancel::{Cancel, go_on};
pub use error::{Errno, Error, Result};
pub use exports::{Certificate, Client, Export, Exports, Guest, Listed, Peer, Resident};
pub use extents::{Extent, ExtentKind, Extents};
pub use limits::{BlockSizes, Cache, Fua, Limits};
pub use open::OpenDisk;

bitflags::bitflags! {
    /// What a request asks for beyond its operation. The values are nbdkit's, see `docs/nbdkit.md`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Flags: u32 {
        /// `Zero` may give the space back as long as it reads as zeroes.
        const MAY_TRIM = 1;
        /// The data must be on stable storage before the request is answered.
        const FUA = 2;
        /// `Zero` must fail with `ENOTSUP` at once if it is no faster than writing.
        const FAST_ZERO = 8;
    }
}

/// One operation with the memory it works on.
#[derive(Debug)]
pub enum Op<'a> {
    /// Fill the slice with what the disk holds. Every byte is written when it succeeds.
    Read(&'a mut [u8]),
    /// Store the slice.
    Write(&'a [u8]),
    /// Make so many bytes read back as zeroes.
    Zero(u64),
    /// So many bytes are no longer needed; what they read back as is not defined.
    Trim(u64),
    /// Bring so many bytes closer; a hint.
    Cache(u64),
    /// Everything answered before this request was sent must be on stable storage.
    Flush,
}

impl Op<'_> {
    /// Bytes that the operation touches; 0 for a flush.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Op::Read(buf) => buf.len() as u64,
            Op::Write(buf) => buf.len() as u64,
            Op::Zero(len) | Op::Trim(len) | Op::Cache(len) => *len,
            Op::Flush => 0,
        }
    }

    /// Whether the operation touches no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operation without its memory, for logs and counters.
    #[must_use]
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Read(_) => OpKind::Read,
            Op::Write(_) => OpKind::Write,
            Op::Zero(_) => OpKind::Zero,
            Op::Trim(_) => OpKind::Trim,
            Op::Cache(_) => OpKind::Cache,
            Op::Flush => OpKind::Flush,
        }
    }
}

/// The name of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Op::Read`]
    Read,
    /// [`Op::Write`]
    Write,
    /// [`Op::Zero`]
    Zero,
    /// [`Op::Trim`]
    Trim,
    /// [`Op::Cache`]
    Cache,
    /// [`Op::Flush`]
    Flush,
}

impl OpKind {
    /// The word used in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            OpKind::Read => "read",
            OpKind::Write => "write",
            OpKind::Zero => "zero",
            OpKind::Trim => "trim",
            OpKind::Cache => "cache",
            OpKind::Flush => "flush",
        }
    }

    /// Whether the operation changes what the disk holds.
    #[must_use]
    pub fn modifies(self) -> bool {
        matches!(self, OpKind::Write | OpKind::Zero | OpKind::Trim)
    }
}

/// Who owns the memory of a request: a clone keeps that memory alive after the request is answered.
///
/// A front end that finds a clone left when the request is done (`Arc::strong_count` above its own)
/// must take fresh memory for the next request. That is how a plugin can keep a buffer without ever
/// seeing another request's bytes.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// One request to a disk.
#[derive(Debug)]
pub struct Request<'a> {
    /// What to do, with its memory.
    pub op: Op<'a>,
    /// First byte; 0 for a flush.
    pub at: u64,
    /// See [`Flags`].
    pub flags: Flags,
    /// Who owns the memory that `op` lies in, where it may be kept; without it whoever needs the
    /// bytes for longer than the call copies them.
    pub owner: Option<&'a Owner>,
    /// Tells whether somebody still waits for the answer; without it somebody does.
    pub cancel: Option<&'a Cancel>,
}

impl<'a> Request<'a> {
    /// A request without flags on memory that is only borrowed.
    #[must_use]
    pub fn new(op: Op<'a>, at: u64) -> Self {
        Self {
            op,
            at,
            flags: Flags::empty(),
            owner: None,
            cancel: None,
        }
    }

    /// The same request with other flags.
    #[must_use]
    pub fn with_flags(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }

    /// The same request, for as long as somebody waits for it.
    #[must_use]
    pub fn with_cancel(self, cancel: Option<&'a Cancel>) -> Self {
        Self { cancel, ..self }
    }

    /// The bytes that the request touches; empty for a flush.
    ///
    /// The end saturates, so that a range past `u64::MAX` is past the end of every disk.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.at..self.at.saturating_add(self.op.len())
    }
}

/// Anything that serves block requests: a plugin's open handle, a layer, a test disk.
///
/// A disk whose [`Limits::parallel`] is false is called by one thread at a time. Dropping a disk closes it.
pub trait Disk: Debug + Send + Sync {
    /// Size, block sizes and capabilities, fixed when the disk was opened.
    fn limits(&self) -> &Limits;

    /// Serve one request to its end.
    ///
    /// # Errors
    /// The errno that the application shall see, with its cause. Nothing is promised about the bytes
    /// of a failed write; a failed read may leave anything in its memory, and whoever answers must
    /// not hand that memory out.
    fn serve(&self, request: Request<'_>) -> Result;

    /// Report which parts of `range` are allocated, in ascending order without gaps.
    ///
    /// The report begins where `range` does and says something about its first byte at least. It may
    /// end before `range` does (ask again from there) or after, but not past the end of the disk.
    ///
    /// # Errors
    /// As [`Disk::serve`]. A disk that cannot tell reports data, which is always correct.
    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        found.push(range.end.saturating_sub(range.start), ExtentKind::DATA);
        Ok(())
    }
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn limits(&self) -> &Limits {
        (**self).limits()
    }
    fn serve(&self, request: Request<'_>) -> Result {
        (**self).serve(request)
    }
    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        (**self).extents(range, found)
    }
}
