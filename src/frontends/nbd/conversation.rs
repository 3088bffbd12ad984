//! One client's whole life; stands in until the protocol is there.

use std::sync::Arc;

use super::ending::End;
use super::link::Link;
use super::service::{Service, Standing};
use crate::disk::Client;

/// Serve one client until it is gone.
pub(super) fn hold(
    _service: &Service,
    link: Link,
    _client: &Arc<Client>,
    _standing: &Standing,
) -> End {
    link.close();
    End::Disconnected
}
