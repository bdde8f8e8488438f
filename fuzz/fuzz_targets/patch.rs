//! See [`sefs_fuzz::patch`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::patch::run(input));
