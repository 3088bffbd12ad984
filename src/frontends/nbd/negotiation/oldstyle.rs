//! The handshake of old, in which the server speaks and the client only listens: for clients that
//! know no other. It has no names, no TLS and no way to say what was wrong.

use std::io::IoSlice;

use super::exports::{Closed, ZEROES};
use super::{Agreed, Negotiation};
use crate::frontends::nbd::ending::End;
use crate::frontends::nbd::wire::{GREETING, OLDSTYLE_MAGIC};

impl Negotiation<'_> {
    /// Open the default export and tell the client what it is like.
    pub(super) fn tell_oldstyle(&mut self) -> Result<Agreed, End> {
        let opened = match self.open("")? {
            Ok(opened) => opened,
            Err(Closed { why, .. }) => return Err(End::Refused(why)),
        };
        let size = opened.export.disk().limits().size.to_be_bytes();
        // The upper half has the flags of the handshake, of which there are none.
        let flags = u32::from(self.flags_of(&*opened.export).bits()).to_be_bytes();
        let agreed = self.agree("", opened);
        let (greeting, magic) = (GREETING.to_be_bytes(), OLDSTYLE_MAGIC.to_be_bytes());
        let parts = [&greeting[..], &magic, &size, &flags, &ZEROES];
        self.link.write_all(&mut parts.map(IoSlice::new))?;
        Ok(agreed)
    }
}
