//! See [`sefs_fuzz::mkfs_input`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::mkfs_input::run(input));
