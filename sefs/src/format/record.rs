//! The small records: directory entries, extended attributes, space, ranges, orphans and jobs, and the keys of names.

use alloc::vec::Vec;

use super::codec::{Decoded, Reader, Writer, len_usize};
use super::inode::FileKind;
use super::key::Key;
use super::proof::Digest;
use crate::suite::Suite;
use crate::types::{EpochId, InodeNo, ObjectId};

/// Bytes of the longest name.
pub const NAME_MAX: usize = 255;
/// Bytes of content that one inline record may hold for a file.
pub const INLINE_FILE_MAX: usize = 2048;
/// Bytes of the longest target of a symlink.
pub const SYMLINK_MAX: usize = 4095;
/// Bytes of an attribute's value in one record.
pub const XATTR_PART_LEN: usize = 2048;
/// Bytes of the longest value of an attribute.
pub const XATTR_VALUE_MAX: usize = 65_536;
/// How many entries of a directory may share one hash.
pub const NAME_DISCRIMINATORS: u8 = 128;
/// The first name key that a directory entry can have; the ones below stand for the start, `.` and `..`.
pub const FIRST_NAME_KEY: u64 = 3;

/// The first 56 bits of the SHA-256 of a name.
pub fn name_hash(suite: &dyn Suite, name: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, ..] = suite.sha256(&[name]);
    u64::from_be_bytes([0, a, b, c, d, e, f, g])
}

/// The key of a name whose hash is `hash`, for one of the discriminators 0–127. It is at least 3 and below 2^63.
/// Because results 0–2 are lifted, two discriminators of the hash 0 may share a key: take a key only if it is free.
pub fn name_key(hash: u64, discriminator: u8) -> u64 {
    assert!(hash < 1 << 56 && discriminator < NAME_DISCRIMINATORS, "name key of {hash:#x}, {discriminator}");
    match hash * u64::from(NAME_DISCRIMINATORS) + u64::from(discriminator) {
        low @ 0..=2 => low + FIRST_NAME_KEY,
        key => key,
    }
}

/// The key of part `part` of an attribute: 48 bits of the SHA-256 of its name, discriminator, part.
pub fn xattr_key(suite: &dyn Suite, name: &[u8], discriminator: u8, part: u8) -> u64 {
    let [a, b, c, d, e, f, ..] = suite.sha256(&[name]);
    u64::from_be_bytes([a, b, c, d, e, f, discriminator, part])
}

/// A directory entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntryRecord {
    /// What it names.
    pub ino: InodeNo,
    /// What that is.
    pub kind: FileKind,
    /// 1 to 255 bytes, neither `.` nor `..`, without `/` and NUL.
    pub name: Vec<u8>,
}

impl DirEntryRecord {
    /// The stored form. Panics if the name is longer than 255 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(10 + self.name.len());
        out.u64(self.ino.0).u8(self.kind.entry_type()).u8(name_len(&self.name)).bytes(&self.name);
        out.finish()
    }

    /// The value of a stored entry. Its name is one that a directory may hold.
    pub fn decode(bytes: &[u8]) -> Decoded<DirEntryRecord> {
        let mut reader = Reader::new(bytes);
        let ino = InodeNo(reader.u64()?);
        let kind = FileKind::from_entry_type(reader.u8()?).ok_or("directory entry type")?;
        let len = reader.u8()?;
        let name = reader.bytes(usize::from(len))?;
        reader.end()?;
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err("directory entry name");
        }
        Ok(DirEntryRecord { ino, kind, name: name.to_vec() })
    }
}

/// Part 0 of an extended attribute. Parts 1 and on are the following 2,048 bytes of the value each, without a head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XattrHead {
    /// The attribute's name, 1 to 255 bytes without NUL.
    pub name: Vec<u8>,
    /// Bytes of the whole value, at most [`XATTR_VALUE_MAX`].
    pub value_len: u32,
    /// The first 2,048 bytes of the value, or all of it.
    pub first: Vec<u8>,
}

impl XattrHead {
    /// The stored form. Panics if the name is longer than 255 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(6 + self.name.len() + self.first.len());
        out.u8(name_len(&self.name)).u8(0).u32(self.value_len).bytes(&self.name).bytes(&self.first);
        out.finish()
    }

    /// The value of a stored part 0. It holds as many bytes of the value as it should.
    pub fn decode(bytes: &[u8]) -> Decoded<XattrHead> {
        let mut reader = Reader::new(bytes);
        let name_len = usize::from(reader.u8()?);
        reader.zeros(1)?;
        let value_len = reader.u32()?;
        let (name, first) = (reader.bytes(name_len)?, reader.rest());
        if name.is_empty() || name.contains(&0) {
            return Err("attribute name");
        }
        let value_bytes = len_usize(value_len)?;
        if value_bytes > XATTR_VALUE_MAX || first.len() != value_bytes.min(XATTR_PART_LEN) {
            return Err("attribute length");
        }
        Ok(XattrHead { name: name.to_vec(), value_len, first: first.to_vec() })
    }

    /// How many parts the attribute has, this one included: 1 to 32.
    pub fn parts(&self) -> u8 {
        let parts = self.value_len.div_ceil(2048).max(1);
        u8::try_from(parts).expect("a value of at most 65,536 bytes has at most 32 parts")
    }
}

