//! What a hostile client may say in the transmission phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::transmission(input));
