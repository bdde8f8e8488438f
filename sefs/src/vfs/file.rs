//! Reading: content, holes, and where symlinks point.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{FileKind, Inode};
use crate::store::{Extent, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo, ObjectId};
use crate::vfs::attr::require_regular;
use crate::vfs::inode::record_error;
use crate::vfs::make::inline_key;
use crate::vfs::{DataRun, Seek, Volume};

/// Reads from a regular file.
pub(super) fn read(volume: &Volume, ino: InodeNo, offset: u64, out: &mut [u8]) -> Result<usize> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        require_regular(inode)?;
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let out_len = out.len().min(left);
        let out = &mut out[..out_len];
        if out.is_empty() {
            return Ok(0);
        }
        if inode.flags.inline {
            let bytes = inline_content(store, inode)?;
            // `offset` is below the size, which is the record's length.
            let from = usize::try_from(offset).unwrap_or(bytes.len());
            out.copy_from_slice(&bytes[from..from + out_len]);
        } else {
            read_bytes(store, inode.object, offset, out)?;
        }
        Ok(out_len)
    })
}

/// Reads bytes that need not begin or end with a block. Whole blocks go straight to where they are wanted.
fn read_bytes(store: &Store, object: ObjectId, offset: u64, out: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < out.len() {
        let at = offset + done as u64;
        let (block, within) = (at / BLOCK_SIZE_U64, within_block(at));
        let left = out.len() - done;
        if within == 0 && left >= BLOCK_SIZE {
            let whole = left - left % BLOCK_SIZE;
            store.read_blocks(object, block, &mut out[done..done + whole])?;
            done += whole;
        } else {
            let mut bytes = [0; BLOCK_SIZE];
            store.read_blocks(object, block, &mut bytes)?;
            let take = left.min(BLOCK_SIZE - within);
            out[done..done + take].copy_from_slice(&bytes[within..within + take]);
            done += take;
        }
    }
    Ok(())
}

/// The next data or hole.
pub(super) fn seek(volume: &Volume, ino: InodeNo, offset: u64, whence: Seek) -> Result<u64> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        require_regular(inode)?;
        if offset >= inode.size {
            return Err(Posix::NoSuchOffset.into());
        }
        if inode.flags.inline {
            return Ok(if whence == Seek::Data { offset } else { inode.size });
        }
        let (from, end) = (offset / BLOCK_SIZE_U64, inode.size.div_ceil(BLOCK_SIZE_U64));
        let want = if whence == Seek::Data { Extent::Data } else { Extent::Hole };
        match (store.next_extent(inode.object, from, want, end)?, whence) {
            (Some(block), _) => Ok(offset.max(block * BLOCK_SIZE_U64)),
            (None, Seek::Hole) => Ok(inode.size),
            (None, Seek::Data) => Err(Posix::NoSuchOffset.into()),
        }
    })
}

/// How content lies.
pub(super) fn data_runs(volume: &Volume, ino: InodeNo, from_block: u64, limit: usize) -> Result<Vec<DataRun>> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        require_regular(inode)?;
        if inode.flags.inline {
            return Ok(Vec::new());
        }
        store.data_runs(inode.object, from_block, inode.size.div_ceil(BLOCK_SIZE_U64), limit)
    })
}

/// Where a symlink points.
pub(super) fn read_link(volume: &Volume, ino: InodeNo) -> Result<Vec<u8>> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| match inode.kind() {
        FileKind::Symlink => inline_content(store, inode),
        _ => Err(Posix::InvalidArgument.into()),
    })
}

/// The whole content of an inode whose content is one record.
pub(super) fn inline_content(store: &Store, inode: &Inode) -> Result<Vec<u8>> {
    if inode.size == 0 {
        return Ok(Vec::new());
    }
    let key = inline_key(inode.object);
    let bytes = store.get(key)?.ok_or_else(|| record_error(key, "inline content is missing"))?;
    let fits = bytes.len() as u64 == inode.size && bytes.len() <= BLOCK_SIZE;
    if fits { Ok(bytes) } else { Err(record_error(key, "inline content's length")) }
}

/// Where in its block a byte stands.
pub(super) fn within_block(offset: u64) -> usize {
    // Below the block size, which a usize holds.
    usize::try_from(offset % BLOCK_SIZE_U64).unwrap_or(0)
}
