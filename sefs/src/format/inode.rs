//! Inodes.
//!
//! ```text
//! 0 version │ 2 extension bytes │ 4 mode │ 8 uid │ 12 gid │ 16 links │ 20 flags │ 24 size │ 32 object │ 40 change │
//! 48 rdev │ 56 atime │ 68 mtime │ 80 ctime │ 92 btime │ 104 project │ 112 parent │ 120 entries │ 128 subdirectories │
//! 132 reserved │ 184 extensions {type u16, length u16, bytes}
//! ```

use alloc::vec::Vec;

use super::codec::{Decoded, Reader, Writer, count_u16};
use super::key::MAX_VALUE_LEN;
use crate::types::{InodeNo, ObjectId, Timestamp};

/// Bytes of an inode before its extensions.
pub const INODE_FIXED_LEN: usize = 184;
/// The largest size of a file in bytes: what a signed 64-bit offset can name.
pub const MAX_FILE_SIZE: u64 = u64::MAX >> 1;

const VERSION: u8 = 1;
const FLAG_INLINE: u32 = 1;
const FLAG_PAST_END: u32 = 2;
const TYPE_MASK: u32 = 0o170_000;
const PERMISSION_MASK: u32 = 0o7777;
const NANOSECONDS_END: u32 = 1_000_000_000;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
}

impl FileKind {
    /// The type bits of a mode, as `stat` has them.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => 0o100_000,
            FileKind::Directory => 0o040_000,
            FileKind::Symlink => 0o120_000,
            FileKind::Fifo => 0o010_000,
            FileKind::Socket => 0o140_000,
            FileKind::BlockDevice => 0o060_000,
            FileKind::CharDevice => 0o020_000,
        }
    }

    /// The kind that a mode's type bits name.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        ALL_KINDS.into_iter().find(|kind| kind.mode_bits() == mode & TYPE_MASK)
    }

    /// The type byte of a stored directory entry.
    pub fn entry_type(self) -> u8 {
        match self {
            FileKind::Regular => 1,
            FileKind::Directory => 2,
            FileKind::Symlink => 3,
            FileKind::Fifo => 4,
            FileKind::Socket => 5,
            FileKind::BlockDevice => 6,
            FileKind::CharDevice => 7,
        }
    }

    /// The kind that a stored directory entry's type byte names.
    pub fn from_entry_type(byte: u8) -> Option<FileKind> {
        ALL_KINDS.into_iter().find(|kind| kind.entry_type() == byte)
    }
}

const ALL_KINDS: [FileKind; 7] = [
    FileKind::Regular,
    FileKind::Directory,
    FileKind::Symlink,
    FileKind::Fifo,
    FileKind::Socket,
    FileKind::BlockDevice,
    FileKind::CharDevice,
];

