//! What proves a block or node of a packed image.
//!
//! ```text
//! SHA-256(class u8 ‖ level u8 ‖ format version u16 ‖ length u32 ‖ nonce 12, if encrypted ‖ stored bytes)
//! ```
//! *Security*: no kind, level, length or version is taken for another, and no block for an image: a class is a small number,
//! the domain of [`Header::root_digest`](crate::format::Header::root_digest) begins with a letter.

use crate::format::Digest;
use crate::keys::associated;
use crate::suite::{Nonce, Suite};

/// What proves stored bytes of a class and level. A public image's have no nonce.
pub(crate) fn of_stored(suite: &dyn Suite, class: u8, level: u8, nonce: Option<&Nonce>, bytes: &[u8]) -> Digest {
    // A node has at most 64 KiB.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    suite.sha256(&[&associated(class, level), &len, nonce.map_or(&[], |nonce| &nonce[..]), bytes])
}
