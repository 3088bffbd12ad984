//! What a hostile client may say in the transmission phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| pydisk::frontends::nbd::fuzzing::transmission(script));
