//! Space that is promised and given back: fallocate(2).

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{INLINE_FILE_MAX, Inode};
use crate::store::{Extent, MAX_PREALLOCATE_BLOCKS, Need, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::vfs::attr::require_regular;
use crate::vfs::file::{inline_content, within_block};
use crate::vfs::inode::{Edit, Locked};
use crate::vfs::resize::{Block, first_block, leave_inline, put_inline, zeroed};
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

    /// The blocks that it touches.
    fn blocks(self) -> (u64, u64) {
        (self.start / BLOCK_SIZE_U64, self.end.div_ceil(BLOCK_SIZE_U64))
    }
}

/// Promises or gives back space. What can be seen of it happens in one step.
pub(super) fn allocate(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span, mode: AllocateMode) -> Result<()> {
    match mode {
        AllocateMode::Allocate { keep_size } => promise(volume, ino, span, Some((caller, keep_size))),
        AllocateMode::PunchHole => zero(volume, caller, ino, span, true),
        AllocateMode::ZeroRange { keep_size } => {
            check_possible(volume, ino, span)?;
            zero(volume, caller, ino, span, keep_size)?;
            promise(volume, ino, span, None)
        }
        AllocateMode::Collapse | AllocateMode::Insert => {
            volume.inodes.hold(ino).shared(&volume.store, require_regular)?;
            Err(Posix::NotSupported.into())
        }
    }
}

/// Makes a range read as zeros and gives its whole blocks back, in one step.
pub(super) fn zero(volume: &Volume, caller: &Caller, ino: InodeNo, span: Span, keep_size: bool) -> Result<()> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let mut inode = (*locked.inode(store, ino)?).clone();
    require_regular(&inode)?;
    let size = if keep_size { inode.size } else { inode.size.max(span.end) };
    let mut edit;
    if inode.flags.inline {
        let mut bytes = inline_content(store, &inode)?;
        let clamp = |offset: u64| usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
        let (from, to) = (clamp(span.start), clamp(span.end));
        bytes[from..to].fill(0);
        edit = put_small(store, &locked, &mut inode, bytes, size)?;
    } else {
        let edges = edges(store, &inode, span)?;
        let (first, end) = whole_blocks(&inode, span);
        let need = if edges.is_empty() { Need::Release } else { Need::Edges { blocks: edges.len() as u64 } };
        edit = Edit::begin(store, need, &locked)?;
        for (block, bytes) in edges {
            edit.tx.write(inode.object, block, &bytes)?;
        }
        if first < end {
            edit.tx.clear(inode.object, first, end)?;
        }
    }
    inode.size = size;
    mark_written(store, &mut edit.tx, caller, ino, &mut inode, WriteMode::Direct, volume.clock.now())?;
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
}

/// Begins an edit that gives a file of one record these bytes, and zeros up to its new size.
fn put_small<'a>(
    store: &'a Store,
    locked: &'a Locked<'a>,
    inode: &mut Inode,
    mut bytes: Vec<u8>,
    size: u64,
) -> Result<Edit<'a>> {
    if let Ok(len) = usize::try_from(size)
        && len <= INLINE_FILE_MAX
    {
        let need = if len > bytes.len() { Need::Metadata } else { Need::Release };
        bytes.resize(len, 0);
        let mut edit = Edit::begin(store, need, locked)?;
        put_inline(&mut edit.tx, inode.object, bytes);
        return Ok(edit);
    }
    let mut edit = Edit::begin(store, Need::Data { blocks: 1 }, locked)?;
    leave_inline(&mut edit.tx, inode, first_block(bytes))?;
    Ok(edit)
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

/// Promises space for a range, in steps. Only the last can be seen, and only if `seen` says by whom and whether the
/// length stays.
fn promise(volume: &Volume, ino: InodeNo, span: Span, seen: Option<(&Caller, bool)>) -> Result<()> {
    check_possible(volume, ino, span)?;
    let (mut block, end) = span.blocks();
    while block < end {
        let step_end = end.min(block + MAX_PREALLOCATE_BLOCKS);
        let held = volume.inodes.hold_all(&[ino]);
        let locked = held.lock();
        let seen = seen.filter(|_| step_end == end);
        promise_step(volume, &locked, ino, span, (block, step_end), seen)?;
        block = step_end;
    }
    Ok(())
}

/// Refuses what can never be had, before any of it is taken: more than there is, even if all the file has lies there.
fn check_possible(volume: &Volume, ino: InodeNo, span: Span) -> Result<()> {
    let store = &volume.store;
    let (first, end) = span.blocks();
    volume.inodes.hold(ino).shared(store, |inode| {
        require_regular(inode)?;
        let has = if inode.flags.inline { 0 } else { store.object_blocks(inode.object)? };
        let lacks = (end - first).saturating_sub(has);
        if lacks > store.space().available_blocks { Err(Posix::NoSpace.into()) } else { Ok(()) }
    })
}

/// Promises some blocks of a range.
fn promise_step(
    volume: &Volume,
    locked: &Locked<'_>,
    ino: InodeNo,
    span: Span,
    (first, end): (u64, u64),
    seen: Option<(&Caller, bool)>,
) -> Result<()> {
    let store = &volume.store;
    let mut inode = (*locked.inode(store, ino)?).clone();
    require_regular(&inode)?;
    let grows = seen.is_some_and(|(_, keep_size)| !keep_size);
    let size = if grows { inode.size.max(span.end) } else { inode.size };
    // A record's space is not promised block by block: what fits there always finds room again.
    let mut edit = if inode.flags.inline && span.end <= INLINE_FILE_MAX as u64 {
        let bytes = inline_content(store, &inode)?;
        put_small(store, locked, &mut inode, bytes, size)?
    } else {
        if inode.flags.inline {
            inode = leave_record(volume, locked, ino, inode)?;
        }
        let absent = absent_blocks(store, &inode, first, end)?;
        let mut edit = Edit::begin(store, Need::Promise { blocks: absent }, locked)?;
        edit.tx.preallocate(inode.object, first, end - first)?;
        inode.flags.past_end |= end > size.div_ceil(BLOCK_SIZE_U64);
        edit
    };
    inode.size = size;
    if let Some((caller, _)) = seen {
        mark_written(store, &mut edit.tx, caller, ino, &mut inode, WriteMode::Direct, volume.clock.now())?;
    }
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(())
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
