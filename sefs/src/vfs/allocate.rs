//! Space that is promised and given back: fallocate(2).

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{INLINE_FILE_MAX, Inode};
use crate::store::{Need, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::vfs::attr::require_regular;
use crate::vfs::file::{inline_content, within_block};
use crate::vfs::inode::Edit;
use crate::vfs::resize::{Block, Resize, first_block, leave_inline, put_inline, zeroed};
use crate::vfs::write::mark_written;
use crate::vfs::{AllocateMode, Caller, FILE_SIZE_MAX, Volume, WriteMode};

/// Blocks that are promised in one step (64 MiB).
const STEP_BLOCKS: u64 = 16_384;

/// A range of bytes, not empty.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// Promises or gives back space.
pub(super) fn allocate(
    volume: &Volume,
    caller: &Caller,
    ino: InodeNo,
    offset: u64,
    len: u64,
    mode: AllocateMode,
) -> Result<()> {
    let end = offset.checked_add(len).filter(|end| *end <= FILE_SIZE_MAX).ok_or(Posix::FileTooBig)?;
    if len == 0 {
        return Err(Posix::InvalidArgument.into());
    }
    let span = Span { start: offset, end };
    match mode {
        AllocateMode::Allocate { keep_size } => reserve(volume, caller, ino, span, keep_size),
        AllocateMode::PunchHole => zero(volume, caller, ino, span),
        AllocateMode::ZeroRange { keep_size } => {
            zero(volume, caller, ino, span)?;
            reserve(volume, caller, ino, span, keep_size)
        }
        AllocateMode::Collapse | AllocateMode::Insert => Err(Posix::NotSupported.into()),
    }
}

/// Makes a range read as zeros and gives its whole blocks back, in one step.
pub(super) fn zero(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span2) -> Result<()> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let before = locked.inode(store, ino)?;
    require_regular(&before)?;
    let mut inode = (*before).clone();
    if before.flags.inline {
        let mut bytes = inline_content(store, &before)?;
        let clamp = |offset: u64| usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let (from, to) = (clamp(span.start), clamp(span.end));
        bytes[from..to].fill(0);
        let mut edit = Edit::begin(store, Need::Release, &locked)?;
        put_inline(&mut edit.tx, inode.object, bytes);
        mark_written(store, &mut edit.tx, caller, ino, &mut inode, WriteMode::Direct, volume.clock.now())?;
        edit.put_inode(ino, inode);
        edit.finish();
        return Ok(());
    }
    let edges = edges(store, &before, span)?;
    let (first, end) = whole_blocks(&before, span);
    let mut edit = Edit::begin(store, Need::Release, &locked)?;
    for (block, bytes) in edges {
        edit.tx.write(inode.object, block, &bytes)?;
    }
    if first < end {
        edit.tx.clear(inode.object, first, end)?;
    }
    mark_written(store, &mut edit.tx, caller, ino, &mut inode, WriteMode::Direct, volume.clock.now())?;
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
}
