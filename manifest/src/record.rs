//! One line of the list, and its bytes.

use alloc::vec::Vec;
use core::fmt;

use crate::{Digest, sha256};

/// The longest path, as Linux has it.
const PATH_MAX: usize = 4096;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
    /// Another name of the regular or special file that stands at `Record::target`, which is a path that sorts before.
    HardLink,
}

/// What the list says about one path. Times are not on it: an image that is made again has others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The path from the root: names joined by `/`, none of them empty, `.` or `..`. The root's is empty.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id and sticky bits: below 0o10000. 0 for a symbolic link, which has none.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// A device's number; otherwise 0.
    pub rdev: u64,
    /// A regular file's bytes; otherwise 0.
    pub size: u64,
    /// SHA-256 of a regular file's content; otherwise zeros.
    pub content: Digest,
    /// [`digest_of_attributes`] of the extended attributes.
    pub attributes: Digest,
    /// Where a symbolic link leads to; of a hard link the path that it is another name of; otherwise empty.
    pub target: Vec<u8>,
}

/// Why bytes are no record, or a record cannot be on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Too few or too many bytes.
    Length,
    /// No such kind.
    Kind,
    /// The path is too long, or has a part that no path has.
    Path,
    /// A field that this kind does not have is not zero, or one is beyond its range.
    Field,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordError::Length => "its length is wrong",
            RecordError::Kind => "it is of no known kind",
            RecordError::Path => "its path is none",
            RecordError::Field => "it has a field that its kind does not have",
        })
    }
}

impl core::error::Error for RecordError {}

impl Record {
    /// The record's bytes: each record has one form, and no two have the same. Integers are little-endian.
    ///
    /// `kind u8, mode u32, uid u32, gid u32, rdev u64, size u64, content 32, attributes 32, length of path u32, path, target`
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_LEN + self.path.len() + self.target.len());
        out.push(self.kind as u8);
        for field in [self.mode, self.uid, self.gid] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.rdev.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.content);
        out.extend_from_slice(&self.attributes);
        // A path of a record that was checked fits.
        out.extend_from_slice(&u32::try_from(self.path.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&self.path);
        out.extend_from_slice(&self.target);
        out
    }

    /// Reads a record that could be on a list.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let mut rest = bytes;
        let [kind] = take(&mut rest)?;
        let kind = KINDS.get(usize::from(kind)).copied().ok_or(RecordError::Kind)?;
        let (mode, uid, gid) = (take_u32(&mut rest)?, take_u32(&mut rest)?, take_u32(&mut rest)?);
        let (rdev, size) = (u64::from_le_bytes(take(&mut rest)?), u64::from_le_bytes(take(&mut rest)?));
        let (content, attributes) = (take(&mut rest)?, take(&mut rest)?);
        let path_len = usize::try_from(take_u32(&mut rest)?).map_err(|_| RecordError::Length)?;
        let (path, target) = rest.split_at_checked(path_len).ok_or(RecordError::Length)?;
        let (path, target) = (path.to_vec(), target.to_vec());
        let record = Record { path, kind, mode, uid, gid, rdev, size, content, attributes, target };
        record.check().map(|()| record)
    }

    /// Whether it can be on a list.
    pub fn check(&self) -> Result<(), RecordError> {
        let is_path = |path: &[u8]| {
            path.len() <= PATH_MAX
                && (path.is_empty()
                    || path
                        .split(|byte| *byte == b'/')
                        .all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0)))
        };
        if !is_path(&self.path) || (self.path.is_empty() && self.kind != Kind::Directory) {
            return Err(RecordError::Path);
        }
        let (regular, device) = (self.kind == Kind::Regular, matches!(self.kind, Kind::BlockDevice | Kind::CharDevice));
        let of_kind = match self.kind {
            Kind::HardLink => {
                let is_earlier = is_path(&self.target) && !self.target.is_empty() && self.target < self.path;
                let fields = (self.mode, self.uid, self.gid, self.attributes);
                is_earlier && fields == (0, 0, 0, [0; 32])
            }
            Kind::Symlink => self.mode == 0 && !self.target.is_empty() && self.target.len() < PATH_MAX,
            _ => self.target.is_empty(),
        };
        let content = regular || (self.size, self.content) == (0, [0; 32]);
        if self.mode < 0o10000 && (device || self.rdev == 0) && content && of_kind {
            Ok(())
        } else {
            Err(RecordError::Field)
        }
    }

    /// The leaf that stands for it.
    pub(crate) fn leaf(&self) -> Digest {
        sha256(&[&[0], DOMAIN, &self.encode()])
    }
}

/// A digest of extended attributes: SHA-256 of each one's name and value, with the length of each as u32 before it, sorted by
/// name.
pub fn digest_of_attributes<'a>(attributes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Digest {
    let mut sorted: Vec<(&[u8], &[u8])> = attributes.into_iter().collect();
    sorted.sort_unstable();
    let mut bytes = Vec::new();
    for part in sorted.into_iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    sha256(&[&bytes])
}

const DOMAIN: &[u8] = b"sefs manifest record";
const FIXED_LEN: usize = 1 + 3 * 4 + 2 * 8 + 2 * 32 + 4;
/// In the order of their numbers.
const KINDS: [Kind; 8] = [
    Kind::Regular,
    Kind::Directory,
    Kind::Symlink,
    Kind::Fifo,
    Kind::Socket,
    Kind::BlockDevice,
    Kind::CharDevice,
    Kind::HardLink,
];

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RecordError> {
    let (taken, left) = rest.split_first_chunk().ok_or(RecordError::Length)?;
    *rest = left;
    Ok(*taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, RecordError> {
    take(rest).map(u32::from_le_bytes)
}
