//! What the command-line tools of SEFS share: where keys come from, how an image is opened and locked, how options are
//! read, and how a tool speaks.
//!
//! ```text
//! image ────────┐
//! mount_options ─► key_source ─► config ─► volume_id, anchor ─► report
//! progress, size ──────────────────────────────────────────────┘
//! ```
//! Nothing here runs inside an enclave: it reads the environment and /etc, which a host controls.
#![forbid(unsafe_code)]

pub mod anchor;
pub mod config;
pub mod image;
pub mod key_source;
pub mod mount_options;
pub mod progress;
pub mod report;
pub mod size;
pub mod volume_id;

pub use image::{Image, ImageUse};
pub use key_source::{KeyArgs, KeySource};
pub use mount_options::MountOptions;
pub use progress::Progress;
pub use report::{Failure, FsckExit, MountExit, Output, Tool, harden};
pub use volume_id::VolumeId;
