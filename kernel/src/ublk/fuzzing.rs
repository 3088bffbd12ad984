//! An entry for the fuzz target `ublk`: a request as the driver may describe it, answered without a
//! driver. The target itself stands where a disk is, in the front end.

use rustix::io::Errno;

use super::abi::{Descriptor, ublksrv_io_desc};
use super::buffer::Slot;
use super::handler::{Handler, answer};

/// One tag with its memory.
#[derive(Debug)]
pub struct Tag(Slot);

impl Tag {
    /// A tag whose requests have up to `len` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(len: usize) -> Result<Self, Errno> {
        Slot::new(len).map(Self)
    }

    /// All of the memory.
    pub fn memory(&mut self) -> &mut [u8] {
        self.0.split(self.0.len()).0
    }

    /// Where the memory is.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Answer a request of these words of `struct ublksrv_io_desc`: what the driver is told, and how
    /// many bytes it takes from the memory.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn answer(
        &mut self,
        handler: &dyn Handler,
        op_flags: u32,
        (start_sector, nr_sectors): (u64, u32),
    ) -> Result<(i32, usize), Errno> {
        let described = Descriptor::parse(&ublksrv_io_desc {
            op_flags,
            nr_sectors,
            start_sector,
            addr: 0,
        });
        let answer = answer(handler, described, &mut self.0);
        self.0.renew(answer.carry)?;
        Ok((answer.result, answer.carry))
    }
}
