//! Space that is promised and given back: fallocate(2).

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{INLINE_FILE_MAX, Inode};
use crate::store::{Extent, MAX_PREALLOCATE_BLOCKS, Need, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::vfs::attr::require_regular;
use crate::vfs::file::{inline_content, within_block};
use crate::vfs::inode::{Edit, Locked};
use crate::vfs::resize::{Block, Resize, first_block, leave_inline, put_inline, zeroed};
use crate::vfs::write::mark_written;
use crate::vfs::{AllocateMode, Caller, FILE_SIZE_MAX, Volume, WriteMode};

/// A range of bytes, not empty, within what a file can have.
#[derive(Clone, Copy)]
pub(super) struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// The range of `len` bytes from `start`.
    pub(super) fn new(start: u64, len: u64) -> Result<Span> {
        if len == 0 {
            return Err(Posix::InvalidArgument.into());
        }
        let end = start.checked_add(len).filter(|end| *end <= FILE_SIZE_MAX).ok_or(Posix::FileTooBig)?;
        Ok(Span { start, end })
    }
}

/// Promises or gives back space.
pub(super) fn allocate(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span, mode: AllocateMode) -> Result<()> {
    match mode {
        AllocateMode::Allocate { keep_size } => reserve(volume, caller, ino, span, keep_size),
        AllocateMode::PunchHole => zero(volume, caller, ino, span),
        AllocateMode::ZeroRange { keep_size } => {
            zero(volume, caller, ino, span)?;
            reserve(volume, caller, ino, span, keep_size)
        }
        AllocateMode::Collapse | AllocateMode::Insert => {
            volume.inodes.hold(ino).shared(&volume.store, require_regular)?;
            Err(Posix::NotSupported.into())
        }
    }
}

/// Makes a range read as zeros and gives its whole blocks back, in one step. The length stays.
pub(super) fn zero(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span) -> Result<()> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let inode = (*locked.inode(store, ino)?).clone();
    require_regular(&inode)?;
    if inode.flags.inline {
        let mut bytes = inline_content(store, &inode)?;
        let clamp = |offset: u64| usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let (from, to) = (clamp(span.start), clamp(span.end));
        bytes[from..to].fill(0);
        let mut edit = Edit::begin(store, Need::Release, &locked)?;
        put_inline(&mut edit.tx, inode.object, bytes);
        return finish(volume, edit, caller, ino, inode);
    }
    let edges = edges(store, &inode, span)?;
    let (first, end) = whole_blocks(&inode, span);
    let mut edit = Edit::begin(store, Need::Release, &locked)?;
    for (block, bytes) in edges {
        edit.tx.write(inode.object, block, &bytes)?;
    }
    if first < end {
        edit.tx.clear(inode.object, first, end)?;
    }
    finish(volume, edit, caller, ino, inode)
}

/// The blocks that a range covers wholly, where what is past the end of the file counts as covered.
fn whole_blocks(inode: &Inode, span: Span) -> (u64, u64) {
    let first = span.start.div_ceil(BLOCK_SIZE_U64);
    if span.end < inode.size {
        return (first, span.end / BLOCK_SIZE_U64);
    }
    let end = span.end.div_ceil(BLOCK_SIZE_U64);
    (first, if inode.flags.past_end { end } else { end.min(inode.size.div_ceil(BLOCK_SIZE_U64)) })
}

/// The blocks that a range covers in part, zeroed there; those that are no data already read as zeros.
fn edges(store: &Store, inode: &Inode, span: Span) -> Result<Vec<(u64, Block)>> {
    let mut edges = Vec::new();
    let mut edge = |block: u64, from: usize, to: usize| -> Result<()> {
        if let Some(bytes) = zeroed(store, inode.object, block, from, to)? {
            edges.push((block, bytes));
        }
        Ok(())
    };
    let (head, tail) = (span.start / BLOCK_SIZE_U64, span.end / BLOCK_SIZE_U64);
    let (from, to) = (within_block(span.start), within_block(span.end));
    let tail_counts = to > 0 && span.end < inode.size;
    if from > 0 && span.start < inode.size {
        edge(head, from, if head == tail { to } else { BLOCK_SIZE })?;
        if head == tail {
            return Ok(edges);
        }
    }
    if tail_counts {
        edge(tail, 0, to)?;
    }
    Ok(edges)
}

