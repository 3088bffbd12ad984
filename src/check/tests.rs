//! The check itself, on disks of known faults.

use super::*;
