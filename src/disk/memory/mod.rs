//! The reference disk: sparse memory with every capability, each of which can be taken away, and
//! with faults, crashes and a record of its calls for tests. Tests in every folder use it; the
//! product does not (the plugin `memory` is written in Python).

use std::ops::Range;

use parking_lot::Mutex;

use super::{
    BlockSizes, Cache, Disk, Errno, Error, Extents, Flags, Fua, Limits, Op, OpKind, OpenDisk,
    Request, Result,
};

mod fault;
mod pages;
mod plain;

pub use fault::{Effect, Fault};
use pages::Pages;
pub use plain::Plain;

/// A disk in memory.
///
/// It refuses by itself what the layer `check` would refuse, and further: [`Flags::FUA`] where it
/// says [`Fua::Emulate`], because then somebody above was to send a flush, and a second thread
/// where it says that it is not [`Limits::parallel`].
#[derive(Debug)]
pub struct Memory {
    limits: Limits,
    trim_fill: Option<u8>,
    recording: bool,
    /// Held while one request works on the pages; never while one is delayed.
    state: Mutex<State>,
    /// Held by the one request that a disk that is not parallel serves at a time.
    alone: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// What a read sees.
    now: Pages,
    /// What a crash leaves.
    stable: Pages,
    calls: Vec<Call>,
    faults: Vec<Fault>,
}

/// One request that reached a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which operation.
    pub kind: OpKind,
    /// First byte.
    pub at: u64,
    /// Bytes.
    pub len: u64,
    /// Flags as they arrived.
    pub flags: Flags,
}

/// Makes a [`Memory`] other than the one with every capability.
#[derive(Clone, Debug)]
pub struct Builder {
    limits: Limits,
    trim_fill: Option<u8>,
    recording: bool,
}

impl Builder {
    /// Change what the disk says of itself, and with it what it does.
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Trimmed bytes read as `byte` where they held data, not as zeroes: for whoever might take a
    /// trim for a way to zero.
    #[must_use]
    pub fn trim_fill(mut self, byte: u8) -> Self {
        self.trim_fill = Some(byte);
        self
    }

    /// Keep a list of the requests that arrive, for [`Memory::calls`].
    #[must_use]
    pub fn record(mut self) -> Self {
        self.recording = true;
        self
    }

    /// The disk.
    #[must_use]
    pub fn build(self) -> Memory {
        Memory {
            limits: self.limits,
            trim_fill: self.trim_fill,
            recording: self.recording,
            state: Mutex::default(),
            alone: Mutex::new(()),
        }
    }
}

impl Memory {
    /// A disk of `size` zeroes that can do everything.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self::builder(size).build()
    }

    /// The start of a disk of `size` zeroes that can do everything.
    #[must_use]
    pub fn builder(size: u64) -> Builder {
        Builder {
            limits: Limits {
                size,
                block: BlockSizes::ANY,
                strict_blocks: false,
                read_only: false,
                rotational: false,
                flush: true,
                fua: Fua::Native,
                trim: true,
                zero: true,
                fast_zero: true,
                cache: Cache::Native,
                extents: true,
                multi_conn: true,
                parallel: true,
            },
            trim_fill: None,
            recording: false,
        }
    }

    /// Let requests go wrong. Faults are asked in the order in which they were injected; the first
    /// that strikes is the one.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// Forget the faults that did not strike yet.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Lose everything that was written but not made durable by a flush or by FUA. A disk without
    /// [`Limits::flush`] has no cache and loses nothing.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.now = state.stable.clone().settled();
    }

    /// Take the record of the requests since the last time; the ones that failed are in it too.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// What the disk holds, read past limits, faults and the record.
    #[must_use]
    pub fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.state.lock().now.read(at, &mut bytes);
        bytes
    }

    /// Record a request and find what shall become of it.
    fn arrive(&self, request: &Request<'_>) -> Option<Effect> {
        let mut state = self.state.lock();
        if self.recording {
            state.calls.push(Call {
                kind: request.op.kind(),
                at: request.at,
                len: request.op.len(),
                flags: request.flags,
            });
        }
        let effect = state
            .faults
            .iter_mut()
            .find_map(|fault| fault.strike(request));
        state.faults.retain(|fault| !fault.is_spent());
        effect
    }

    fn work(&self, request: Request<'_>) {
        let range = request.range();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        match request.op {
            Op::Read(buf) => return state.now.read(range.start, buf),
            Op::Cache(_) => return,
            Op::Flush => return state.stable.settle(&mut state.now),
            Op::Write(_) | Op::Zero(_) | Op::Trim(_) => (),
        }
        self.change(&mut state.now, &request, &range);
        if request.flags.contains(Flags::FUA) || !self.limits.flush {
            self.change(&mut state.stable, &request, &range);
        }
    }

    fn change(&self, pages: &mut Pages, request: &Request<'_>, range: &Range<u64>) {
        match &request.op {
            Op::Write(data) => pages.write(range.start, data),
            Op::Zero(_) => {
                if request.flags.contains(Flags::MAY_TRIM) {
                    pages.drop_whole(range);
                }
                pages.fill(range, 0);
            }
            Op::Trim(_) => match self.trim_fill {
                Some(byte) => pages.fill(range, byte),
                None => pages.drop_whole(range),
            },
            Op::Read(_) | Op::Cache(_) | Op::Flush => (),
        }
    }
}

impl Disk for Memory {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn serve(&self, request: Request<'_>) -> Result {
        let _alone = if self.limits.parallel {
            None
        } else {
            Some(self.alone.try_lock().ok_or_else(|| {
                Error::new(Errno::IO, "two requests at once to a disk that takes one")
            })?)
        };
        self.limits.admit(&request)?;
        if self.limits.fua == Fua::Emulate && request.flags.contains(Flags::FUA) {
            return Err(Error::new(
                Errno::INVAL,
                "FUA was not replaced by a flush above",
            ));
        }
        match self.arrive(&request) {
            None => self.work(request),
            Some(Effect::Delay(time)) => {
                std::thread::sleep(time);
                self.work(request);
            }
            Some(Effect::Fail(errno)) => return Err(Error::new(errno, "injected failure")),
            Some(Effect::Tear(errno)) => {
                self.work(first_half(request));
                return Err(Error::new(errno, "injected failure halfway"));
            }
            Some(Effect::Panic) => panic!("injected panic"),
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>, found: &mut Extents) -> Result {
        if !self.limits.extents {
            found.push(
                range.end.saturating_sub(range.start),
                super::ExtentKind::DATA,
            );
            return Ok(());
        }
        self.state.lock().now.extents(&range, found);
        Ok(())
    }
}

impl OpenDisk for Memory {}

/// The request on the first half of its bytes.
fn first_half(request: Request<'_>) -> Request<'_> {
    let op = match request.op {
        Op::Read(buf) => {
            let half = buf.len() / 2;
            Op::Read(&mut buf[..half])
        }
        Op::Write(buf) => Op::Write(&buf[..buf.len() / 2]),
        Op::Zero(len) => Op::Zero(len / 2),
        Op::Trim(len) => Op::Trim(len / 2),
        Op::Cache(len) => Op::Cache(len / 2),
        // Half a flush is none.
        Op::Flush => Op::Cache(0),
    };
    Request { op, ..request }
}

#[cfg(test)]
mod tests;
