//! Keys of records: they order everything that a volume holds.

use super::codec::{Decoded, Reader, Writer};
use super::inode::MAX_FILE_SIZE;
use crate::types::{BLOCK_SIZE_U64, CHUNK_BLOCKS};

/// The largest value that a record may have, in bytes.
pub const MAX_VALUE_LEN: usize = 4352;

/// Bytes of a stored key: {object u64, offset u64, kind u8}.
pub const KEY_LEN: usize = 17;

/// The chunk in which the largest file ends. No stored chunk has a higher number, so blocks of files can be counted.
pub(super) const LAST_CHUNK: u64 = MAX_FILE_SIZE / (CHUNK_BLOCKS * BLOCK_SIZE_U64);

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An inode; offset 0.
    Inode = 1,
    /// A directory entry; the offset is its name key.
    DirEntry = 2,
    /// A part of an extended attribute; the offset is its xattr key.
    Xattr = 3,
    /// The whole content of a small file or of a symlink; offset 0.
    Inline = 4,
    /// 64 blocks of content; the offset is the chunk's number.
    Extent = 5,
    /// How many data blocks an object has; offset 0.
    Space = 6,
    /// A range of an object that reads as holes (system); the offset is the range's id.
    Range = 7,
    /// An image below the volume (system); the offset is its place, 1 for the topmost.
    Lower = 8,
    /// An inode without links (system); the offset is its number.
    Orphan = 16,
    /// A background job (system); the offset is its id.
    Job = 17,
}

impl TryFrom<u8> for Kind {
    type Error = &'static str;

    fn try_from(kind: u8) -> Decoded<Kind> {
        Ok(match kind {
            1 => Kind::Inode,
            2 => Kind::DirEntry,
            3 => Kind::Xattr,
            4 => Kind::Inline,
            5 => Kind::Extent,
            6 => Kind::Space,
            7 => Kind::Range,
            8 => Kind::Lower,
            16 => Kind::Orphan,
            17 => Kind::Job,
            _ => return Err("unknown key kind"),
        })
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> u8 {
        match kind {
            Kind::Inode => 1,
            Kind::DirEntry => 2,
            Kind::Xattr => 3,
            Kind::Inline => 4,
            Kind::Extent => 5,
            Kind::Space => 6,
            Kind::Range => 7,
            Kind::Lower => 8,
            Kind::Orphan => 16,
            Kind::Job => 17,
        }
    }
}

impl Kind {
    /// The kind after this one, in key order.
    fn next(self) -> Option<Kind> {
        Some(match self {
            Kind::Inode => Kind::DirEntry,
            Kind::DirEntry => Kind::Xattr,
            Kind::Xattr => Kind::Inline,
            Kind::Inline => Kind::Extent,
            Kind::Extent => Kind::Space,
            Kind::Space => Kind::Range,
            Kind::Range => Kind::Lower,
            Kind::Lower => Kind::Orphan,
            Kind::Orphan => Kind::Job,
            Kind::Job => return None,
        })
    }
}

/// A record's key. Keys order as (object, kind, offset).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// An inode number, a content object, or 0 for the system's records.
    pub object: u64,
    /// What the record is.
    pub kind: Kind,
    /// Its place within the object; see [`Kind`].
    pub offset: u64,
}

impl Key {
    /// The smallest key.
    pub const MIN: Key = Key::new(0, Kind::Inode, 0);
    /// The largest key.
    pub const MAX: Key = Key::new(u64::MAX, Kind::Job, u64::MAX);

    /// A key from its parts.
    pub const fn new(object: u64, kind: Kind, offset: u64) -> Key {
        Key { object, kind, offset }
    }

    /// The smallest key above this one; `None` for [`Key::MAX`].
    pub fn successor(self) -> Option<Key> {
        if let Some(offset) = self.offset.checked_add(1) {
            return Some(Key { offset, ..self });
        }
        if let Some(kind) = self.kind.next() {
            return Some(Key::new(self.object, kind, 0));
        }
        Some(Key::new(self.object.checked_add(1)?, Kind::Inode, 0))
    }

    /// The number of a chunk's block among all of the object. The key is one that was decoded, or of a file's content.
    pub(crate) fn block_number(self, index: u8) -> u64 {
        self.offset * CHUNK_BLOCKS + u64::from(index)
    }

    /// Whether it names a chunk past the end of the largest file.
    pub(crate) fn is_past_all_files(self) -> bool {
        self.kind == Kind::Extent && self.offset > LAST_CHUNK
    }

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.u64(self.object).u64(self.offset).u8(self.kind.into());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Decoded<Key> {
        let (object, offset) = (reader.u64()?, reader.u64()?);
        Ok(Key::new(object, Kind::try_from(reader.u8()?)?, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_object_kind_offset() {
        let mut keys = [
            Key::new(2, Kind::Inode, 0),
            Key::new(1, Kind::Job, 0),
            Key::new(1, Kind::Inode, 9),
            Key::new(1, Kind::Inode, 1),
            Key::new(1, Kind::Extent, 0),
        ];
        keys.sort();
        assert_eq!(
            keys.map(|key| (key.object, u8::from(key.kind), key.offset)),
            [(1, 1, 1), (1, 1, 9), (1, 5, 0), (1, 17, 0), (2, 1, 0)]
        );
    }

    #[test]
    fn kinds_convert_both_ways_and_rise() {
        let known = (0..=u8::MAX).filter_map(|byte| Kind::try_from(byte).ok().map(|kind| (byte, kind)));
        let mut kind = Some(Kind::Inode);
        for (byte, known) in known {
            assert_eq!(u8::from(known), byte);
            assert_eq!(kind, Some(known), "`next` visits all kinds in order");
            kind = known.next();
        }
        assert_eq!(kind, None);
    }

    #[test]
    fn successors_cross_kinds_and_objects() {
        assert_eq!(Key::new(1, Kind::Inode, 5).successor(), Some(Key::new(1, Kind::Inode, 6)));
        assert_eq!(Key::new(1, Kind::Range, u64::MAX).successor(), Some(Key::new(1, Kind::Lower, 0)));
        assert_eq!(Key::new(1, Kind::Job, u64::MAX).successor(), Some(Key::new(2, Kind::Inode, 0)));
        assert_eq!(Key::MAX.successor(), None);
    }
}
