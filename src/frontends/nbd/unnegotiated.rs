//! The transmission phase alone, for the kernel's own client: what the disk is was said otherwise.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::bounds::Bounds;
use super::ending::End;
use super::link::Link;
use super::transmission::{Terms, serve};
use super::wire::Shape;
use crate::disk::Disk;

/// A disk that is served with simple replies to whoever speaks first, on any number of sockets.
///
/// A disk that is not parallel is served on one of them.
#[derive(Debug)]
pub(in crate::frontends) struct Unnegotiated {
    terms: Terms,
}

impl Unnegotiated {
    /// `lanes` threads at most serve each socket of a parallel disk.
    pub(in crate::frontends) fn new(disk: Arc<dyn Disk>, lanes: u16) -> Self {
        Self {
            terms: Terms {
                disk,
                shape: Shape::Simple,
                allocation: false,
                payload: Bounds::default().payload,
                lanes,
            },
        }
    }

    /// Serve `socket` until its other end says that it is done, goes away, or somebody shuts the
    /// socket down; requests that were taken are answered first. Nobody reads the socket afterwards.
    pub(in crate::frontends) fn serve(&self, socket: &OwnedFd) -> End {
        match socket.as_fd().try_clone_to_owned() {
            Ok(own) => {
                let link = Link::new(own);
                let end = serve(&self.terms, &link);
                link.close();
                end
            }
            Err(error) => End::Failed(error),
        }
    }
}
