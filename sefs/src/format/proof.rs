//! What a reference holds to prove a block: a tag, or a digest.
//!
//! *Security*: which of the two is the suite's decision, made before the first reference is read. A decoder is told; it
//! never tells by a length, for a tag in a digest image would let whoever has the key exchange what is below.

use super::codec::{Decoded, Reader};
use crate::suite::Tag;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// What proves one block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Proof {
    /// An AES-GCM tag: against everybody who does not have the key.
    Tag(Tag),
    /// A SHA-256 digest of the stored bytes: against everybody.
    Digest(Digest),
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProofKind {
    /// Volumes, suite 1.
    Tag,
    /// Packed images, suites 2 and 3.
    Digest,
}

impl ProofKind {
    /// Bytes of a stored proof.
    pub const fn len_bytes(self) -> usize {
        match self {
            ProofKind::Tag => 16,
            ProofKind::Digest => 32,
        }
    }

    pub(crate) fn read(self, reader: &mut Reader<'_>) -> Decoded<Proof> {
        Ok(match self {
            ProofKind::Tag => Proof::Tag(reader.array()?),
            ProofKind::Digest => Proof::Digest(reader.array()?),
        })
    }

    pub(crate) fn zero(self) -> Proof {
        match self {
            ProofKind::Tag => Proof::Tag([0; 16]),
            ProofKind::Digest => Proof::Digest([0; 32]),
        }
    }
}

impl Proof {
    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Proof::Tag(tag) => tag,
            Proof::Digest(digest) => digest,
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> ProofKind {
        match self {
            Proof::Tag(_) => ProofKind::Tag,
            Proof::Digest(_) => ProofKind::Digest,
        }
    }
}

impl From<Tag> for Proof {
    fn from(tag: Tag) -> Proof {
        Proof::Tag(tag)
    }
}
