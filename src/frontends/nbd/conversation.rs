//! One client's whole life; stands in until the protocol is there.

use std::io;
use std::sync::Arc;

use super::link::Link;
use super::service::Service;
use crate::disk::Client;

/// Serve one client until it is gone.
pub(super) fn hold(service: &Service, link: Link, client: &Arc<Client>) -> io::Result<()> {
    drop(link);
    let _ = (service, client);
    Ok(())
}