/// What is peculiar about an inode's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InodeFlags {
    /// The content is one inline record, not extents.
    pub inline: bool,
    /// Blocks are allocated past the end of the file.
    pub past_end: bool,
}

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Type and permissions as in `stat`; the type is one of [`FileKind`].
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Hard links; 0 for an orphan.
    pub links: u32,
    /// See [`InodeFlags`].
    pub flags: InodeFlags,
    /// Bytes of content, at most [`MAX_FILE_SIZE`].
    pub size: u64,
    /// What the content hangs on.
    pub object: ObjectId,
    /// One higher with every change.
    pub change: u64,
    /// The device number of a device file.
    pub rdev: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The project id for quotas.
    pub project: u32,
    /// The parent of a directory.
    pub parent: InodeNo,
    /// Entries of a directory, without `.` and `..`.
    pub entries: u64,
    /// Subdirectories of a directory.
    pub subdirs: u32,
    /// Typed additions, kept as they are.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Inode {
    /// What the inode is. The mode of a decoded inode names a kind; an unknown one counts as a regular file.
    pub fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode).unwrap_or(FileKind::Regular)
    }

    /// The permission bits of the mode.
    pub fn permissions(&self) -> u32 {
        self.mode & PERMISSION_MASK
    }

    /// The stored form. Panics if the extensions do not fit into a record.
    pub fn encode(&self) -> Vec<u8> {
        let extension_len: usize = self.extensions.iter().map(|(_, bytes)| 4 + bytes.len()).sum();
        assert!(INODE_FIXED_LEN + extension_len <= MAX_VALUE_LEN, "{extension_len} bytes of inode extensions");
        let flags =
            (if self.flags.inline { FLAG_INLINE } else { 0 }) | (if self.flags.past_end { FLAG_PAST_END } else { 0 });
        let mut out = Writer::with_capacity(INODE_FIXED_LEN + extension_len);
        out.u8(VERSION).u8(0).u16(count_u16(extension_len)).u32(self.mode).u32(self.uid).u32(self.gid);
        out.u32(self.links).u32(flags).u64(self.size).u64(self.object.0).u64(self.change).u64(self.rdev);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            out.i64(time.seconds).u32(time.nanoseconds);
        }
        out.u32(self.project).u32(0).u64(self.parent.0).u64(self.entries).u32(self.subdirs);
        out.pad_to(INODE_FIXED_LEN);
        for (kind, bytes) in &self.extensions {
            out.u16(*kind).u16(count_u16(bytes.len())).bytes(bytes);
        }
        out.finish()
    }

    /// The value of a stored inode.
    pub fn decode(bytes: &[u8]) -> Decoded<Inode> {
        if bytes.len() > MAX_VALUE_LEN {
            return Err("inode too long");
        }
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err("inode version");
        }
        reader.zeros(1)?;
        let extension_len = reader.u16()?;
        let mode = reader.u32()?;
        if FileKind::from_mode(mode).is_none() || mode & !(TYPE_MASK | PERMISSION_MASK) != 0 {
            return Err("inode mode");
        }
        let (uid, gid, links) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let flags = reader.u32()?;
        if flags & !(FLAG_INLINE | FLAG_PAST_END) != 0 {
            return Err("inode flags");
        }
        let flags = InodeFlags { inline: flags & FLAG_INLINE != 0, past_end: flags & FLAG_PAST_END != 0 };
        let size = reader.u64()?;
        if size > MAX_FILE_SIZE {
            return Err("inode size");
        }
        let (object, change, rdev) = (ObjectId(reader.u64()?), reader.u64()?, reader.u64()?);
        let (atime, mtime) = (read_time(&mut reader)?, read_time(&mut reader)?);
        let (ctime, btime) = (read_time(&mut reader)?, read_time(&mut reader)?);
        let project = reader.u32()?;
        reader.zeros(4)?;
        let (parent, entries, subdirs) = (InodeNo(reader.u64()?), reader.u64()?, reader.u32()?);
        reader.zeros(INODE_FIXED_LEN - 132)?;
        if reader.remaining() != usize::from(extension_len) {
            return Err("inode extension length");
        }
        let extensions = read_extensions(&mut reader)?;
        #[rustfmt::skip]
        let inode = Inode {
            mode, uid, gid, links, flags, size, object, change, rdev, atime, mtime, ctime, btime, project, parent,
            entries, subdirs, extensions,
        };
        Ok(inode)
    }
}

fn read_time(reader: &mut Reader<'_>) -> Decoded<Timestamp> {
    let time = Timestamp { seconds: reader.i64()?, nanoseconds: reader.u32()? };
    if time.nanoseconds < NANOSECONDS_END { Ok(time) } else { Err("inode time") }
}

fn read_extensions(reader: &mut Reader<'_>) -> Decoded<Vec<(u16, Vec<u8>)>> {
    let mut extensions = Vec::new();
    while reader.remaining() > 0 {
        let (kind, len) = (reader.u16()?, reader.u16()?);
        extensions.push((kind, reader.bytes(usize::from(len))?.to_vec()));
    }
    Ok(extensions)
}

#[cfg(test)]
mod tests;
