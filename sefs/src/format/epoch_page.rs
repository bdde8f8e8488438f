//! Pages of the epoch table: the secrets that all keys of data, nodes and log derive from.
//!
//! ```text
//! page: 0 salt │ 32 sealed payload        payload: 0 count │ 4 reserved │ 16 entries │ 4,048 reserved
//! entry: 0 epoch │ 4 reserved │ 8 live blocks │ 16 secret
//! ```
//! *Security*: payloads hold secrets; the encoded form is wiped on drop.

use alloc::boxed::Box;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::codec::{Decoded, Reader, count_u32, len_usize};
use crate::suite::SecretKey;
use crate::types::EpochId;

/// Bytes of the sealed payload of a page.
pub const EPOCH_PAGE_PAYLOAD_LEN: usize = 4064;
/// Entries of a page.
pub const ENTRIES_PER_EPOCH_PAGE: usize = 84;

const HEAD_LEN: usize = 16;
const ENTRY_LEN: usize = 48;

/// An epoch as the table holds it.
pub struct EpochEntry {
    /// Its number.
    pub id: EpochId,
    /// Blocks that its keys sealed and that are still referenced; [`LIVE_UNKNOWN`] if not known.
    pub live_blocks: u64,
    /// What its keys derive from.
    pub secret: SecretKey,
}

/// The live count of an epoch whose count was lost; such an epoch is never dropped.
pub const LIVE_UNKNOWN: u64 = u64::MAX;

/// A page of the epoch table.
pub struct EpochPage {
    /// At most [`ENTRIES_PER_EPOCH_PAGE`] epochs, with rising ids.
    pub entries: Vec<EpochEntry>,
}

impl EpochPage {
    /// The payload to be sealed. Panics if there are too many entries.
    pub fn encode(&self) -> Zeroizing<Box<[u8]>> {
        assert!(self.entries.len() <= ENTRIES_PER_EPOCH_PAGE, "{} epochs in a page", self.entries.len());
        let mut out = Zeroizing::new(alloc::vec![0; EPOCH_PAGE_PAYLOAD_LEN].into_boxed_slice());
        out[..4].copy_from_slice(&count_u32(self.entries.len()).to_le_bytes());
        for (entry, place) in self.entries.iter().zip(out[HEAD_LEN..].chunks_exact_mut(ENTRY_LEN)) {
            place[..4].copy_from_slice(&entry.id.0.to_le_bytes());
            place[8..16].copy_from_slice(&entry.live_blocks.to_le_bytes());
            place[16..].copy_from_slice(entry.secret.expose());
        }
        out
    }

    /// The value of an opened payload.
    pub fn decode(bytes: &[u8]) -> Decoded<EpochPage> {
        if bytes.len() != EPOCH_PAGE_PAYLOAD_LEN {
            return Err("epoch page length");
        }
        let mut reader = Reader::new(bytes);
        let count = len_usize(reader.u32()?)?;
        if count > ENTRIES_PER_EPOCH_PAGE {
            return Err("epoch page count");
        }
        reader.zeros(HEAD_LEN - 4)?;
        let mut entries: Vec<EpochEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let id = EpochId(reader.u32()?);
            reader.zeros(4)?;
            let live_blocks = reader.u64()?;
            if entries.last().is_some_and(|last| last.id >= id) {
                return Err("epoch ids do not rise");
            }
            entries.push(EpochEntry { id, live_blocks, secret: SecretKey::new(reader.array()?) });
        }
        let left = reader.remaining();
        reader.zeros(left)?;
        Ok(EpochPage { entries })
    }
}

#[cfg(test)]
mod tests;
