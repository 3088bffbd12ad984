//! Whether the partition table on a device was made for blocks of the size that the device has: the kernel finds no
//! partitions otherwise, and says nothing.

use std::path::Path;
use std::time::Duration;

use pydisk_kernel::partitions::Table;

use crate::disk::Limits;
use crate::frontends;

/// How long a look may take. The device has been read before, so the kernel mostly has the answer.
const LOOK: Duration = Duration::from_secs(5);

/// Warn if the device at `path` has partitions that its users will not find.
pub(super) fn warn(path: &Path, limits: &Limits, logical_block: Option<u32>) {
    let block = frontends::logical_block(limits, logical_block);
    match Table::of(path, LOOK) {
        Ok(table) => {
            if let Some(other) = table.made_for(block, limits.size) {
                log::warn!(
                    "{}: the partition table was made for blocks of {other} bytes, and those of the device have \
                     {block}: its partitions are not found, but with `--logical-block-size {other}`",
                    path.display()
                );
            }
        }
        Err(error) => log::debug!(
            "{}: no look at the partition table: {error}",
            path.display()
        ),
    }
}
