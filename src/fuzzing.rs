//! What the fuzz targets of `tests/fuzz` call, one function a target, and what they have in common.
//!
//! The functions lie beside what they test. They panic where a promise is broken.

pub use crate::attachment::fuzzing::messages;
pub use crate::cli::{state, words};
pub use crate::frontends::nbd::fuzzing::{negotiation, transmission};
pub use crate::frontends::{fuse_calls, ublk_requests};

/// What is left of a script; it goes on with zeroes.
#[derive(Debug)]
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::try_from(self.u64(4)).expect("four bytes")
    }

    pub(crate) fn u64(&mut self, bytes: usize) -> u64 {
        let taken = self.take(bytes).iter();
        taken.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number on which something may hang: small, round, near the ends of a disk of `size` or of
    /// all numbers, or any.
    pub(crate) fn number(&mut self, size: u64) -> u64 {
        match self.u8() {
            kind @ 0..64 => u64::from(kind) * 512,
            64..128 => self.u64(2),
            128..160 => self.u64(2) * 512,
            160..192 => size.wrapping_sub(self.u64(2)),
            192..224 => u64::from(u32::MAX) - self.u64(1),
            224..240 => u64::MAX - self.u64(1),
            _ => self.u64(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 7] = [
        ("fuse", fuse_calls),
        ("messages", messages),
        ("negotiation", negotiation),
        ("state", state),
        ("transmission", transmission),
        ("ublk", ublk_requests),
        ("words", words),
    ];

    /// Inputs that fuzzing found worth keeping.
    fn kept(target: &str) -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/");
        let entries = std::fs::read_dir(format!("{folder}{target}")).unwrap();
        let read = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.unwrap().path());
        let inputs: Vec<_> = entries.map(|entry| read(entry).unwrap()).collect();
        assert!(!inputs.is_empty());
        inputs
    }

    #[test]
    fn every_target_has_its_inputs_kept_and_is_run() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/");
        for place in ["seeds", "targets"] {
            let entries = std::fs::read_dir(format!("{folder}{place}")).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
                .collect();
            names.sort();
            assert_eq!(names, TARGETS.map(|(name, _)| name), "{place}");
        }
    }

    #[test]
    fn what_fuzzing_kept_breaks_no_promise() {
        for (name, target) in TARGETS {
            kept(name).iter().for_each(|input| target(input));
        }
    }

    #[test]
    fn random_inputs_break_no_promise() {
        let mut rng = crate::chance::random();
        for _ in 0..300 {
            let input: Vec<u8> = (0..rng.usize(1..400)).map(|_| rng.u8(..)).collect();
            for (_, target) in TARGETS {
                target(&input);
            }
        }
    }
}