/// How many data blocks an object has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpaceRecord {
    /// Data blocks.
    pub data_blocks: u64,
}

impl SpaceRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        self.data_blocks.to_le_bytes().to_vec()
    }

    /// The value of a stored record.
    pub fn decode(bytes: &[u8]) -> Decoded<SpaceRecord> {
        let mut reader = Reader::new(bytes);
        let data_blocks = reader.u64()?;
        reader.end().map(|()| SpaceRecord { data_blocks })
    }
}

/// Chunks of an object that read as holes whatever other records say. The key is (0, `Range`, id).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RangeRecord {
    /// The object.
    pub object: ObjectId,
    /// The first chunk of the range.
    pub first_chunk: u64,
    /// The first chunk after it; above `first_chunk`.
    pub end_chunk: u64,
}

impl RangeRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(24);
        out.u64(self.object.0).u64(self.first_chunk).u64(self.end_chunk);
        out.finish()
    }

    /// The value of a stored range, which is not empty.
    pub fn decode(bytes: &[u8]) -> Decoded<RangeRecord> {
        let mut reader = Reader::new(bytes);
        let (object, first_chunk, end_chunk) = (ObjectId(reader.u64()?), reader.u64()?, reader.u64()?);
        reader.end()?;
        if first_chunk >= end_chunk {
            return Err("empty range");
        }
        Ok(RangeRecord { object, first_chunk, end_chunk })
    }
}

/// An inode without links, kept while it is open. All there is to say stands in the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OrphanRecord;

impl OrphanRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        alloc::vec![0; 8]
    }

    /// The value of a stored record.
    pub fn decode(bytes: &[u8]) -> Decoded<OrphanRecord> {
        let mut reader = Reader::new(bytes);
        reader.zeros(8)?;
        reader.end().map(|()| OrphanRecord)
    }
}

/// A background job and how far it has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobRecord {
    /// The epochs whose blocks are sealed anew (job type 1, the only one): at least one, at most [`MAX_JOB_EPOCHS`], rising.
    pub reencrypt: Vec<EpochId>,
    /// The first key that is not done. At the largest object and [`Kind::Job`](super::Kind::Job), all trees are, and the
    /// offset is the first group whose allocation pages are not.
    pub cursor: Key,
}

/// Epochs that one job may have.
pub const MAX_JOB_EPOCHS: usize = 1024;

impl JobRecord {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(25 + 4 * self.reencrypt.len());
        let count = u32::try_from(self.reencrypt.len()).expect("at most MAX_JOB_EPOCHS");
        out.u8(JOB_REENCRYPT).zeros(3).u32(count);
        self.cursor.write(&mut out);
        for epoch in &self.reencrypt {
            out.u32(epoch.0);
        }
        out.finish()
    }

    /// The value of a stored job.
    pub fn decode(bytes: &[u8]) -> Decoded<JobRecord> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != JOB_REENCRYPT {
            return Err("job type");
        }
        reader.zeros(3)?;
        let count = usize::try_from(reader.u32()?).map_err(|_| "job epoch count")?;
        if !(1..=MAX_JOB_EPOCHS).contains(&count) {
            return Err("job epoch count");
        }
        let cursor = Key::read(&mut reader)?;
        let mut reencrypt = Vec::with_capacity(count);
        for _ in 0..count {
            let epoch = EpochId(reader.u32()?);
            if reencrypt.last().is_some_and(|last| *last >= epoch) {
                return Err("job epochs do not rise");
            }
            reencrypt.push(epoch);
        }
        reader.end().map(|()| JobRecord { reencrypt, cursor })
    }
}

const JOB_REENCRYPT: u8 = 1;

/// An image below the volume: which one it must be, and where its owner found it. The key is (0, `Lower`, place from 1 down).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LowerRecord {
    /// The image's id.
    pub volume_id: [u8; 16],
    /// The image's root digest.
    pub root_digest: Digest,
    /// Whatever helps whoever opens the volume to find the image, at most [`LOWER_NOTE_MAX`] bytes; no secret.
    pub note: Vec<u8>,
}

/// Images that a volume may have below it.
pub const MAX_LOWERS: usize = 16;
/// Bytes of the longest note.
pub const LOWER_NOTE_MAX: usize = 4096;

impl LowerRecord {
    /// The stored form. Panics if the note is longer than [`LOWER_NOTE_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let len = u16::try_from(self.note.len()).ok().filter(|len| usize::from(*len) <= LOWER_NOTE_MAX);
        let mut out = Writer::with_capacity(50 + self.note.len());
        out.bytes(&self.volume_id).bytes(&self.root_digest);
        out.u16(len.expect("notes are checked before they are written")).bytes(&self.note);
        out.finish()
    }

    /// The value of a stored record.
    pub fn decode(bytes: &[u8]) -> Decoded<LowerRecord> {
        let mut reader = Reader::new(bytes);
        let (volume_id, root_digest, len) = (reader.array()?, reader.array()?, usize::from(reader.u16()?));
        if len > LOWER_NOTE_MAX {
            return Err("a lower's note");
        }
        let note = reader.bytes(len)?.to_vec();
        reader.end().map(|()| LowerRecord { volume_id, root_digest, note })
    }
}

fn name_len(name: &[u8]) -> u8 {
    u8::try_from(name.len()).expect("names are checked against 255 bytes before they are written")
}

#[cfg(test)]
mod tests;
