//! See [`sefs_fuzz::decode`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::decode::run(input));
