//! How the load reaches a disk: a device or a file by the kernel, or a server by its protocol.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pydisk_kernel::aio::{Direction, Done, Requests};

use super::Workload;
use crate::frontends::nbd::LoadClient;

/// Written over and over; not zeroes, which a disk may take for something else.
const WRITTEN: u8 = 0xa5;

/// Where a disk is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A device or a file.
    Device {
        /// Its path.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// A server, which listens on the Unix socket at this path.
    Server(PathBuf),
}

impl Place {
    /// Bytes of the smallest request that is taken there.
    ///
    /// # Errors
    /// What the system, the socket or the server says.
    pub fn smallest(&self) -> io::Result<u32> {
        match self {
            Self::Server(socket) => {
                Ok(LoadClient::connect(UnixStream::connect(socket)?, 1)?.minimum())
            }
            Self::Device { path, .. } => {
                let file = opened(path, false)?;
                if file.metadata()?.file_type().is_block_device() {
                    return Ok(rustix::fs::ioctl_blksszget(&file)?);
                }
                Ok(1)
            }
        }
    }

    /// Open it for a load, past the kernel's cache.
    ///
    /// # Errors
    /// What the system, the socket or the server says.
    pub fn open(&self, workload: Workload) -> io::Result<Way> {
        match self {
            Self::Device { path, size } => {
                let file = opened(path, workload.pattern.direction() == Direction::Write)?;
                Way::file(file, *size, workload.depth, workload.len)
            }
            Self::Server(socket) => {
                let client = LoadClient::connect(UnixStream::connect(socket)?, workload.depth)?;
                let len = usize::try_from(workload.len).map_err(io::Error::other)?;
                Ok(Way {
                    size: client.size(),
                    kind: Kind::Server {
                        client: Box::new(client),
                        len: workload.len,
                        data: vec![WRITTEN; len],
                    },
                })
            }
        }
    }
}

/// An open disk with room for so many requests.
#[derive(Debug)]
pub struct Way {
    size: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    File(Requests),
    Server {
        client: Box<LoadClient>,
        len: u32,
        data: Vec<u8>,
    },
}

impl Way {
    /// A file that is open already.
    ///
    /// # Errors
    /// As [`Requests::new`].
    pub fn file(file: File, size: u64, depth: usize, len: u32) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(io::Error::other)?;
        let mut requests = Requests::new(file, depth, bytes)?;
        // Every page is there before the clock runs.
        for slot in 0..depth {
            requests.memory(slot).fill(WRITTEN);
        }
        let kind = Kind::File(requests);
        Ok(Self { size, kind })
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn start(&mut self, slot: usize, direction: Direction, at: u64) {
        match (&mut self.kind, direction) {
            (Kind::File(requests), direction) => requests.start(slot, direction, at),
            (Kind::Server { client, len, .. }, Direction::Read) => client.read(slot, at, *len),
            (Kind::Server { client, data, .. }, Direction::Write) => client.write(slot, at, data),
        }
    }

    pub(super) fn wait(&mut self, patience: Duration, done: &mut Vec<Done>) -> io::Result<()> {
        match &mut self.kind {
            Kind::File(requests) => requests.wait(patience, done),
            Kind::Server { client, .. } => client.wait(patience, done),
        }
    }
}

fn opened(path: &Path, writing: bool) -> io::Result<File> {
    File::options()
        .read(true)
        .write(writing)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed())
        .open(path)
}
