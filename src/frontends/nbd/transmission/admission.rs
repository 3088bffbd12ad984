//! Which requests a disk is asked to serve, and what is answered to the others.

use super::Terms;
use crate::disk::{Errno, Flags, Limits};
use crate::frontends::nbd::wire::request::Head;
use crate::frontends::nbd::wire::{Asked, Failure, Shape, Transmission, command};

/// A request that the disk's limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) what: What,
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) flags: Flags,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Read {
        /// The data must come in one chunk.
        whole: bool,
    },
    Write,
    Zero,
    Trim,
    Cache,
    Flush,
    /// Tell the extents.
    Status {
        /// Only the first one.
        first_only: bool,
    },
}

/// Why a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// For people; empty if the log has more to say.
    pub(super) why: &'static str,
}

const fn refused(failure: Failure, why: &'static str) -> Refused {
    Refused { failure, why }
}

/// Judge a request: by what was agreed upon, and by the limits of the disk.
///
/// What is wrong in several ways gets the error that nbdkit gives: first who may write, then the range,
/// then flags and what is offered, at last how much it is.
pub(super) fn admit(terms: &Terms, head: &Head) -> Result<Order, Refused> {
    let limits = terms.disk.limits();
    let what = what(head)?;
    if what.modifies() && limits.read_only {
        return Err(refused(Failure::Perm, "the export is read-only"));
    }
    let order = Order {
        what,
        at: head.at,
        len: head.len,
        flags: what.flags(head.asked),
    };
    order.in_range(limits)?;
    known_flags(terms, head)?;
    offered(terms, head, what)?;
    order.in_size(terms, limits)?;
    Ok(order)
}

fn what(head: &Head) -> Result<What, Refused> {
    Ok(match head.command {
        command::READ => What::Read {
            whole: head.asked.contains(Asked::DF),
        },
        command::WRITE => What::Write,
        command::FLUSH => What::Flush,
        command::TRIM => What::Trim,
        command::CACHE => What::Cache,
        command::WRITE_ZEROES => What::Zero,
        command::BLOCK_STATUS => What::Status {
            first_only: head.asked.contains(Asked::REQ_ONE),
        },
        _ => return Err(refused(Failure::Inval, "an unknown command")),
    })
}

/// Flags belong to commands, except FUA: where it may be used it may come with each of them.
fn known_flags(terms: &Terms, head: &Head) -> Result<(), Refused> {
    let structured = terms.shape >= Shape::Structured;
    let own = match head.command {
        command::READ if structured => Asked::DF,
        command::WRITE if terms.shape == Shape::Extended => Asked::PAYLOAD_LEN,
        command::WRITE_ZEROES => Asked::NO_HOLE | Asked::FAST_ZERO,
        command::BLOCK_STATUS => Asked::REQ_ONE,
        _ => Asked::empty(),
    };
    if !(own | Asked::FUA).contains(head.asked) {
        return Err(refused(Failure::Inval, "a flag that does not belong here"));
    }
    if own == Asked::PAYLOAD_LEN && !head.asked.contains(Asked::PAYLOAD_LEN) {
        return Err(refused(
            Failure::Inval,
            "a write with extended headers must announce its payload",
        ));
    }
    Ok(())
}

fn offered(terms: &Terms, head: &Head, what: What) -> Result<(), Refused> {
    let flags = super::flags(terms.disk.limits(), terms.shape);
    let needed = match what {
        What::Read { .. } | What::Write | What::Status { .. } => Transmission::empty(),
        What::Zero => Transmission::SEND_WRITE_ZEROES,
        What::Trim => Transmission::SEND_TRIM,
        What::Cache => Transmission::SEND_CACHE,
        What::Flush => Transmission::SEND_FLUSH,
    };
    if !flags.contains(needed) {
        return Err(refused(Failure::Inval, "the export does not offer this"));
    }
    if matches!(what, What::Status { .. }) && !terms.allocation {
        return Err(refused(Failure::Inval, "no metadata context was chosen"));
    }
    if head.asked.contains(Asked::FUA) && !flags.contains(Transmission::SEND_FUA) {
        return Err(refused(Failure::Inval, "the export does not offer FUA"));
    }
    if head.asked.contains(Asked::FAST_ZERO) && !flags.contains(Transmission::SEND_FAST_ZERO) {
        return Err(refused(
            Failure::Inval,
            "the export does not offer fast zero",
        ));
    }
    Ok(())
}

