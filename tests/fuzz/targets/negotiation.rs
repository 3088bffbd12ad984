//! What a hostile client may say in the negotiation phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::negotiation(input));
