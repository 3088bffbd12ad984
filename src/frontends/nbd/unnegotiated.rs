//! The transmission phase alone: one disk for a client that knows all of it already. That is how the
//! kernel's own client is served.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::link::Link;
use super::transmission::{Terms, serve};
use super::wire::Shape;
use crate::disk::OpenDisk;

/// A disk on a socket whose other end negotiates nothing and takes simple replies.
#[derive(Debug)]
pub(in crate::frontends) struct Unnegotiated {
    terms: Terms,
    link: Link,
}

impl Unnegotiated {
    /// `disk` on a stream socket. No read or write is longer than `payload`; `lanes` requests are served
    /// at the same time, where the disk takes several.
    pub(in crate::frontends) fn new(
        disk: Arc<dyn OpenDisk>,
        socket: OwnedFd,
        payload: u32,
        lanes: u16,
    ) -> Self {
        let link = Link::new(socket);
        Self {
            terms: Terms {
                disk,
                client: None,
                cancel: link.cancel().clone(),
                shape: Shape::Simple,
                allocation: false,
                payload,
                lanes,
            },
            link,
        }
    }

    /// Serve on this thread, and on those that it starts; says why it ended. The socket is closed then.
    pub(in crate::frontends) fn serve(&self) -> String {
        let end = serve(&self.terms, &self.link);
        self.link.close();
        end.to_string()
    }

    /// End the socket: [`Unnegotiated::serve`] returns once the disk has answered what it was
    /// asked. Nobody is told those answers any more.
    pub(in crate::frontends) fn close(&self) {
        self.link.close();
    }
}