impl What {
    fn modifies(self) -> bool {
        matches!(self, Self::Write | Self::Zero | Self::Trim)
    }

    /// Whether data crosses the connection.
    pub(super) fn carries_data(self) -> bool {
        matches!(self, Self::Read { .. } | Self::Write)
    }

    /// What the client asked for, in the words of a disk.
    fn flags(self, asked: Asked) -> Flags {
        let mut flags = Flags::empty();
        flags.set(Flags::FUA, self.modifies() && asked.contains(Asked::FUA));
        let zero = self == Self::Zero;
        flags.set(Flags::MAY_TRIM, zero && !asked.contains(Asked::NO_HOLE));
        flags.set(Flags::FAST_ZERO, zero && asked.contains(Asked::FAST_ZERO));
        flags
    }
}

impl Order {
    fn in_range(&self, limits: &Limits) -> Result<(), Refused> {
        if self.what == What::Flush {
            if self.at == 0 && self.len == 0 {
                return Ok(());
            }
            return Err(refused(
                Failure::Inval,
                "a flush has no offset and no length",
            ));
        }
        let failure = match self.what {
            What::Write | What::Zero => Failure::NoSpc,
            _ => Failure::Inval,
        };
        if self.len == 0 {
            return Err(refused(failure, "a request for no byte at all"));
        }
        let fits = self
            .at
            .checked_add(self.len)
            .is_some_and(|end| end <= limits.size);
        if fits {
            return Ok(());
        }
        Err(refused(failure, "past the end of the export"))
    }

    fn in_size(&self, terms: &Terms, limits: &Limits) -> Result<(), Refused> {
        let has_data = self.what.carries_data();
        if has_data && self.len > terms.payload.into() {
            // nbdkit's word. The protocol has one of its own for what might come in several chunks
            // otherwise.
            let failure = match self.what {
                What::Read { whole: true } => Failure::Overflow,
                _ => Failure::NoMem,
            };
            return Err(refused(failure, "more data than the server takes"));
        }
        if !limits.strict_blocks || self.what == What::Flush {
            return Ok(());
        }
        let (minimum, maximum) = (limits.block.minimum.max(1), limits.block.maximum);
        if !self.at.is_multiple_of(minimum.into()) || !self.len.is_multiple_of(minimum.into()) {
            return Err(refused(Failure::Inval, "not in whole blocks"));
        }
        if has_data && maximum != u32::MAX && self.len > maximum.into() {
            return Err(refused(Failure::Inval, "more data than the export takes"));
        }
        Ok(())
    }
}

/// How a client is told that the disk failed.
///
/// The table is nbdkit's: `ENOTSUP` and `EOVERFLOW` are told only to whom they mean something.
pub(super) fn failure(errno: Errno, order: &Order) -> Refused {
    let fast_zero = order.flags.contains(Flags::FAST_ZERO);
    let whole = order.what == What::Read { whole: true };
    let failure = match errno {
        Errno::PERM | Errno::ROFS => Failure::Perm,
        Errno::IO => Failure::Io,
        Errno::NOMEM => Failure::NoMem,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Failure::NoSpc,
        Errno::SHUTDOWN => Failure::Shutdown,
        // Linux has one number for ENOTSUP and EOPNOTSUPP.
        Errno::OPNOTSUPP if fast_zero => Failure::NotSup,
        Errno::OVERFLOW if whole => Failure::Overflow,
        _ => Failure::Inval,
    };
    refused(failure, "")
}
