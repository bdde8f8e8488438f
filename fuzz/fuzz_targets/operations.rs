//! See [`sefs_fuzz::operations`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::operations::run(input));
