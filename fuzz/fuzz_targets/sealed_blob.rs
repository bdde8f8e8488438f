//! See [`sefs_fuzz::sealed_blob`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::sealed_blob::run(input));