/// Promises space for a range, in steps that each happen as a whole.
fn reserve(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span, keep_size: bool) -> Result<()> {
    let end = span.end.div_ceil(BLOCK_SIZE_U64);
    let mut block = span.start / BLOCK_SIZE_U64;
    check_possible(volume, ino, end - block)?;
    while block < end {
        let step_end = end.min(block + MAX_PREALLOCATE_BLOCKS);
        let held = volume.inodes.hold_all(&[ino]);
        let locked = held.lock();
        reserve_step(volume, caller, &locked, ino, span, keep_size, (block, step_end))?;
        block = step_end;
    }
    Ok(())
}

/// Refuses what can never be had, before any of it is taken: more than there is, even if all the file has lies there.
fn check_possible(volume: &Volume, ino: InodeNo, blocks: u64) -> Result<()> {
    let store = &volume.store;
    volume.inodes.hold(ino).shared(store, |inode| {
        require_regular(inode)?;
        let has = if inode.flags.inline { 0 } else { store.object_blocks(inode.object)? };
        let lacks = blocks.saturating_sub(has);
        if lacks > store.space().available_blocks { Err(Posix::NoSpace.into()) } else { Ok(()) }
    })
}

/// Promises some blocks of a range; the last step sets the length.
fn reserve_step(
    volume: &Volume,
    caller: &Caller,
    locked: &Locked<'_>,
    ino: InodeNo,
    span: Span,
    keep_size: bool,
    (first, end): (u64, u64),
) -> Result<()> {
    let store = &volume.store;
    let mut inode = (*locked.inode(store, ino)?).clone();
    require_regular(&inode)?;
    let size = if keep_size { inode.size } else { inode.size.max(span.end) };
    let last = end * BLOCK_SIZE_U64 >= span.end;
    if inode.flags.inline && span.end <= INLINE_FILE_MAX as u64 {
        // A record's space is not promised block by block: what fits there always finds room again.
        let resize = Resize::plan(store, &inode, size)?;
        let mut edit = Edit::begin(store, resize.need(), locked)?;
        resize.apply(store, &mut edit.tx, &mut inode)?;
        return finish(volume, edit, caller, ino, inode);
    }
    if inode.flags.inline {
        inode = leave_record(volume, locked, ino, inode)?;
    }
    let absent = absent_blocks(store, &inode, first, end)?;
    let mut edit = Edit::begin(store, Need::Data { blocks: absent }, locked)?;
    edit.tx.preallocate(inode.object, first, end - first)?;
    if last {
        inode.size = size;
    }
    inode.flags.past_end |= end > inode.size.div_ceil(BLOCK_SIZE_U64);
    finish(volume, edit, caller, ino, inode)
}

/// Makes a file of one record one of blocks, as a step of its own: promising must see what is there.
fn leave_record(volume: &Volume, locked: &Locked<'_>, ino: InodeNo, mut inode: Inode) -> Result<Inode> {
    let store = &volume.store;
    let block = first_block(inline_content(store, &inode)?);
    let mut edit = Edit::begin(store, Need::Data { blocks: 1 }, locked)?;
    leave_inline(&mut edit.tx, &mut inode, block)?;
    edit.put_inode(ino, inode.clone());
    edit.finish();
    Ok(inode)
}

/// How many blocks are no data, at most: those that are promised already count again.
fn absent_blocks(store: &Store, inode: &Inode, first: u64, end: u64) -> Result<u64> {
    let (mut absent, mut at) = (0, first);
    while let Some(hole) = store.next_extent(inode.object, at, Extent::Hole, end)? {
        at = store.next_extent(inode.object, hole, Extent::Data, end)?.unwrap_or(end);
        absent += at - hole;
    }
    Ok(absent)
}

fn finish(volume: &Volume, mut edit: Edit<'_>, caller: &Caller, ino: InodeNo, mut inode: Inode) -> Result<()> {
    let now = volume.clock.now();
    mark_written(&volume.store, &mut edit.tx, caller, ino, &mut inode, WriteMode::Direct, now)?;
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
}
