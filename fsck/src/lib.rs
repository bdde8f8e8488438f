//! The command-line tools of SEFS, and what they and the mount share: where keys come from, how an image is opened and
//! locked, how options are read, and how a tool speaks.
//!
//! ```text
//! mkfs ─► populate, packing ─► origin ─► source, archive, volume_walk ─► names
//!   └─► place ─► occupant; header_last
//! fsck, debug ─► diff ─► opening ─► lowers ─► image_spec; listing, showing; debug ─► commit ─► mkfs
//! all of them ─► invocation, interrupt, and:
//!
//! image ────────┐
//! mount_options ─► key_source ─► platform_source, config ─► volume_id, anchor, provider ─► report
//!                                  └─► tpm_config              └─► tpm_anchor           tpm_log, of main alone
//! progress, size ──────────────────────────────────────────────┘
//! ```
//! Nothing here runs inside an enclave: it reads the environment and /etc, which a host controls.
#![forbid(unsafe_code)]

pub mod anchor;
mod archive;
mod commit;
pub mod config;
pub mod debug;
pub mod demo;
pub mod diff;
pub mod fsck;
pub mod header_last;
pub mod image;
pub mod image_spec;
pub mod interrupt;
pub mod invocation;
pub mod io;
pub mod key_source;
pub mod listing;
pub mod lowers;
pub mod manifests;
pub mod mkfs;
mod mkfs_origin;
mod mkfs_packed;
pub mod mount_options;
pub mod names;
pub mod new_anchor;
pub mod occupant;
pub mod opening;
mod origin;
mod packing;
pub mod place;
pub mod platform_source;
pub mod populate;
pub mod progress;
pub mod provider;
pub mod report;
pub mod root_digest;
pub mod sealing_tool;
mod showing;
pub mod size;
pub mod source;
#[cfg(feature = "tpm")]
pub mod tpm_anchor;
#[cfg(feature = "tpm")]
pub mod tpm_config;
#[cfg(feature = "tpm")]
pub mod tpm_log;
pub mod volume_id;
mod volume_walk;

pub use image::{Image, ImageUse};
pub use image_spec::ImageSpec;
pub use key_source::{KeyArgs, KeySource};
pub use mount_options::MountOptions;
pub use progress::Progress;
pub use provider::CryptoKind;
pub use report::{Failure, FsckExit, MountExit, Output, Tool, harden};
pub use root_digest::RootDigest;
pub use volume_id::VolumeId;

#[cfg(test)]
mod tests {
    use std::io::Write;

    /// Says that a test did not run: past the capture of the output of tests that pass, so that it is seen and counted.
    pub(crate) fn skipped(why: &str) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    }
}
