//! Keys for their owners: a volume key, wrapped once for each way to open it.
//!
//! ```text
//! slot (wrap, unwrap) ─► body (bytes ↔ values)
//!                     ├─► argon2id (passphrase → 32 bytes, within limits)
//!                     └─► secret, rng
//! platform (identity → key) ─► secret, bytes
//! ```
//! This crate knows nothing of filesystems: a slot body is bytes that somebody else stores. `docs/sealing-format.md` says
//! what they mean.
#![forbid(unsafe_code)]

mod argon2id;
mod body;
mod bytes;
pub mod platform;
mod rng;
mod secret;
mod slot;

pub use argon2id::{Argon2Cost, Argon2Limits};
pub use body::{MAX_BODY_LEN, SlotKind};
pub use rng::{OsRng, Rng, RngFailed};
pub use secret::{Key, Secret};
pub use slot::{SlotError, SlotSecret, unwrap, wrap};
