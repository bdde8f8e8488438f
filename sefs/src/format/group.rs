//! Log groups: the prefix in plain, and the sealed records.
//!
//! ```text
//! prefix: 0 magic │ 8 lsn │ 16 previous tag │ 32 sealed length │ 36 epoch │ 40 data blocks │ 44 reserved │
//!         48 nonce │ 60 reserved │ 64 tag │ 80 sealed part, zero to the block's end │ data blocks
//! sealed: 0 flushed lsn │ 8 base generation │ 16 sequence │ 24 record count │ 28 flags │ 32 next id │ 40 inodes │
//!         48 data addresses u48 × data blocks │ records
//! record: 0 object │ 8 offset │ 16 kind │ 17 what │ 18 length │ 22 value
//! ```
//! *Security*: the prefix is the host's word until the sealed part authenticated; the associated data bind bytes 0..48.

use alloc::vec::Vec;
use core::fmt;

use zeroize::Zeroizing;

use super::FORMAT_VERSION;
use super::chunk::Patch;
use super::codec::{COUNTER_END, Decoded, ID_END, Reader, Writer, count_u32, len_usize};
use super::key::{KEY_LEN, Key, Kind, MAX_VALUE_LEN};
use crate::suite::{Nonce, SecretKey, Tag};
use crate::types::{BLOCK_SIZE_U64, BlockAddr, EpochId, Generation, Lsn};

/// Bytes of a group's prefix.
pub const GROUP_PREFIX_LEN: usize = 80;
/// Bytes of the associated data under which a group is sealed.
pub const GROUP_ASSOCIATED_LEN: usize = 52;
/// Bytes of a record before its value.
pub const RECORD_HEAD_LEN: usize = 22;
/// Bytes of the sealed part before the data addresses.
pub const GROUP_BODY_HEAD_LEN: usize = 48;

const MAGIC: &[u8; 8] = b"SEFSgrp1";
const CLASS_GROUP: u8 = 4;
const WHAT_PUT: u8 = 1;
const WHAT_DELETE: u8 = 2;
const WHAT_PATCH: u8 = 3;
const WHAT_NEW_EPOCH: u8 = 4;
const NEW_EPOCH_LEN: usize = 36;

/// The plain start of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupPrefix {
    /// Where the group stands.
    pub lsn: Lsn,
    /// The tag of the group before, or of the checkpoint slot at an epoch start.
    pub previous_tag: Tag,
    /// Bytes of the sealed part.
    pub sealed_len: u32,
    /// Whose log key sealed it.
    pub epoch: EpochId,
    /// How many sealed data blocks follow the records.
    pub data_blocks: u32,
    /// The nonce of the sealed part.
    pub nonce: Nonce,
    /// The tag of the sealed part.
    pub tag: Tag,
}

/// What a group says.
#[derive(Debug, Default)]
pub struct GroupBody {
    /// All groups below it were known flushed when this one was written.
    pub flushed_lsn: Lsn,
    /// The checkpoint that was the newest then.
    pub base: Generation,
    /// How many groups came before this one since the volume was made.
    pub sequence: u64,
    /// The next inode or object number.
    pub next_id: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// The homes of the data blocks that follow the records.
    pub data_addresses: Vec<BlockAddr>,
    /// The changes, in order.
    pub records: Vec<LogRecord>,
}

/// One change.
pub enum LogRecord {
    /// The key's value from now on; at most [`MAX_VALUE_LEN`] bytes.
    Put(Key, Vec<u8>),
    /// The key is gone.
    Delete(Key),
    /// A change of a chunk; the key's kind is `Extent`.
    Patch(Key, Patch),
    /// Groups after this one are sealed with the keys of this epoch.
    NewEpoch {
        /// Its number.
        id: EpochId,
        /// What its keys derive from.
        secret: SecretKey,
    },
}

