//! One client's whole life: welcomed, negotiated with, served, and its disk closed when it is gone.

use std::sync::Arc;
use std::time::Instant;

use super::ending::End;
use super::link::Link;
use super::negotiation::{Agreed, negotiate};
use super::service::{Service, Standing};
use super::transmission::{Terms, serve};
use crate::disk::Client;
use crate::frontends::log_failure;

/// Talk to `client` over `link` until the conversation ends, and tell why it did. The connection is
/// closed then, and after it, as in nbdkit, everything that the client had open.
pub(super) fn hold(
    service: &Service,
    mut link: Link,
    client: &Arc<Client>,
    standing: &Standing,
) -> End {
    let guest = match service.exports.welcome(Arc::clone(client)) {
        Ok(guest) => guest,
        Err(error) => {
            log_failure("preconnect", error.errno, || {
                format!("client {}: not let in: {error}", client.number)
            });
            link.close();
            return End::Refused(error.to_string());
        }
    };
    let deadline = Instant::now() + service.bounds.handshake;
    let end = match negotiate(service, &mut link, guest, client, standing, deadline) {
        Ok((agreed, guest)) => {
            let end = transmit(service, &link, agreed, client, standing);
            drop(guest);
            end
        }
        Err(end) => end,
    };
    link.close();
    end
}

fn transmit(
    service: &Service,
    link: &Link,
    agreed: Agreed,
    client: &Arc<Client>,
    standing: &Standing,
) -> End {
    if let Err(error) = link.set_deadline(None) {
        return error.into();
    }
    let Agreed {
        export,
        seat,
        shape,
        allocation,
    } = agreed;
    let terms = Terms {
        disk: Arc::clone(export.disk()),
        client: Some(Arc::clone(client)),
        cancel: link.cancel().clone(),
        shape,
        allocation,
        payload: service.bounds.payload,
        lanes: service.bounds.requests,
    };
    let end = serve(&terms, link);
    // Nobody waits for a `close` that takes its time.
    standing.left();
    link.close();
    // The disk is closed before the seat is free, so that no more are open than there are seats.
    drop(terms);
    drop(export);
    drop(seat);
    end
}
