//! Fuzz targets: hostile bytes at every door of SEFS.
//!
//! ```text
//! fuzz_targets/*, tests/regressions ─► decode, patch, key_slots, sealed_blob, mkfs_input, operations
//!                                   └► mount_image, mount_image_forged ─► script ─► image ─► edit ─► layered
//! all of them ─► input, suites, memory
//! ```
//! A target is an ordinary function of bytes. libFuzzer calls it with what it makes up, `cargo test` with everything that
//! ever went wrong (`regressions/`). It panics where a promise is broken; the allocator below ends the process when an
//! input makes the product take more memory than it may.
#![forbid(unsafe_code)]

pub mod decode;
pub mod edit;
pub mod image;
pub mod input;
pub mod key_slots;
pub mod layered;
pub mod memory;
pub mod mkfs_input;
pub mod mount_image;
pub mod mount_image_forged;
pub mod operations;
pub mod patch;
pub mod script;
pub mod sealed_blob;
pub mod suites;

/// A fuzz target: its name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 8] = [
    ("decode", decode::run),
    ("patch", patch::run),
    ("mount_image", mount_image::run),
    ("mount_image_forged", mount_image_forged::run),
    ("operations", operations::run),
    ("key_slots", key_slots::run),
    ("mkfs_input", mkfs_input::run),
    ("sealed_blob", sealed_blob::run),
];
