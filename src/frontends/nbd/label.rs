//! The SELinux label of sockets, for systems where a confined client may only connect to those of a
//! certain label. The kernel gives it to what a thread makes while it asks for it.
//! <https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html>

use std::fs;

use crate::{Refusal, ResultExt};

/// Where a thread asks.
const ASKED: &str = "/proc/thread-self/attr/sockcreate";

/// While this lives, sockets that this thread makes get the label.
#[derive(Debug)]
pub(super) struct Labelled(());

impl Labelled {
    /// Ask for a label.
    ///
    /// # Errors
    /// One sentence: there is no SELinux, or it does not know the label.
    pub(super) fn set(label: &str) -> Result<Self, Refusal> {
        fs::write(ASKED, label).refuse(format_args!("SELinux label `{label}`"))?;
        Ok(Self(()))
    }
}

impl Drop for Labelled {
    fn drop(&mut self) {
        if let Err(error) = fs::write(ASKED, "\n") {
            log::warn!("sockets keep the SELinux label: {error}");
        }
    }
}
