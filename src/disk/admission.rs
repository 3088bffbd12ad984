//! Which requests the limits of a disk allow. The layer `check` asks on every hop, and the reference disk
//! of the tests by itself.

use super::{Cache, Errno, Error, Flags, Fua, Limits, Op, OpKind, Request, Result};

impl Limits {
    /// Whether a disk with these limits may be sent `request`.
    ///
    /// # Errors
    /// The errno that `layers::Check` lists for what is wrong with it.
    pub fn admit(&self, request: &Request<'_>) -> Result {
        let kind = request.op.kind();
        let foreign = request.flags.difference(flags_of(kind));
        if !foreign.is_empty() {
            return refuse(
                Errno::INVAL,
                format!(
                    "flags {:#x} do not belong to a {}",
                    foreign.bits(),
                    kind.word()
                ),
            );
        }
        if kind.modifies() && self.read_only {
            return refuse(Errno::ROFS, "the disk is read-only");
        }
        offered(self, kind, request.flags)?;
        if matches!(request.op, Op::Flush) {
            if request.at == 0 {
                return Ok(());
            }
            return refuse(Errno::INVAL, "a flush has no offset");
        }
        in_range(self, request)?;
        if self.strict_blocks {
            return in_blocks(self, request);
        }
        Ok(())
    }
}

/// The flags that an operation can carry.
fn flags_of(kind: OpKind) -> Flags {
    match kind {
        OpKind::Write | OpKind::Trim => Flags::FUA,
        OpKind::Zero => Flags::FUA | Flags::MAY_TRIM | Flags::FAST_ZERO,
        OpKind::Read | OpKind::Cache | OpKind::Flush => Flags::empty(),
    }
}

/// Whether the limits offer the operation and its flags.
fn offered(limits: &Limits, kind: OpKind, flags: Flags) -> Result {
    let missing = match kind {
        OpKind::Read | OpKind::Write => false,
        OpKind::Zero => !limits.zero,
        OpKind::Trim => !limits.trim,
        OpKind::Cache => limits.cache == Cache::None,
        OpKind::Flush => !limits.flush && limits.fua != Fua::Emulate,
    };
    if missing {
        return refuse(Errno::INVAL, format!("the disk has no {}", kind.word()));
    }
    if flags.contains(Flags::FUA) && limits.fua == Fua::None {
        return refuse(Errno::INVAL, "the disk has no FUA");
    }
    if flags.contains(Flags::FAST_ZERO) && !limits.fast_zero {
        return refuse(Errno::NOTSUP, "the disk has no fast zero");
    }
    Ok(())
}

fn in_range(limits: &Limits, request: &Request<'_>) -> Result {
    if request.op.is_empty() {
        return refuse(Errno::INVAL, "a request for no byte at all");
    }
    if request.range().end <= limits.size {
        return Ok(());
    }
    let errno = if request.op.kind().modifies() {
        Errno::NOSPC
    } else {
        Errno::INVAL
    };
    refuse(
        errno,
        format!("past the end of the disk of {} bytes", limits.size),
    )
}

fn in_blocks(limits: &Limits, request: &Request<'_>) -> Result {
    let (minimum, maximum) = (limits.block.minimum.max(1), limits.block.maximum);
    let len = request.op.len();
    if !request.at.is_multiple_of(minimum.into()) || !len.is_multiple_of(minimum.into()) {
        return refuse(
            Errno::INVAL,
            format!("the disk takes whole blocks of {minimum} bytes"),
        );
    }
    let has_memory = matches!(request.op, Op::Read(_) | Op::Write(_));
    if has_memory && maximum != u32::MAX && len > maximum.into() {
        return refuse(
            Errno::INVAL,
            format!("the disk takes at most {maximum} bytes in a request"),
        );
    }
    Ok(())
}

fn refuse(errno: Errno, cause: impl Into<String>) -> Result {
    Err(Error::new(errno, cause.into()))
}
