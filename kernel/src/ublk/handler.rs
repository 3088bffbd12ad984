//! What serves the requests of a device, and how one request is shown to it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{Asked, Descriptor};
use super::buffer::Slot;

/// Keeps the memory of a request alive: a clone may be kept after the request is answered, and that
/// memory is then not used for another request.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// What a request asks for.
#[derive(Debug)]
pub enum Op<'a> {
    /// Fill the slice. What it holds before is of no meaning and is no secret: it is what an earlier
    /// request of the same device left there, or zeroes.
    Read(&'a mut [u8]),
    /// Store the slice.
    Write {
        /// The bytes.
        data: &'a [u8],
        /// They must be on stable storage before the request is answered.
        fua: bool,
    },
    /// Bring to stable storage what was answered before.
    Flush,
    /// So many bytes are no longer needed.
    Discard {
        /// Bytes.
        len: u64,
    },
    /// So many bytes shall read back as zeroes.
    WriteZeroes {
        /// Bytes.
        len: u64,
        /// They may be deallocated. Set for `FALLOC_FL_PUNCH_HOLE`, not for `BLKZEROOUT`.
        may_unmap: bool,
    },
}

/// One request of the block layer.
#[derive(Debug)]
pub struct Io<'a> {
    /// What to do, with its memory.
    pub op: Op<'a>,
    /// First byte; 0 for a flush.
    pub at: u64,
    /// Owner of the memory that `op` lies in.
    pub owner: &'a Owner,
}

