//! What the processes of an attachment may say to each other.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::messages(input));
