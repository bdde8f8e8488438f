//! Changes of a file's length.
//!
//! What a new length needs is worked out, and read, before the transaction begins; then nothing can fail half-way.
//!
//! *Invariants*: bytes past the end of the file in its last block are zero on disk; no data block stands past the end.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{INLINE_FILE_MAX, Inode};
use crate::store::{Extent, Need, Store, Tx};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, ObjectId};
use crate::vfs::FILE_SIZE_MAX;
use crate::vfs::file::inline_content;
use crate::vfs::make::inline_key;
use crate::vfs::remove::{SMALL_BYTES, blocks_hint};

/// One block's bytes.
pub(super) type Block = Vec<u8>;

/// What a new length changes besides the length.
pub(super) struct Resize {
    size: u64,
    content: Content,
}

enum Content {
    /// The record holds it all, as before; its new bytes.
    Inline { bytes: Vec<u8>, grows: bool },
    /// The record's bytes become block 0.
    Leaves { block: Option<Block> },
    /// The blocks stay as they are: a hole is added, or nothing.
    Stays,
    /// All blocks go.
    Goes,
    /// Blocks from `first` to `end` go, and the last one that stays ends earlier.
    Cut { edge: Option<(u64, Block)>, first: u64, end: u64 },
}

impl Resize {
    /// Works out what a new length needs.
    pub(super) fn plan(store: &Store, inode: &Inode, size: u64) -> Result<Resize> {
        if size > FILE_SIZE_MAX {
            return Err(Posix::FileTooBig.into());
        }
        let content = if inode.flags.inline {
            let bytes = inline_content(store, inode)?;
            match usize::try_from(size) {
                Ok(len) if len <= INLINE_FILE_MAX => {
                    let grows = len > bytes.len();
                    Content::Inline { bytes: resized(bytes, len), grows }
                }
                _ => Content::Leaves { block: first_block(bytes) },
            }
        } else if size == 0 {
            Content::Goes
        } else if size > inode.size || (size == inode.size && !inode.flags.past_end) {
            Content::Stays
        } else {
            let edge = edge_block(store, inode, size)?;
            Content::Cut { edge, first: size.div_ceil(BLOCK_SIZE_U64), end: blocks_hint(inode) }
        };
        Ok(Resize { size, content })
    }

    /// What the store has to have for it.
    pub(super) fn need(&self) -> Need {
        match &self.content {
            Content::Inline { grows: true, .. } | Content::Stays | Content::Leaves { block: None } => Need::Metadata,
            Content::Leaves { block: Some(_) } => Need::Data { blocks: 1 },
            Content::Cut { edge: Some(_), .. } => Need::Edges { blocks: 1 },
            Content::Inline { grows: false, .. } | Content::Goes | Content::Cut { edge: None, .. } => Need::Release,
        }
    }

    /// Puts it into the transaction and into the inode, which the caller puts.
    pub(super) fn apply(self, store: &Store, tx: &mut Tx<'_>, inode: &mut Inode) -> Result<()> {
        match self.content {
            Content::Inline { bytes, .. } => put_inline(tx, inode.object, bytes),
            Content::Leaves { block } => leave_inline(tx, inode, block)?,
            Content::Stays => {}
            Content::Goes => {
                tx.drop_object(inode.object, blocks_hint(inode));
                // The old object may be covered by a tombstone for long; new content must not wait for it.
                if inode.flags.past_end || inode.size > SMALL_BYTES {
                    inode.object = ObjectId(store.new_id());
                }
                inode.flags.inline = true;
                inode.flags.past_end = false;
            }
            Content::Cut { edge, first, end } => {
                if let Some((block, bytes)) = edge {
                    tx.write(inode.object, block, &bytes)?;
                }
                tx.clear(inode.object, first, end)?;
                inode.flags.past_end = false;
            }
        }
        inode.size = self.size;
        Ok(())
    }
}

/// Puts the record of a small file; an empty one has none.
pub(super) fn put_inline(tx: &mut Tx<'_>, object: ObjectId, bytes: Vec<u8>) {
    if bytes.is_empty() {
        tx.delete(inline_key(object));
    } else {
        tx.put(inline_key(object), bytes);
    }
}

/// Makes a file that is one record one of blocks; its first block is given unless it is empty or written anyway.
pub(super) fn leave_inline(tx: &mut Tx<'_>, inode: &mut Inode, block: Option<Block>) -> Result<()> {
    if inode.size > 0 {
        tx.delete(inline_key(inode.object));
    }
    if let Some(block) = block {
        tx.write(inode.object, 0, &block)?;
    }
    inode.flags.inline = false;
    Ok(())
}

/// A small file's bytes as its first block; `None` if there are none.
pub(super) fn first_block(bytes: Vec<u8>) -> Option<Block> {
    if bytes.is_empty() { None } else { Some(resized(bytes, BLOCK_SIZE)) }
}

/// The block that a new end cuts, zero after it, unless it is a hole already.
fn edge_block(store: &Store, inode: &Inode, size: u64) -> Result<Option<(u64, Block)>> {
    let (block, within) = (size / BLOCK_SIZE_U64, size % BLOCK_SIZE_U64);
    if within == 0 || size >= inode.size {
        return Ok(None);
    }
    let end = usize::try_from(within).unwrap_or(BLOCK_SIZE);
    Ok(zeroed(store, inode.object, block, end, BLOCK_SIZE)?.map(|bytes| (block, bytes)))
}

/// A block with some of its bytes zeroed; `None` if all of it reads as zeros without being data.
pub(super) fn zeroed(store: &Store, object: ObjectId, block: u64, from: usize, to: usize) -> Result<Option<Block>> {
    if store.next_extent(object, block, Extent::Data, block + 1)?.is_none() {
        return Ok(None);
    }
    let mut bytes = alloc::vec![0; BLOCK_SIZE];
    store.read_blocks(object, block, &mut bytes)?;
    bytes[from..to].fill(0);
    Ok(Some(bytes))
}

fn resized(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    bytes
}
