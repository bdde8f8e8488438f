//! Keys for their owners: data sealed to code, and a volume key wrapped once for each way to open it.
//!
//! ```text
//! slot ─► slot_platform ─► blob ─► blob_header ─► policy ─► platform (identity → key)
//!     ├─► slot_shares ─► shares ─► gf256
//!     ├─► body (bytes ↔ values)
//!     └─► argon2id (passphrase → 32 bytes, within limits)
//! explain, approval ─► blob_header
//! platform tpm ─► tpm
//! all of them ─► prk ─► secret, rng, bytes
//! ```
//! This crate knows nothing of filesystems: a slot body is bytes that somebody else stores. `docs/sealing-format.md` says
//! what they mean.
#![forbid(unsafe_code)]

pub mod approval;
mod argon2id;
pub mod blob;
mod blob_header;
mod body;
mod bytes;
pub mod explain;
mod gf256;
pub mod platform;
pub mod policy;
mod prk;
mod rng;
mod secret;
pub mod shares;
mod slot;
mod slot_platform;
mod slot_shares;
#[cfg(feature = "tpm")]
pub mod tpm;

pub use argon2id::{Argon2Cost, Argon2Limits};
pub use blob_header::{BlobHeader, HEADER_LEN as BLOB_HEADER_LEN, Purpose};
pub use body::{MAX_BODY_LEN, SlotKind};
pub use rng::{OsRng, Rng, RngFailed};
pub use secret::{Key, Secret};
pub use slot::{SlotError, SlotSecret, unwrap, wrap};
pub use slot_platform::{Opened, PlatformOwner, open_platform_slot, slot_use};
pub use slot_shares::{set_of_slot, wrap_shares};

/// The signing keys of approvers and dealers, as the crate that makes them has them.
pub use ed25519_dalek::SigningKey;
