//! Descriptors that the user's shell or systemd gave to `pydisk attach` and that are for the worker:
//! they go down from process to process under the numbers that they have.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use pydisk_kernel::activation::adopt;
use rustix::io::{FdFlags, fcntl_setfd};

/// Descriptors on their way to the worker.
#[derive(Debug, Default)]
pub struct Passing(Vec<OwnedFd>);

impl Passing {
    /// These.
    #[must_use]
    pub fn new(descriptors: Vec<OwnedFd>) -> Self {
        Self(descriptors)
    }

    /// Those that this process has inherited under these numbers. Call it before anything else marks
    /// what is inherited.
    ///
    /// # Errors
    /// `EBADF` if there is none of such a number.
    pub fn inherited(numbers: &[RawFd]) -> io::Result<Self> {
        let descriptors = numbers.iter().map(|number| adopt(*number));
        Ok(Self(descriptors.collect::<io::Result<_>>()?))
    }

    /// These as well.
    pub fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// What the parameters of a plugin mean by `-FD`, as far as this process has inherited such
    /// descriptors.
    #[must_use]
    pub fn named_in(parameters: &[(String, String)]) -> Self {
        let numbers = parameters.iter().filter_map(|(_, value)| {
            let number = value.strip_prefix('-')?.parse::<RawFd>().ok()?;
            (number > 2).then_some(number)
        });
        // A value may mean something else altogether.
        Self(numbers.filter_map(|number| adopt(number).ok()).collect())
    }

    /// The numbers that the next process finds them under.
    #[must_use]
    pub fn numbers(&self) -> Vec<RawFd> {
        self.0.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// The descriptors themselves.
    #[must_use]
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.0
    }

    /// Start a process that inherits them. This one has them no more afterwards.
    ///
    /// # Errors
    /// What `start` says.
    pub fn hand_over<T>(self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        for descriptor in &self.0 {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        start()
    }
}
