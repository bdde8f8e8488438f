//! See [`sefs_fuzz::mount_image_forged`].
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| sefs_fuzz::mount_image_forged::run(input));