/// Whoever serves a device. A serial device calls it from one thread, a parallel one from several.
pub trait Handler: Send + Sync {
    /// Serve one request to its end. A panic is answered as `EIO`.
    ///
    /// # Errors
    /// The errno for the application; the block layer knows some of them and makes `EIO` of the
    /// rest. A read's memory is then not handed out.
    fn serve(&self, io: Io<'_>) -> Result<(), Errno>;

    /// Run `work`, which calls [`Handler::serve`] for each request that arrived together.
    fn batch(&self, work: &mut dyn FnMut()) {
        work();
    }

    /// Run `work`, which is all that one of the serving threads does from its start to its end.
    fn lane(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

/// Run `work`, which is all of a serving thread, inside [`Handler::lane`], or without where that
/// does not run it.
///
/// # Errors
/// What `work` says, or that it panicked.
pub(crate) fn in_lane(
    handler: &dyn Handler,
    mut work: impl FnMut() -> Result<(), String> + Send,
) -> Result<(), String> {
    let mut outcome = None;
    let mut once = || {
        if outcome.is_none() {
            let worked = catch_unwind(AssertUnwindSafe(&mut work));
            outcome = Some(worked.unwrap_or_else(|_| Err("a serving thread panicked".into())));
        }
    };
    if catch_unwind(AssertUnwindSafe(|| handler.lane(&mut once))).is_err() {
        log::error!("ublk: a panic around a serving thread");
    }
    once();
    outcome.expect("it was set by `once`")
}

/// What to tell the driver of a request that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// All bytes of a read or write, 0 for others, or -errno. The driver takes a short count for
    /// success, or for a reason to ask again, so there is none.
    pub(crate) result: i32,
    /// Bytes that the driver will take from the memory of the request: those of a read.
    pub(crate) carry: usize,
}

impl Answer {
    fn failure(errno: Errno) -> Self {
        // A handler can make an errno of any number; the driver must not see a success.
        let code = match errno.raw_os_error() {
            code @ 1..=4095 => code,
            _ => Errno::IO.raw_os_error(),
        };
        Self {
            result: -code,
            carry: 0,
        }
    }
}

/// Serve the request in `slot`.
pub(crate) fn answer(
    handler: &dyn Handler,
    described: Result<Descriptor, u32>,
    slot: &mut Slot,
) -> Answer {
    let described = match described {
        Ok(described) => described,
        Err(number) => {
            log::error!("ublk: unknown operation {number}, answered with EOPNOTSUPP");
            return Answer::failure(Errno::OPNOTSUPP);
        }
    };
    let Some(len) = whole_len(&described, slot.len()) else {
        log::error!("ublk: {described:?} is longer than its buffer, answered with EIO");
        return Answer::failure(Errno::IO);
    };
    let io = show(described, slot, len);
    let served = catch_unwind(AssertUnwindSafe(|| handler.serve(io))).unwrap_or(Err(Errno::IO));
    match served {
        Ok(()) => Answer {
            result: i32::try_from(len).expect("a buffer has at most 32 MiB"),
            carry: if described.asked == Asked::Read {
                len
            } else {
                0
            },
        },
        Err(errno) => Answer::failure(errno),
    }
}

/// Bytes of memory that the request works on, if the buffer has them.
fn whole_len(described: &Descriptor, buffer: usize) -> Option<usize> {
    match described.asked {
        Asked::Read | Asked::Write { .. } => usize::try_from(described.len)
            .ok()
            .filter(|&len| len <= buffer),
        Asked::Flush | Asked::Discard | Asked::WriteZeroes { .. } => Some(0),
    }
}

fn show(described: Descriptor, slot: &mut Slot, len: usize) -> Io<'_> {
    let (memory, owner) = slot.split(len);
    let op = match described.asked {
        Asked::Read => Op::Read(memory),
        Asked::Write { fua } => Op::Write { data: memory, fua },
        Asked::Flush => Op::Flush,
        Asked::Discard => Op::Discard { len: described.len },
        Asked::WriteZeroes { may_unmap } => Op::WriteZeroes {
            len: described.len,
            may_unmap,
        },
    };
    Io {
        op,
        at: described.at,
        owner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Answers(fn(Io<'_>) -> Result<(), Errno>);

    impl Handler for Answers {
        fn serve(&self, io: Io<'_>) -> Result<(), Errno> {
            (self.0)(io)
        }
    }

    fn read(len: u64) -> Result<Descriptor, u32> {
        Ok(Descriptor {
            asked: Asked::Read,
            at: 0,
            len,
        })
    }

    fn answered(serve: fn(Io<'_>) -> Result<(), Errno>, described: Result<Descriptor, u32>) -> i32 {
        let mut slot = Slot::new(4096).unwrap();
        answer(&Answers(serve), described, &mut slot).result
    }

    #[test]
    fn a_lane_runs_once_whatever_its_hook_does() {
        struct Hook(fn(&mut (dyn FnMut() + Send)));
        impl Handler for Hook {
            fn serve(&self, _: Io<'_>) -> Result<(), Errno> {
                Ok(())
            }
            fn lane(&self, work: &mut (dyn FnMut() + Send)) {
                (self.0)(work);
            }
        }
        let hooks: [fn(&mut (dyn FnMut() + Send)); 5] = [
            |work| work(),
            |_| {},
            |_| panic!("on purpose, before"),
            |work| {
                work();
                panic!("on purpose, after");
            },
            |work| {
                work();
                work();
            },
        ];
        for hook in hooks {
            let mut runs = 0;
            let outcome = in_lane(&Hook(hook), || {
                runs += 1;
                Err("its end".into())
            });
            assert_eq!((runs, outcome), (1, Err("its end".into())));
            let panicked = in_lane(&Hook(hook), || panic!("on purpose, inside"));
            assert_eq!(panicked, Err("a serving thread panicked".into()));
        }
    }

    #[test]
    fn the_result_is_the_whole_length_or_a_negative_errno() {
        assert_eq!(answered(|_| Ok(()), read(512)), 512);
        assert_eq!(answered(|_| Err(Errno::NOSPC), read(512)), -28);
        assert_eq!(answered(|_| panic!("on purpose"), read(512)), -5);
        assert_eq!(answered(|_| Ok(()), read(8192)), -5);
        assert_eq!(answered(|_| Ok(()), Err(18)), -95);
        let discard = Descriptor {
            asked: Asked::Discard,
            at: 0,
            len: 1 << 30,
        };
        assert_eq!(answered(|_| Ok(()), Ok(discard)), 0);
    }
}
