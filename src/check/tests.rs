//! The check itself, on disks that are known to be right. `tests/attachments/check.rs` has those that are not.

use super::*;
use crate::disk::memory::Memory;
use crate::disk::{BlockSizes, Fua, OpenDisk};

fn found(change: impl Fn(&mut Limits), size: u64, seed: u64) -> Vec<Trouble> {
    let memory = Arc::new(
        Memory::builder(size)
            .limits(|limits| {
                // Nothing is put around it here.
                limits.fua = Fua::Native;
                change(limits);
            })
            .build(),
    );
    let report = Report::default();
    let plan = Plan {
        seed,
        steps: 60,
        write: true,
    };
    let open = || Ok(Arc::clone(&memory) as Arc<dyn OpenDisk>);
    run(&open, plan, &report, &Watch::default()).unwrap();
    report.troubles()
}

#[test]
fn a_right_disk_of_any_size_has_no_trouble() {
    for (seed, size) in [
        (1, 1),
        (2, 511),
        (3, 512),
        (4, 4097),
        (5, 100_000),
        (6, 3 << 20),
    ] {
        assert_eq!(found(|_| (), size, seed), [], "{size}");
    }
}

#[test]
fn requests_keep_to_the_blocks_of_the_disk() {
    for (seed, minimum, maximum) in [(1, 512, 512), (2, 512, 65536), (3, 65536, 1 << 20)] {
        let blocks = |limits: &mut Limits| {
            limits.block = BlockSizes {
                minimum,
                preferred: minimum.max(4096),
                maximum,
            };
            limits.strict_blocks = true;
        };
        assert_eq!(found(blocks, 1 << 20, seed), [], "{minimum}");
    }
}

#[test]
fn what_a_disk_cannot_do_is_not_asked_of_it() {
    let none = |limits: &mut Limits| {
        limits.flush = false;
        limits.fua = Fua::None;
        limits.trim = false;
        limits.zero = false;
        limits.extents = false;
        limits.fast_zero = false;
    };
    assert_eq!(found(none, 1 << 20, 1), []);
    assert_eq!(found(|limits| limits.read_only = true, 1 << 20, 2), []);
}
