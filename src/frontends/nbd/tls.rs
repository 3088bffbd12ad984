//! Whether clients may or must encrypt, and who the server says it is.

/// Whether a connection is encrypted.
#[derive(Debug)]
pub(super) enum Tls {
    /// Never: `STARTTLS` is refused.
    Off,
    /// If the client asks for it.
    Allowed(Identity),
    /// Nothing else is answered before.
    Required(Identity),
}

/// The certificate of the server, its key, and whose certificates it accepts from clients.
#[derive(Debug)]
pub(super) struct Identity;
