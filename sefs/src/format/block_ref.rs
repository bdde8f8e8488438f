//! The reference that a parent holds to a sealed node: where it lies and what proves it.
//!
//! ```text
//! 0 source │ 1 flags │ 2 length/16−1 │ 4 epoch │ 8 address u48 │ 14 nonce │ 26 birth u48 │ 32 tag (16), or digest (32)
//! ```

use alloc::vec::Vec;

use super::codec::{Reader, U48_END, u48_to_bytes};
use super::proof::{Proof, ProofKind};
use crate::suite::Nonce;
use crate::types::{BlockAddr, EpochId, Generation};

/// Bytes of a stored reference of a volume, which holds a tag.
pub const BLOCK_REF_LEN: usize = 48;
/// Bytes of a stored reference that holds this kind of proof.
pub const fn block_ref_len(proofs: ProofKind) -> usize {
    FIXED_LEN + proofs.len_bytes()
}

/// Bytes before the proof.
const FIXED_LEN: usize = 32;
/// The only source that is stored: the image itself.
pub(crate) const OWN_SOURCE: u8 = 0;

/// Where a node lies and what proves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRef {
    /// 0: the image that names it.
    pub source: u8,
    /// Whose keys sealed it.
    pub epoch: EpochId,
    /// Its first block; below 2^48.
    pub addr: BlockAddr,
    /// The nonce it was sealed with.
    pub nonce: Nonce,
    /// The checkpoint that wrote it; below 2^48.
    pub birth: Generation,
    /// What proves it.
    pub proof: Proof,
    /// Its stored length: a multiple of 16, at most 1 MiB.
    pub len_bytes: u32,
}

impl BlockRef {
    /// The stored form. Panics if a field exceeds the range that its documentation states.
    pub fn encode(&self) -> Vec<u8> {
        let units = self.len_bytes.checked_sub(16).filter(|len| len % 16 == 0).map(|len| u16::try_from(len / 16));
        let Some(Ok(units)) = units else { panic!("a stored length of {} bytes", self.len_bytes) };
        let mut out = alloc::vec![0; FIXED_LEN];
        out[0] = self.source;
        out[2..4].copy_from_slice(&units.to_le_bytes());
        out[4..8].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[8..14].copy_from_slice(&u48_to_bytes(self.addr.0));
        out[14..26].copy_from_slice(&self.nonce);
        out[26..32].copy_from_slice(&u48_to_bytes(self.birth.0));
        out.extend_from_slice(self.proof.bytes());
        out
    }

    /// The value of a volume's stored reference; `None` if it names an unknown source or flag, or runs past the last address.
    pub fn decode(bytes: &[u8; BLOCK_REF_LEN]) -> Option<BlockRef> {
        BlockRef::decode_as(bytes, ProofKind::Tag)
    }

    /// The same, of a reference that holds this kind of proof.
    pub fn decode_as(bytes: &[u8], proofs: ProofKind) -> Option<BlockRef> {
        let mut reader = Reader::new(bytes);
        let (source, flags) = (reader.u8().ok()?, reader.u8().ok()?);
        let units = reader.u16().ok()?;
        let reference = BlockRef {
            source,
            epoch: EpochId(reader.u32().ok()?),
            addr: BlockAddr(reader.u48().ok()?),
            nonce: reader.array().ok()?,
            birth: Generation(reader.u48().ok()?),
            proof: proofs.read(&mut reader).ok()?,
            len_bytes: (u32::from(units) + 1) * 16,
        };
        reader.end().ok()?;
        let end = reference.addr.0 + u64::from(reference.len_bytes).div_ceil(crate::types::BLOCK_SIZE_U64);
        (source == OWN_SOURCE && flags == 0 && end <= U48_END).then_some(reference)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_block_ref() -> impl Strategy<Value = BlockRef> {
        (any::<u32>(), 0..U48_END - 256, any::<[u8; 12]>(), 0..U48_END, any::<[u8; 16]>(), any::<u16>()).prop_map(
            |(epoch, addr, nonce, birth, tag, units)| BlockRef {
                source: 0,
                epoch: EpochId(epoch),
                addr: BlockAddr(addr),
                nonce,
                birth: Generation(birth),
                proof: Proof::Tag(tag),
                len_bytes: (u32::from(units) + 1) * 16,
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(reference in any_block_ref()) {
            prop_assert_eq!(BlockRef::decode_as(&reference.encode(), ProofKind::Tag), Some(reference));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(tail in any::<[u8; 46]>()) {
            let mut bytes = [0; BLOCK_REF_LEN];
            bytes[2..].copy_from_slice(&tail);
            if let Some(reference) = BlockRef::decode(&bytes) {
                prop_assert_eq!(reference.encode(), bytes.to_vec());
            }
        }
    }

    #[test]
    fn fields_stand_where_the_format_says() {
        let reference = BlockRef {
            source: 0,
            epoch: EpochId(0x0403_0201),
            addr: BlockAddr(0x0a09_0807_0605),
            nonce: [0xcc; 12],
            birth: Generation(0x1615_1413_1211),
            proof: Proof::Tag([0xee; 16]),
            len_bytes: 16_384,
        };
        let bytes = reference.encode();
        assert_eq!(bytes[..14], [0, 0, 0xff, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(bytes[14..26], [0xcc; 12]);
        assert_eq!(bytes[26..32], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16]);
        assert_eq!(bytes[32..], [0xee; 16]);
    }

    #[test]
    fn a_decoder_takes_the_kind_of_proof_that_it_is_told() {
        let bytes = [0; BLOCK_REF_LEN + 16];
        assert!(BlockRef::decode_as(&bytes, ProofKind::Digest).is_some_and(|it| it.proof == Proof::Digest([0; 32])));
        assert_eq!(BlockRef::decode_as(&bytes, ProofKind::Tag), None);
        assert_eq!(BlockRef::decode_as(&bytes[..BLOCK_REF_LEN], ProofKind::Digest), None);
    }

    #[test]
    fn unknown_sources_and_flags_are_refused() {
        let mut bytes = [0; BLOCK_REF_LEN];
        assert!(BlockRef::decode(&bytes).is_some());
        bytes[0] = 1;
        assert_eq!(BlockRef::decode(&bytes), None);
        bytes[..2].copy_from_slice(&[0, 4]);
        assert_eq!(BlockRef::decode(&bytes), None);
        bytes[..2].copy_from_slice(&[0, 0]);
        bytes[8..14].fill(0xff);
        bytes[2] = 0xff;
        assert!(BlockRef::decode(&bytes).is_some(), "one block at the last address");
        bytes[3] = 1;
        assert_eq!(BlockRef::decode(&bytes), None, "two blocks at the last address");
    }
}
