//! The Linux interfaces that pydisk stands on, and nothing else: no `Disk`, no policy, no Python.

pub mod activation;
pub mod aio;
pub mod callers;
mod device_error;
mod elsewhere;
mod first_read;
pub mod fork_signals;
pub mod fuse;
pub mod loopdev;
pub mod mounts;
pub mod nbd;
mod node;
pub mod pages;
pub mod partitions;
pub mod peer;
pub mod probe;
pub mod proc;
pub mod process;
pub mod readable;
pub mod single_thread;
pub mod stack;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod ublk;
pub mod unforked;
pub mod usage;
pub mod vsock;
mod words;

pub use device_error::{DeviceError, DeviceName, Driver};