impl GroupPrefix {
    /// The stored form.
    pub fn encode(&self) -> [u8; GROUP_PREFIX_LEN] {
        let mut out = [0; GROUP_PREFIX_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[16..32].copy_from_slice(&self.previous_tag);
        out[32..36].copy_from_slice(&self.sealed_len.to_le_bytes());
        out[36..40].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.data_blocks.to_le_bytes());
        out[48..60].copy_from_slice(&self.nonce);
        out[64..80].copy_from_slice(&self.tag);
        out
    }

    /// The value of a stored prefix; `None` if there is none. Nothing of it is authentic yet.
    pub fn decode(bytes: &[u8; GROUP_PREFIX_LEN]) -> Option<GroupPrefix> {
        let mut reader = Reader::new(bytes);
        if &reader.array().ok()? != MAGIC {
            return None;
        }
        let (lsn, previous_tag) = (Lsn(reader.u64().ok()?), reader.array().ok()?);
        let (sealed_len, epoch, data_blocks) = (reader.u32().ok()?, EpochId(reader.u32().ok()?), reader.u32().ok()?);
        reader.zeros(4).ok()?;
        let nonce = reader.array().ok()?;
        reader.zeros(4).ok()?;
        let tag = reader.array().ok()?;
        Some(GroupPrefix { lsn, previous_tag, sealed_len, epoch, data_blocks, nonce, tag })
    }

    /// What the sealed part is bound to: class 4 ‖ 0 ‖ format version ‖ bytes 0..48 of the prefix.
    pub fn associated_data(&self) -> [u8; GROUP_ASSOCIATED_LEN] {
        let mut out = [0; GROUP_ASSOCIATED_LEN];
        out[0] = CLASS_GROUP;
        out[2..4].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[4..].copy_from_slice(&self.encode()[..48]);
        out
    }

    /// Ring blocks of prefix and sealed part.
    pub fn record_blocks(&self) -> u64 {
        (u64::from(self.sealed_len) + 80).div_ceil(BLOCK_SIZE_U64)
    }

    /// Ring blocks of the whole group.
    pub fn total_blocks(&self) -> u64 {
        self.record_blocks() + u64::from(self.data_blocks)
    }
}

impl GroupBody {
    /// The bytes to be sealed. They may hold an epoch's secret, hence the wiping.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // The capacity is never exceeded: a vector that grows would leave an unwiped copy behind.
        let records_len: usize = self.records.iter().map(LogRecord::max_len).sum();
        let mut out = Writer::with_capacity(GROUP_BODY_HEAD_LEN + self.data_addresses.len() * 6 + records_len);
        out.u64(self.flushed_lsn.0).u64(self.base.0).u64(self.sequence);
        out.u32(count_u32(self.records.len())).u32(0).u64(self.next_id).u64(self.inodes);
        for addr in &self.data_addresses {
            out.u48(addr.0);
        }
        for record in &self.records {
            record.write(&mut out);
        }
        Zeroizing::new(out.finish())
    }

    /// The value of an opened group; `data_blocks` is what its prefix says.
    pub fn decode(bytes: &[u8], data_blocks: u32) -> Decoded<GroupBody> {
        let mut reader = Reader::new(bytes);
        let (flushed_lsn, base, sequence) = (Lsn(reader.u64()?), Generation(reader.u64()?), reader.u64()?);
        let record_count = len_usize(reader.u32()?)?;
        if reader.u32()? != 0 {
            return Err("group flags");
        }
        let (next_id, inodes) = (reader.u64()?, reader.u64()?);
        if next_id >= ID_END || [flushed_lsn.0, base.0, sequence, inodes].iter().any(|&counter| counter >= COUNTER_END)
        {
            return Err("a counter that no volume reaches");
        }
        let addresses_len = len_usize(data_blocks)?.checked_mul(6).ok_or("data block count")?;
        let mut addresses = Reader::new(reader.bytes(addresses_len)?);
        let mut data_addresses = Vec::with_capacity(addresses_len / 6);
        while addresses.remaining() > 0 {
            data_addresses.push(BlockAddr(addresses.u48()?));
        }
        // Each record takes at least its head, so the input's length bounds what is allocated.
        if record_count > reader.remaining() / RECORD_HEAD_LEN {
            return Err("record count");
        }
        let mut records = Vec::with_capacity(record_count);
        for _ in 0..record_count {
            records.push(LogRecord::read(&mut reader)?);
        }
        reader.end()?;
        Ok(GroupBody { flushed_lsn, base, sequence, next_id, inodes, data_addresses, records })
    }
}

