//! The server as a front end: what an address is to whoever has it as a target.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::address::{Address, Place};
use super::config::Bounds;
use super::found::may_be_at;
use super::listening::remove_leftover;
use super::registry::Connected;
use super::server::{Bound, Server, Setup};
use crate::Refusal;
use crate::disk::Exports;
use crate::frontends::{
    Dead, Ended, Endpoint, FrontEnd, Options, Prepared, Published, Row, Target,
};

pub(in crate::frontends) static ROW: Row = Row {
    name: "nbd",
    words: "an NBD server",
    // A socket is all that it needs.
    offered: None,
    free: |_folder| {
        Target::from(Address {
            place: Place::Unix(None),
            export: String::new(),
            tls: false,
        })
    },
    blocks: false,
    clients: true,
    mounts: false,
    guard: None,
    stopper: false,
};

impl FrontEnd for Address {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn prepare(
        &self,
        options: &Options,
        passed: Vec<OwnedFd>,
    ) -> Result<Box<dyn Prepared>, Refusal> {
        let server = options.server.clone();
        let bound = Bound::at(Setup {
            address: self.clone(),
            family: server.family,
            label: server.label,
            folder: options.folder.clone(),
            bounds: Bounds {
                requests: options.lanes,
                ..server.bounds
            },
            dialect: server.dialect,
            tls: server.tls,
            passed,
        })?;
        Ok(Box::new(bound))
    }

    /// Remove the Unix socket, unless somebody else listens there by now. The target says where it is, and not the
    /// worker, whose plugin may have had fewer rights than whoever removes it. One in the attachment's folder goes
    /// with that, and one that was passed is not ours.
    fn remove_leftover(&self, _dead: &Dead<'_>, _new: bool) -> Result<(), Refusal> {
        match &self.place {
            Place::Unix(Some(path)) => remove_leftover(path),
            _ => Ok(()),
        }
    }

    fn may_be_at(&self, folder: &Path, endpoint: &Endpoint) -> bool {
        let socket = endpoint.unix_socket();
        endpoint
            .uri()
            .is_some_and(|uri| may_be_at(self, folder, uri, socket))
    }

    fn is_one_place(&self) -> bool {
        match &self.place {
            Place::Tcp { port, .. } | Place::Everywhere { port } => *port != 0,
            Place::Vsock(port) => *port != 0,
            Place::Unix(path) => path.is_some(),
            Place::Stdio | Place::Activation => false,
        }
    }

    fn uses_stdio(&self) -> bool {
        self.place == Place::Stdio
    }
}

impl Prepared for Bound {
    fn publish(
        self: Box<Self>,
        exports: &Arc<dyn Exports>,
        ended: Ended,
    ) -> Result<Box<dyn Published>, Refusal> {
        let server = self.serve(Arc::clone(exports), ended)?;
        Ok(Box::new(server))
    }
}

impl Published for Server {
    fn endpoint(&self) -> &Endpoint {
        Server::endpoint(self)
    }

    fn clients(&self) -> Vec<Connected> {
        Server::clients(self)
    }

    /// One whose only client has not left has served nobody, or serves no more.
    fn has_ended(&self, why: String) -> Result<(), String> {
        if !self.left() {
            return Err(why);
        }
        log::info!("{why}");
        Ok(())
    }

    fn stop(self: Box<Self>) -> Result<(), Refusal> {
        drop(self);
        Ok(())
    }
}
