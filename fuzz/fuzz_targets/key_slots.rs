//! See [`sefs_fuzz::key_slots`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::key_slots::run(input));
