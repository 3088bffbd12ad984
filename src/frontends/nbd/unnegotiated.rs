//! The transmission phase alone: one disk for a client that knows all of it already, on several
//! sockets. That is how the kernel's own client is served.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::link::Link;
use super::transmission::{Terms, serve};
use super::wire::Shape;
use crate::disk::Disk;

/// A disk on sockets whose other ends negotiate nothing and take simple replies.
#[derive(Debug)]
pub(in crate::frontends) struct Unnegotiated {
    terms: Terms,
    links: Vec<Link>,
}

impl Unnegotiated {
    /// `disk` on these stream sockets. No read or write is longer than `payload`; at each socket
    /// `lanes` requests are served at the same time, where the disk takes several.
    pub(in crate::frontends) fn new(
        disk: Arc<dyn Disk>,
        sockets: Vec<OwnedFd>,
        payload: u32,
        lanes: u16,
    ) -> Self {
        Self {
            terms: Terms {
                disk,
                shape: Shape::Simple,
                allocation: false,
                payload,
                lanes,
            },
            links: sockets.into_iter().map(Link::new).collect(),
        }
    }

    /// Serve the socket of this number, from 0, on this thread; says why it ended. It is closed then.
    pub(in crate::frontends) fn serve(&self, socket: usize) -> String {
        let link = &self.links[socket];
        let end = serve(&self.terms, link);
        link.close();
        end.to_string()
    }

    /// End every socket: [`Unnegotiated::serve`] returns once the disk has answered what it was
    /// asked. Nobody is told those answers any more.
    pub(in crate::frontends) fn close(&self) {
        for link in &self.links {
            link.close();
        }
    }
}
