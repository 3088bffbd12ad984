//! What arrives at /dev/fuse for a filesystem that is one file, and how it is answered.
//!
//! Called by the FUSE front end once the filesystem is mounted and has shaken hands. Nothing is
//! allocated for a call, and the data of a write lands in memory of the caller, page-aligned if that
//! is. The layouts are those of [fuse.h](https://github.com/torvalds/linux/blob/master/include/uapi/linux/fuse.h),
//! protocol 7.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

mod call;
mod reply;

pub use call::{Call, Changes, TimeChange};
pub use reply::{Attributes, Reply, Statistics};

/// `struct fuse_in_header`.
const HEADER: usize = 40;

/// The header with `struct fuse_write_in` or `fuse_read_in`, so that a write's data begins the body.
const HEAD: usize = HEADER + 40;

/// One call of the kernel, without what follows its first 80 bytes.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; HEAD],
    /// Bytes of the call, header and body included.
    len: usize,
}

/// What [`Head::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A call to be answered.
    Call,
    /// Nothing waits; the descriptor does not block.
    Nothing,
    /// The filesystem was unmounted, or its connection cut.
    Gone,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            bytes: [0; HEAD],
            len: 0,
        }
    }
}

impl Head {
    /// Take one call. `body` must have room for the longest write that was agreed on.
    ///
    /// # Errors
    /// Of read(2), but for those that only mean to try again.
    pub fn receive(&mut self, device: BorrowedFd<'_>, body: &mut [u8]) -> io::Result<Received> {
        let read = loop {
            let parts = &mut [IoSliceMut::new(&mut self.bytes), IoSliceMut::new(body)];
            match rustix::io::readv(device, parts) {
                Ok(read) => break read,
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::NODEV) => return Ok(Received::Gone),
                // ENOENT: the call was withdrawn while it was handed over.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        };
        if read < HEADER {
            return Err(io::Error::other(format!("a FUSE call of {read} bytes")));
        }
        self.bytes[read.min(HEAD)..].fill(0);
        self.len = read;
        Ok(Received::Call)
    }

    /// Bytes that the call wants to read or write, roughly; nothing for others.
    #[must_use]
    pub fn transfer(&self) -> usize {
        match self.call(&[]) {
            Call::Read { len, .. } => len,
            _ => self.in_body(),
        }
    }

    /// Who calls.
    #[must_use]
    pub fn uid(&self) -> u32 {
        call::number(&self.bytes, 24)
    }

    /// The number that the kernel gave the call, for [`answer`].
    #[must_use]
    pub fn unique(&self) -> u64 {
        call::long_number(&self.bytes, 8)
    }

    /// The thread that waits for the answer, as its pid namespace numbers it in which the filesystem was
    /// mounted; 0 for one outside of that, and for the kernel itself.
    #[must_use]
    pub fn caller(&self) -> u32 {
        call::number(&self.bytes, 32)
    }

    /// What the kernel wants. `body` is the one that was given to [`Head::receive`].
    #[must_use]
    pub fn call(&self, body: &[u8]) -> Call {
        if self.len < HEADER + call::arguments(&self.bytes) {
            return Call::Short;
        }
        call::parse(&self.bytes, &body[..self.in_body().min(body.len())])
    }

    /// Bytes of the call that lie in the body.
    fn in_body(&self) -> usize {
        self.len.saturating_sub(HEAD)
    }

    /// Answer the call with `reply`, or with `data` after it.
    ///
    /// # Errors
    /// As [`answer`].
    pub fn answer(&self, device: BorrowedFd<'_>, reply: &Reply, data: &[u8]) -> io::Result<()> {
        answer(device, self.unique(), reply, data)
    }
}

/// Answer the call `unique` with `reply`, or with `data` after it.
///
/// # Errors
/// Of write(2). A call that nobody waits for any more was answered.
pub fn answer(device: BorrowedFd<'_>, unique: u64, reply: &Reply, data: &[u8]) -> io::Result<()> {
    let Some(words) = reply.words(unique, data.len()) else {
        return Ok(());
    };
    let words = &*words;
    let written = if data.is_empty() {
        rustix::io::write(device, words)
    } else {
        rustix::io::writev(device, &[IoSlice::new(words), IoSlice::new(data)])
    };
    match written {
        // The kernel takes a reply whole or not at all.
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
