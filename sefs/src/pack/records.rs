//! The records of an image in key order, with one kind of proof or the other.

use alloc::vec::Vec;

use super::blocks::{Blocks, nonce_of};
use super::{Packer, Stored, key};
use crate::error::Result;
use crate::format::{BlockLoc, BlockState, Chunk, Key, Kind, Proof, SpaceRecord, nonce_at};
use crate::sealer::PACKED_EPOCH;
use crate::types::{BlockAddr, CHUNK_BLOCKS, Generation};

/// What references prove.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The plaintext: in a public image, and in the measure of every image.
    Plain,
    /// The ciphertext.
    Sealed,
}

impl Packer {
    /// Hands over every record, keys rising.
    pub(super) fn each_record(&self, form: Form, emit: &mut dyn FnMut(Key, &[u8]) -> Result<()>) -> Result<()> {
        for (&number, stored) in &self.inodes {
            emit(key(number, Kind::Inode, 0), &stored.inode.encode())?;
            for (&offset, entry) in stored.directory.iter().flat_map(|directory| &directory.entries) {
                emit(key(number, Kind::DirEntry, offset), &entry.encode())?;
            }
            for (&offset, value) in &stored.xattrs {
                emit(key(number, Kind::Xattr, offset), value)?;
            }
            if !stored.inline.is_empty() {
                emit(key(number, Kind::Inline, 0), &stored.inline)?;
            }
            self.each_chunk(number, stored, form, emit)?;
        }
        Ok(())
    }

    fn each_chunk(
        &self,
        number: u64,
        stored: &Stored,
        form: Form,
        emit: &mut dyn FnMut(Key, &[u8]) -> Result<()>,
    ) -> Result<()> {
        for blocks in stored.content.chunk_by(|(one, _), (two, _)| one / CHUNK_BLOCKS == two / CHUNK_BLOCKS) {
            let Some((first, _)) = blocks.first() else { continue };
            emit(key(number, Kind::Extent, first / CHUNK_BLOCKS), &chunk(&self.blocks, blocks, form).encode())?;
        }
        if !stored.content.is_empty() {
            let space = SpaceRecord { data_blocks: stored.content.len() as u64 };
            emit(key(number, Kind::Space, 0), &space.encode())?;
        }
        Ok(())
    }
}

/// One chunk. A public block has no nonce; in its place each run counts from zero, as the format counts nonces within runs.
fn chunk(blocks: &Blocks, content: &[(u64, BlockAddr)], form: Form) -> Chunk {
    let mut states: Vec<(u8, BlockState)> = Vec::with_capacity(content.len());
    let mut before: Option<(u8, BlockLoc)> = None;
    for &(block, addr) in content {
        // Below 64.
        let index = (block % CHUNK_BLOCKS) as u8;
        let follows = before.filter(|(last, loc)| last + 1 == index && loc.addr.0 + 1 == addr.0);
        let (nonce, digest) = match form {
            Form::Sealed => (nonce_of(addr), blocks.sealed(addr)),
            Form::Plain => {
                let counted = follows.and_then(|(_, loc)| nonce_at(&loc.nonce, 1));
                (counted.unwrap_or_default(), blocks.plain(addr))
            }
        };
        let (epoch, birth, proof) = (PACKED_EPOCH, Generation(0), Proof::Digest(digest));
        let loc = BlockLoc { source: 0, epoch, addr, birth, nonce, proof };
        states.push((index, BlockState::Data(loc)));
        before = Some((index, loc));
    }
    Chunk::of_blocks(states)
}
