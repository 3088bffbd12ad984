//! The Linux interfaces that pydisk stands on, and nothing else: no `Disk`, no policy, no Python.

pub mod activation;
mod elsewhere;
pub mod fuse;
pub mod loopdev;
pub mod mounts;
pub mod pages;
pub mod peer;
pub mod probe;
pub mod process;
pub mod ublk;
pub mod usage;
pub mod vsock;
