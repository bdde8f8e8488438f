//! The root block's payload: where a packed image's tree is rooted, and how much of everything there is.
//!
//! ```text
//! 0 data blocks u64 │ 8 nodes u64 │ 16 inodes u64 │ 24 level u8 │ 25 reserved │ 32 manifest root 32 │ 64 root reference 64 │ 128 reserved
//! ```
//! *Invariants*: counts are below 2^47, so that no sum of them overflows; all else is zero.

use alloc::vec::Vec;

use super::block_ref::{BlockRef, block_ref_len};
use super::checkpoint::MAX_TREE_LEVEL;
use super::codec::{Decoded, Reader, Writer};
use super::proof::{Digest, ProofKind};

/// Bytes of the payload.
pub const PACKED_ROOT_LEN: usize = 4048;
/// Counts are below.
const COUNT_END: u64 = 1 << 47;

/// What a packed image's root block says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackedRoot {
    /// Data blocks, each counted once.
    pub data_blocks: u64,
    /// Tree nodes.
    pub nodes: u64,
    /// Inodes.
    pub inodes: u64,
    /// The root node's level.
    pub level: u8,
    /// The root of the manifest of everything in the image.
    pub manifest_root: Digest,
    /// The root node; its proof is a digest.
    pub root: BlockRef,
}

impl PackedRoot {
    /// The stored form. Panics if a field exceeds its range.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(PACKED_ROOT_LEN);
        out.u64(self.data_blocks).u64(self.nodes).u64(self.inodes).u8(self.level).zeros(7);
        out.bytes(&self.manifest_root).bytes(&self.root.encode()).pad_to(PACKED_ROOT_LEN);
        out.finish()
    }

    /// The value of a stored payload.
    pub fn decode(bytes: &[u8]) -> Decoded<PackedRoot> {
        let mut reader = Reader::new(bytes);
        let (data_blocks, nodes, inodes) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let level = reader.u8()?;
        reader.zeros(7)?;
        let manifest_root = reader.array()?;
        let reference = reader.bytes(block_ref_len(ProofKind::Digest))?;
        let root = BlockRef::decode_as(reference, ProofKind::Digest).ok_or("root reference")?;
        let rest = reader.remaining();
        if rest + 128 != PACKED_ROOT_LEN {
            return Err("root block length");
        }
        reader.zeros(rest)?;
        if data_blocks >= COUNT_END || nodes >= COUNT_END || inodes >= COUNT_END {
            return Err("root block count");
        }
        if level > MAX_TREE_LEVEL {
            return Err("root level");
        }
        Ok(PackedRoot { data_blocks, nodes, inodes, level, manifest_root, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Proof;
    use crate::types::{BlockAddr, EpochId, Generation};

    fn example() -> PackedRoot {
        let root = BlockRef {
            source: 0,
            epoch: EpochId(0),
            addr: BlockAddr(20),
            nonce: [0; 12],
            birth: Generation(0),
            proof: Proof::Digest([7; 32]),
            len_bytes: 16_384,
        };
        PackedRoot { data_blocks: 3, nodes: 1, inodes: 2, level: 0, manifest_root: [9; 32], root }
    }

    #[test]
    fn it_comes_back_and_every_other_byte_is_refused_or_means_something() {
        let bytes = example().encode();
        assert_eq!(PackedRoot::decode(&bytes), Ok(example()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(PackedRoot::decode(&changed), Ok(example()), "byte {at}");
        }
        assert!(PackedRoot::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(PackedRoot::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn counts_and_levels_are_bounded() {
        for (at, value) in [(5, 0x80), (13, 0x80), (21, 0x80), (24, MAX_TREE_LEVEL + 1)] {
            let mut bytes = example().encode();
            bytes[at] = value;
            assert!(PackedRoot::decode(&bytes).is_err(), "byte {at}");
        }
    }
}
