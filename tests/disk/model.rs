//! Random requests against a plain model of a disk: what is acknowledged is read back, what is
//! flushed survives a crash, also when requests below fail halfway.
//!
//! `PYDISK_SEED=N` repeats a run, `PYDISK_STEPS=N` makes it longer.
use std::sync::Arc;

use fastrand::Rng;
use pydisk::disk::memory::{Builder, Effect, Fault, Memory};
use pydisk::disk::{
    BlockSizes, Cache, Disk, Errno, ExtentKind, Extents, Flags, Fua, Op, OpKind, Request,
};
use pydisk::layers::{Check, Emulate};

use crate::serial::Serial;

/// Not a multiple of any block but 512, so that the end is odd as well.
const SIZE: u64 = (256 << 10) + 512;

/// Longest request; more than the maximum of some disks, less than the disk.
const LONGEST: u64 = 80 << 10;

/// What is known of a byte.
#[derive(Clone, Copy)]
struct Byte {
    value: u8,
    /// `value` is what a read must find.
    known: bool,
    /// Changed since the last flush: after a crash it may be anything that it was.
    loose: bool,
}

struct Model {
    bytes: Vec<Byte>,
}

impl Model {
    fn new(size: u64) -> Self {
        let zero = Byte {
            value: 0,
            known: true,
            loose: false,
        };
        Self {
            bytes: vec![zero; usize::try_from(size).unwrap()],
        }
    }

    fn part(&mut self, at: u64, len: u64) -> &mut [Byte] {
        let at = usize::try_from(at).unwrap();
        &mut self.bytes[at..at + usize::try_from(len).unwrap()]
    }

    fn hold(&mut self, at: u64, data: &[u8], durable: bool) {
        for (byte, &value) in self.part(at, data.len() as u64).iter_mut().zip(data) {
            *byte = Byte {
                value,
                known: true,
                loose: !durable,
            };
        }
    }

    fn forget(&mut self, at: u64, len: u64) {
        for byte in self.part(at, len) {
            byte.known = false;
            byte.loose = true;
        }
    }

    /// Compare with what was read, and learn what was not known.
    fn compare(&mut self, at: u64, found: &[u8]) {
        for (index, (byte, &value)) in self
            .part(at, found.len() as u64)
            .iter_mut()
            .zip(found)
            .enumerate()
        {
            assert!(
                !byte.known || byte.value == value,
                "byte {} is {value:#x}, not {:#x}",
                at + index as u64,
                byte.value
            );
            byte.value = value;
            byte.known = true;
        }
    }

    fn flushed(&mut self) {
        for byte in &mut self.bytes {
            byte.loose = false;
        }
    }

    fn crashed(&mut self) {
        for byte in &mut self.bytes {
            byte.known &= !byte.loose;
            // Whatever it is now, it is on the medium.
            byte.loose = false;
        }
    }
}

/// One run: a disk, the memory at its bottom, and the model.
struct Run {
    disk: Arc<dyn Disk>,
    memory: Arc<Memory>,
    model: Model,
    random: Rng,
    faults: bool,
}

impl Run {
    fn step(&mut self) {
        if self.faults && self.random.u8(..) < 16 {
            self.break_something();
        }
        let size = self.disk.limits().size;
        let (at, len) = self.range(size);
        match self.random.u8(..100) {
            0..30 => self.read(at, len),
            30..60 => self.write(at, len),
            60..75 => self.zero(at, len),
            75..82 => self.trim(at, len),
            82..86 => self.cache(at, len),
            86..90 => self.extents(at, len),
            90..98 => self.flush(),
            _ => self.crash(),
        }
        self.memory.heal();
    }

    /// A range within the disk: often short, often at the edges of blocks, at times long.
    fn range(&mut self, size: u64) -> (u64, u64) {
        let unit = *self.random.choice(&[1, 1, 512, 4096]).unwrap();
        let most = *self.random.choice(&[700, 9000, LONGEST]).unwrap();
        let at = self.random.u64(..size) / unit * unit;
        let len = (self.random.u64(1..=most)).next_multiple_of(unit);
        (at, len.min(size - at))
    }

