//! What may stand in an attachment's folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::state(input));
