//! Threads for those parts that know the plugin's side of a disk only, and not the kernel's.

pub(crate) use pydisk_kernel::process::coarse_milliseconds;
pub(crate) use pydisk_kernel::single_thread::SingleThread;
pub(crate) use pydisk_kernel::threads::deep;
