//! The manifest of an image: a list of everything in it, whose root is one digest, and proofs that some of it is on the list. A
//! verifier needs the root alone: no image, no key, no trust in whoever made the proof.
//!
//! ```text
//! record ─► leaf = H(0 ‖ domain ‖ record) ─► node = H(1 ‖ left ‖ right) ─► root = H(2 ‖ version ‖ number of leaves ‖ top)
//! ```
//! H is SHA-256. A node without a sibling moves up as it is.
//!
//! *Why a wrapping*: the Merkle tree is `rs_merkle`'s, which tells neither a leaf from an inner node nor one number of leaves from
//! another, takes any indices, in any order and twice, and does not mind hashes that are left over: with any of these a proof
//! can be made for what is not in the tree. So the kinds of hashes are separated by their first byte, the root binds the number
//! of leaves, and before the library sees a proof its indices must increase and lie below that number, and its hashes must be
//! exactly as many as those indices need. `tests/forgeries.rs` holds a proof of each kind that the library alone accepts.
//!
//! *Invariants*
//! 1. Two different lists have different roots, or SHA-256 has a collision: records are encoded injectively, sorted by path, each
//!    path once.
//! 2. `verify` gives a record back only if it stands in the list that the root stands for, at the place that the proof says.
//! 3. Proofs come from strangers: nothing in one makes `verify` panic, or take memory beyond a small multiple of its length.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod proof;
mod record;
mod tree;

pub use proof::{Proof, ProofError};
pub use record::{Kind, Record, RecordError, digest_of_attributes};
pub use tree::{Manifest, ManifestError};

/// The version of the list's form: it goes into the root.
pub const VERSION: u8 = 1;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// SHA-256 of some parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}