impl LogRecord {
    /// No fewer bytes than the stored form has.
    pub(crate) fn max_len(&self) -> usize {
        RECORD_HEAD_LEN
            + match self {
                LogRecord::Put(_, value) => value.len(),
                LogRecord::Delete(_) => 0,
                LogRecord::Patch(_, patch) => patch.max_len(),
                LogRecord::NewEpoch { .. } => NEW_EPOCH_LEN,
            }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            LogRecord::Put(key, value) => {
                key.write(out);
                out.u8(WHAT_PUT).u32(count_u32(value.len())).bytes(value);
            }
            LogRecord::Delete(key) => {
                key.write(out);
                out.u8(WHAT_DELETE).u32(0);
            }
            LogRecord::Patch(key, patch) => {
                key.write(out);
                let value = patch.encode();
                out.u8(WHAT_PATCH).u32(count_u32(value.len())).bytes(&value);
            }
            LogRecord::NewEpoch { id, secret } => {
                out.zeros(KEY_LEN).u8(WHAT_NEW_EPOCH).u32(count_u32(NEW_EPOCH_LEN));
                out.u32(id.0).bytes(secret.expose());
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Decoded<LogRecord> {
        let mut key = Reader::new(reader.bytes(KEY_LEN)?);
        let what = reader.u8()?;
        let value_len = len_usize(reader.u32()?)?;
        let value = reader.bytes(value_len)?;
        match what {
            WHAT_PUT if value_len > MAX_VALUE_LEN => Err("value too long"),
            WHAT_PUT => Ok(LogRecord::Put(key_of_record(&mut key)?, value.to_vec())),
            WHAT_DELETE if value_len > 0 => Err("a deletion with a value"),
            WHAT_DELETE => Ok(LogRecord::Delete(key_of_record(&mut key)?)),
            WHAT_PATCH => match Key::read(&mut key)? {
                key if key.is_past_all_files() => Err("a chunk past the end of the largest file"),
                key @ Key { kind: Kind::Extent, .. } => Ok(LogRecord::Patch(key, Patch::decode(value)?)),
                _ => Err("a patch of something other than a chunk"),
            },
            WHAT_NEW_EPOCH => {
                key.zeros(KEY_LEN)?;
                let mut value = Reader::new(value);
                let id = EpochId(value.u32()?);
                let record = LogRecord::NewEpoch { id, secret: SecretKey::new(value.array()?) };
                value.end()?;
                Ok(record)
            }
            _ => Err("unknown log record"),
        }
    }
}

/// The key of a record that is put or deleted as a whole, which a chunk never is.
fn key_of_record(reader: &mut Reader<'_>) -> Decoded<Key> {
    match Key::read(reader)? {
        Key { kind: Kind::Extent, .. } => Err("a chunk that is put or deleted as a whole"),
        key => Ok(key),
    }
}

impl fmt::Debug for LogRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogRecord::Put(key, value) => f.debug_tuple("Put").field(key).field(&value.len()).finish(),
            LogRecord::Delete(key) => f.debug_tuple("Delete").field(key).finish(),
            LogRecord::Patch(key, patch) => f.debug_tuple("Patch").field(key).field(patch).finish(),
            LogRecord::NewEpoch { id, .. } => f.debug_struct("NewEpoch").field("id", id).finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests;
