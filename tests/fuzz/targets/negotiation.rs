//! What a hostile client may say in the negotiation phase.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| pydisk::frontends::nbd::fuzzing::negotiation(script));