    fn break_something(&mut self) {
        let errno = *self.random.choice(&[Errno::IO, Errno::NOSPC]).unwrap();
        let effect = match self.random.u8(..4) {
            0 => Effect::Tear(errno),
            1 => Effect::Fail(Errno::OPNOTSUPP),
            _ => Effect::Fail(errno),
        };
        let fault = Fault::new(effect).after(self.random.u64(..4));
        self.memory.inject(match self.random.u8(..4) {
            0 => fault.on(OpKind::Zero),
            1 => fault.on(OpKind::Flush),
            2 => fault.on(OpKind::Write),
            _ => fault,
        });
    }

    /// Serve a request; without faults it must succeed.
    fn serve(&self, op: Op<'_>, at: u64, flags: Flags) -> bool {
        let text = format!("{} at {at}+{} {flags:?}", op.kind().word(), op.len());
        match self.disk.serve(Request::new(op, at).with_flags(flags)) {
            Ok(()) => true,
            Err(_) if self.faults => false,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn fua(&mut self) -> Flags {
        if self.disk.limits().fua != Fua::None && self.random.u8(..4) == 0 {
            return Flags::FUA;
        }
        Flags::empty()
    }

    fn is_durable(&self, flags: Flags) -> bool {
        flags.contains(Flags::FUA) || !self.disk.limits().flush
    }

    /// Emulated FUA is a flush, and that makes everything durable. The model does not use it: more
    /// than what was asked for need not survive.
    fn changed(&mut self, at: u64, data: &[u8], flags: Flags) {
        let durable = self.is_durable(flags);
        self.model.hold(at, data, durable);
    }

    fn read(&mut self, at: u64, len: u64) {
        let mut buf = vec![0xee; usize::try_from(len).unwrap()];
        if self.serve(Op::Read(&mut buf), at, Flags::empty()) {
            self.model.compare(at, &buf);
        }
    }

    fn write(&mut self, at: u64, len: u64) {
        let value = self.random.u8(..);
        let data: Vec<u8> = (0..len).map(|index| value ^ (index % 251) as u8).collect();
        let flags = self.fua();
        if self.serve(Op::Write(&data), at, flags) {
            return self.changed(at, &data, flags);
        }
        self.model.forget(at, len);
    }

    fn zero(&mut self, at: u64, len: u64) {
        if !self.disk.limits().zero {
            return;
        }
        let mut flags = self.fua();
        flags.set(Flags::MAY_TRIM, self.random.bool());
        let fast = self.disk.limits().fast_zero && self.random.u8(..8) == 0;
        flags.set(Flags::FAST_ZERO, fast);
        let request = Request::new(Op::Zero(len), at).with_flags(flags);
        match self.disk.serve(request) {
            Ok(()) => {
                let zeroes = vec![0; usize::try_from(len).unwrap()];
                self.changed(at, &zeroes, flags);
            }
            // Nothing was written: the model stays.
            Err(error) if fast && error.errno == Errno::NOTSUP => (),
            Err(_) if self.faults => self.model.forget(at, len),
            Err(error) => panic!("zero at {at}+{len} {flags:?}: {error}"),
        }
    }

    fn trim(&mut self, at: u64, len: u64) {
        if !self.disk.limits().trim {
            return;
        }
        let flags = self.fua();
        self.serve(Op::Trim(len), at, flags);
        self.model.forget(at, len);
    }

    fn cache(&self, at: u64, len: u64) {
        if self.disk.limits().cache != Cache::None {
            self.serve(Op::Cache(len), at, Flags::empty());
        }
    }

    fn extents(&mut self, at: u64, len: u64) {
        let mut found = Extents::starting_at(at);
        self.disk.extents(at..at + len, &mut found).unwrap();
        for extent in found.list() {
            let len = extent.len.min(at + len - extent.at);
            if extent.kind.contains(ExtentKind::ZERO) {
                let zeroes = vec![0; usize::try_from(len).unwrap()];
                self.model.compare(extent.at, &zeroes);
            }
        }
    }

    fn flush(&mut self) {
        if self.disk.limits().flush && self.serve(Op::Flush, 0, Flags::empty()) {
            self.model.flushed();
        }
    }

    fn crash(&mut self) {
        self.memory.crash();
        self.model.crashed();
        self.verify();
    }

    /// Compare the whole disk.
    fn verify(&mut self) {
        self.memory.heal();
        let size = self.disk.limits().size;
        self.read(0, size);
    }
}

/// Run the steps on memory that `change` prepared and `wrap` made whole.
fn run(
    name: &str,
    change: impl Fn(Builder) -> Builder,
    wrap: impl Fn(Arc<Memory>) -> Arc<dyn Disk>,
) {
    for faults in [false, true] {
        let seed = number("PYDISK_SEED").unwrap_or_else(|| fastrand::u64(..));
        #[expect(clippy::print_stderr, reason = "how to repeat this run, if it fails")]
        {
            eprintln!("{name}, faults {faults}: PYDISK_SEED={seed}");
        }
        let memory = Arc::new(change(Memory::builder(SIZE)).build());
        let disk = wrap(Arc::clone(&memory));
        let mut run = Run {
            model: Model::new(disk.limits().size),
            random: Rng::with_seed(seed),
            disk,
            memory,
            faults,
        };
        for _ in 0..number("PYDISK_STEPS").unwrap_or(2000) {
            run.step();
        }
        run.verify();
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number is set in the environment"))
}

fn blocks(minimum: u32, maximum: u32) -> impl Fn(Builder) -> Builder {
    move |builder| {
        builder.limits(|limits| {
            limits.strict_blocks = true;
            limits.block = BlockSizes {
                minimum,
                preferred: minimum.max(512),
                maximum,
            };
        })
    }
}

fn emulated(memory: Arc<Memory>) -> Arc<dyn Disk> {
    Arc::new(Check::new(Emulate::new(Check::new(memory))))
}

#[test]
fn memory_alone() {
    run(
        "memory",
        |builder| builder,
        |memory| Arc::new(Check::new(memory)),
    );
}

#[test]
fn serial_memory() {
    run(
        "serial",
        |builder| builder.trim_fill(0xa5),
        |memory| Arc::new(Check::new(Serial::new(memory))),
    );
}

#[test]
fn blocks_of_512() {
    run("blocks of 512", blocks(512, 1024), emulated);
}

#[test]
fn blocks_of_4096_without_zero() {
    let change = |builder| {
        blocks(4096, 12288)(builder)
            .trim_fill(0xa5)
            .limits(|limits| limits.zero = false)
    };
    run("blocks of 4096 without zero", change, emulated);
}

#[test]
fn blocks_of_65536_with_emulated_fua() {
    let change = |builder| {
        blocks(65536, u32::MAX)(builder).limits(|limits| {
            limits.fua = Fua::Emulate;
            limits.fast_zero = false;
            limits.cache = Cache::Emulate;
        })
    };
    run("blocks of 65536 with emulated FUA", change, emulated);
}

#[test]
fn emulated_fua_without_zero_or_extents() {
    let change = |builder: Builder| {
        builder.limits(|limits| {
            limits.fua = Fua::Emulate;
            limits.zero = false;
            limits.extents = false;
            limits.cache = Cache::None;
        })
    };
    run("emulated FUA without zero or extents", change, emulated);
}

#[test]
fn no_cache_and_no_trim() {
    let change = |builder: Builder| {
        builder.limits(|limits| {
            limits.fua = Fua::None;
            limits.flush = false;
            limits.trim = false;
        })
    };
    run("no cache and no trim", change, emulated);
}

#[test]
fn two_layers_of_emulation() {
    let wrap = |memory| -> Arc<dyn Disk> {
        Arc::new(Check::new(Emulate::new(Check::new(Emulate::new(memory)))))
    };
    let change = |builder| blocks(4096, 8192)(builder).limits(|limits| limits.fua = Fua::Emulate);
    run("two layers of emulation", change, wrap);
}
