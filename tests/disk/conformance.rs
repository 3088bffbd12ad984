//! The conformance suite over the disks that need neither a kernel nor Python.
use std::sync::Arc;

use pydisk::disk::memory::{Builder, Fault, Memory};
use pydisk::disk::{BlockSizes, Cache, Disk, Errno, Fua, Limits, OpKind};
use pydisk::layers::{Check, Emulate, Stack};

use crate::serial::Serial;
use support::conformance::{SMALLEST, Subject, suite, suite_of_open};

/// Run the suite on `wrap`ped memory with each set of limits that `sets` names.
fn over(name: &str, sets: &[Set], wrap: &dyn Fn(Memory) -> Arc<dyn Disk>) {
    for (set, change) in sets {
        let build = || change(Memory::builder(SMALLEST + 8192)).build();
        let failing = |kind: OpKind, errno: Errno| {
            let memory = build();
            memory.inject(Fault::fail(errno).on(kind).forever());
            // Where zero is done by writing, that must fail for zero to fail; and so on.
            if kind == OpKind::Zero {
                memory.inject(Fault::fail(errno).on(OpKind::Write).forever());
            }
            if kind == OpKind::Cache {
                memory.inject(Fault::fail(errno).on(OpKind::Read).forever());
            }
            wrap(memory)
        };
        let make = || wrap(build());
        suite(&Subject::new(&format!("{name}, {set}"), &make).failing(&failing));
    }
}

type Set = (&'static str, fn(Builder) -> Builder);

/// Limits that a disk may have by itself.
const SETS: &[Set] = &[
    ("everything", |builder| builder),
    ("read-only", |builder| {
        builder.limits(|limits| *limits = Limits::read_only(limits.size))
    }),
    ("write only", |builder| {
        builder.limits(|limits| {
            *limits = Limits {
                read_only: false,
                ..Limits::read_only(limits.size)
            }
        })
    }),
    ("strict blocks of 4096", |builder| {
        builder.limits(|limits| {
            limits.strict_blocks = true;
            limits.block = blocks(4096, 64 << 10);
        })
    }),
    ("no fast zero, rubbish after trim", |builder| {
        builder
            .trim_fill(0xa5)
            .limits(|limits| limits.fast_zero = false)
    }),
    ("emulated FUA, no extents", |builder| {
        builder.limits(|limits| {
            limits.fua = Fua::Emulate;
            limits.extents = false;
        })
    }),
];

/// Limits that leave work for `Emulate`.
const GAPS: &[Set] = &[
    ("no zero", |builder| {
        builder.limits(|limits| limits.zero = false)
    }),
    ("nothing but reads and writes", |builder| {
        builder.limits(|limits| {
            *limits = Limits {
                read_only: false,
                parallel: true,
                ..Limits::read_only(limits.size)
            }
        })
    }),
    ("blocks of 512, at most 1024", |builder| {
        builder.limits(|limits| {
            limits.strict_blocks = true;
            limits.block = blocks(512, 1024);
        })
    }),
    (
        "blocks of 65536, no zero, emulated FUA and cache",
        |builder| {
            builder.trim_fill(0xa5).limits(|limits| {
                limits.strict_blocks = true;
                limits.block = blocks(65536, u32::MAX);
                limits.zero = false;
                limits.fua = Fua::Emulate;
                limits.cache = Cache::Emulate;
            })
        },
    ),
    ("an odd size", |builder| {
        builder.limits(|limits| {
            limits.size += 1000;
            limits.strict_blocks = true;
            limits.block = blocks(4096, 12288);
        })
    }),
];

fn blocks(minimum: u32, maximum: u32) -> BlockSizes {
    BlockSizes {
        minimum,
        preferred: minimum,
        maximum,
    }
}

#[test]
fn memory() {
    over("memory", SETS, &|memory| Arc::new(memory));
}

#[test]
fn check() {
    over("check", SETS, &|memory| Arc::new(Check::new(memory)));
}

#[test]
fn serial() {
    let wrap = |memory| -> Arc<dyn Disk> { Arc::new(Check::new(Serial::new(memory))) };
    over("serial", SETS, &wrap);
}

#[test]
fn emulate() {
    let wrap = |memory| -> Arc<dyn Disk> { Arc::new(Check::new(Emulate::new(Check::new(memory)))) };
    over("emulate", SETS, &wrap);
    over("emulate", GAPS, &wrap);
}

#[test]
fn emulate_over_serial() {
    let wrap = |memory| -> Arc<dyn Disk> {
        Arc::new(Check::new(Emulate::new(Serial::new(Check::new(memory)))))
    };
    over("emulate over serial", SETS, &wrap);
    over("emulate over serial", GAPS, &wrap);
}

#[test]
fn stacks() {
    for (name, stack) in [
        ("device", Stack::for_device(None)),
        ("device with blocks of 4096", Stack::for_device(Some(4096))),
        ("file", Stack::for_file()),
        ("export", Stack::for_exports()),
    ] {
        let wrap = |memory| stack.wrap(Arc::new(memory)).unwrap();
        over(name, SETS, &|memory| wrap(memory));
        over(name, GAPS, &|memory| wrap(memory));
        suite_of_open(name, &|| wrap(Memory::new(SMALLEST)), None);
    }
}

#[test]
fn emulate_over_emulate() {
    let wrap = |memory| -> Arc<dyn Disk> {
        let below = Emulate::new(Check::new(memory));
        Arc::new(Check::new(Emulate::new(Check::new(below))))
    };
    over("emulate over emulate", GAPS, &wrap);
}
