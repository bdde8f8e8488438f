//! What an inode of one version of the images is in another: the same content, or not.

use alloc::vec::Vec;

use crate::error::Result;
use crate::format::{BlockLoc, BlockState, Chunk, FileKind, ImageType, Inode, Key, Kind};
use crate::layers::make::inode_of;
use crate::store::{Lowers, chunk_key};
use crate::types::{BLOCK_SIZE, ObjectId};

/// Two versions of the images below a volume.
pub(super) struct Versions<'a> {
    pub(super) old: &'a Lowers,
    pub(super) new: &'a Lowers,
}

impl Versions<'_> {
    /// Whether a number is the same file or symlink in both: what kind it is, and all of its content.
    pub(super) fn same_content(&self, number: u64) -> Result<bool> {
        let (Some(old), Some(new)) = (inode_of(self.old, number)?, inode_of(self.new, number)?) else {
            return Ok(false);
        };
        if old.kind() != new.kind() || old.size != new.size || old.rdev != new.rdev {
            return Ok(false);
        }
        match old.kind() {
            FileKind::Regular | FileKind::Symlink if old.flags.inline != new.flags.inline => Ok(false),
            FileKind::Regular | FileKind::Symlink if old.flags.inline => {
                let key = Key::new(number, Kind::Inline, 0);
                Ok(self.old.get(key)? == self.new.get(key)?)
            }
            FileKind::Regular => self.same_chunks(number),
            _ => Ok(true),
        }
    }

    /// Whether owner, permissions and attributes of a number are the same in both.
    pub(super) fn same_attributes(&self, number: u64) -> Result<bool> {
        let (Some(old), Some(new)) = (inode_of(self.old, number)?, inode_of(self.new, number)?) else {
            return Ok(false);
        };
        let facts = |inode: &Inode| (inode.mode, inode.uid, inode.gid);
        Ok(facts(&old) == facts(&new) && attributes(self.old, number)? == attributes(self.new, number)?)
    }

    fn same_chunks(&self, number: u64) -> Result<bool> {
        let end = Key::new(number, Kind::Space, 0);
        let mut from = chunk_key(ObjectId(number), 0);
        loop {
            let next = [self.old.next_key(from, end)?, self.new.next_key(from, end)?].into_iter().flatten().min();
            let Some(key) = next else { return Ok(true) };
            let (old, new) = (self.old.chunk(key)?, self.new.chunk(key)?);
            for block in 0..64 {
                if !self.same_block(key, block, &old, &new)? {
                    return Ok(false);
                }
            }
            let Some(next) = key.successor() else { return Ok(true) };
            from = next;
        }
    }

    fn same_block(&self, key: Key, block: u8, old: &Chunk, new: &Chunk) -> Result<bool> {
        let (old, new) = match (old.get(block), new.get(block)) {
            (BlockState::Data(old), BlockState::Data(new)) => (old, new),
            (BlockState::Data(_), _) | (_, BlockState::Data(_)) => return Ok(false),
            _ => return Ok(true),
        };
        // A public image's digest is that of the content; another's is of its own ciphertext.
        let is_public = |lowers: &Lowers, loc: &BlockLoc| -> Result<bool> {
            Ok(lowers.image_type(loc.source)? == ImageType::Public)
        };
        if old.proof == new.proof && is_public(self.old, &old)? && is_public(self.new, &new)? {
            return Ok(true);
        }
        let number = key.block_number(block);
        let mut bytes = [alloc::vec![0; BLOCK_SIZE], alloc::vec![0; BLOCK_SIZE]];
        self.old.read_block(ObjectId(key.object), number, &old, &mut bytes[0])?;
        self.new.read_block(ObjectId(key.object), number, &new, &mut bytes[1])?;
        Ok(bytes[0] == bytes[1])
    }
}

/// All records of extended attributes of a number.
pub(super) fn attributes(lowers: &Lowers, number: u64) -> Result<Vec<(Key, Vec<u8>)>> {
    lowers.scan(Key::new(number, Kind::Xattr, 0), Key::new(number, Kind::Inline, 0), usize::MAX)
}
