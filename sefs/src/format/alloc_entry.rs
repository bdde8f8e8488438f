//! Entries of the allocation summary: what a parent knows of a bitmap or summary page.
//!
//! ```text
//! 0 present │ 1 home │ 2 state │ 4 epoch │ 8 nonce │ 20 tag │ 36 free quads │ 40 free blocks │ 48 reserved
//! ```

use super::codec::{Decoded, Reader};
use crate::suite::{Nonce, Tag};
use crate::types::EpochId;

/// Bytes of an entry in a summary page.
pub const ALLOC_ENTRY_LEN: usize = 64;
/// Bytes of the entry that a checkpoint holds for the root: without the reserved tail.
pub const ALLOC_ROOT_LEN: usize = 48;
/// Entries of a summary page.
pub const ALLOC_FANOUT: usize = 64;
/// Homes of an allocation page.
pub const ALLOC_HOMES: u8 = 3;

/// What proves an allocation page, and what is free below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AllocEntry {
    /// Whether the page exists; if not, all of the range is as at mkfs and the fields below the counts are zero.
    pub present: bool,
    /// Which of its three homes holds the page.
    pub home: u8,
    /// The group's state: 0 active. No other is known yet.
    pub state: u8,
    /// Whose keys sealed the page.
    pub epoch: EpochId,
    /// The nonce it was sealed with.
    pub nonce: Nonce,
    /// What proves it.
    pub tag: Tag,
    /// Free quads (four free blocks, aligned to four) below, saturating.
    pub free_quads: u32,
    /// Free blocks below.
    pub free_blocks: u64,
}

impl AllocEntry {
    /// The stored form in a summary page.
    pub fn encode(&self) -> [u8; ALLOC_ENTRY_LEN] {
        let mut out = [0; ALLOC_ENTRY_LEN];
        out[..ALLOC_ROOT_LEN].copy_from_slice(&self.encode_root());
        out
    }

    /// The stored form in a checkpoint.
    pub fn encode_root(&self) -> [u8; ALLOC_ROOT_LEN] {
        let mut out = [0; ALLOC_ROOT_LEN];
        out[..3].copy_from_slice(&[u8::from(self.present), self.home, self.state]);
        out[4..8].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[8..20].copy_from_slice(&self.nonce);
        out[20..36].copy_from_slice(&self.tag);
        out[36..40].copy_from_slice(&self.free_quads.to_le_bytes());
        out[40..48].copy_from_slice(&self.free_blocks.to_le_bytes());
        out
    }

    /// The value of an entry of a summary page.
    pub fn decode(bytes: &[u8; ALLOC_ENTRY_LEN]) -> Decoded<AllocEntry> {
        let mut reader = Reader::new(bytes);
        let root = reader.array()?;
        reader.zeros(ALLOC_ENTRY_LEN - ALLOC_ROOT_LEN)?;
        AllocEntry::decode_root(&root)
    }

    /// The value of a checkpoint's entry.
    pub fn decode_root(bytes: &[u8; ALLOC_ROOT_LEN]) -> Decoded<AllocEntry> {
        let mut reader = Reader::new(bytes);
        let (present, home, state) = (reader.u8()?, reader.u8()?, reader.u8()?);
        reader.zeros(1)?;
        if present > 1 || home >= ALLOC_HOMES || state != 0 {
            return Err("allocation entry presence, home or state");
        }
        let (epoch, nonce, tag) = (EpochId(reader.u32()?), reader.array()?, reader.array()?);
        let (free_quads, free_blocks) = (reader.u32()?, reader.u64()?);
        if present == 0 && (home != 0 || epoch.0 != 0 || nonce != [0; 12] || tag != [0; 16]) {
            return Err("an absent allocation page with a proof");
        }
        Ok(AllocEntry { present: present == 1, home, state, epoch, nonce, tag, free_quads, free_blocks })
    }
}

#[cfg(test)]
mod tests;
