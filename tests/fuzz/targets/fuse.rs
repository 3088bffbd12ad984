//! What the kernel may ask of a file by FUSE.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::fuse_calls(input));
