//! How the ublk driver may describe requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pydisk::fuzzing::ublk_requests(input));
