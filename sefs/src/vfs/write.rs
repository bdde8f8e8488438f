//! Writing.
//!
//! A write of up to 1 MiB is one transaction. The blocks at its ends are read, changed and written whole, all under the
//! inode's exclusive lock; whole blocks between them go to the store as they came.

use alloc::vec::Vec;

use crate::error::{Posix, Result};
use crate::format::{INLINE_FILE_MAX, Inode};
use crate::store::{Need, Store, Tx};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo, Timestamp};
use crate::vfs::attr::{require_regular, touch_content};
use crate::vfs::file::{inline_content, within_block};
use crate::vfs::inode::Edit;
use crate::vfs::resize::{Block, first_block, leave_inline, put_inline};
use crate::vfs::{ATOMIC_WRITE_MAX, Caller, FILE_SIZE_MAX, Volume, WriteMode, permission, xattr};

/// What a write puts where.
enum Plan<'d> {
    /// All content, which stays one record.
    Inline(Vec<u8>),
    /// Blocks.
    Blocks(Blocks<'d>),
}

struct Blocks<'d> {
    /// The first block of a file that was one record, if the write does not cover it.
    carried: Option<Block>,
    /// A first block that the write covers in part.
    head: Option<(u64, Block)>,
    /// Whole blocks.
    middle: Option<(u64, &'d [u8])>,
    /// A last block that the write covers in part.
    tail: Option<(u64, Block)>,
}

/// Writes, in pieces of at most 1 MiB.
pub(super) fn write(
    volume: &Volume,
    caller: &Caller,
    ino: InodeNo,
    offset: u64,
    data: &[u8],
    mode: WriteMode,
) -> Result<usize> {
    let mut done = 0;
    loop {
        let at = offset.saturating_add(done as u64);
        let rest = &data[done..];
        let piece = &rest[..piece_len(at, rest.len(), mode)];
        match volume.with_space(|| write_piece(volume, caller, ino, at, piece, mode)) {
            Ok(written) => {
                done += written;
                if written < piece.len() || done == data.len() {
                    return Ok(done);
                }
            }
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

/// Long writes are cut at block boundaries, so that only their ends cover blocks in part.
fn piece_len(offset: u64, len: usize, mode: WriteMode) -> usize {
    match mode {
        _ if len <= ATOMIC_WRITE_MAX => len,
        WriteMode::Append => ATOMIC_WRITE_MAX,
        WriteMode::Direct | WriteMode::KillPrivileges | WriteMode::Writeback => ATOMIC_WRITE_MAX - within_block(offset),
    }
}

fn write_piece(
    volume: &Volume,
    caller: &Caller,
    ino: InodeNo,
    offset: u64,
    data: &[u8],
    mode: WriteMode,
) -> Result<usize> {
    let store = &volume.store;
    let held = volume.inodes.hold_all(&[ino]);
    let locked = held.lock();
    let before = locked.inode(store, ino)?;
    require_regular(&before)?;
    if data.is_empty() {
        return Ok(0);
    }
    let offset = if mode == WriteMode::Append { before.size } else { offset };
    let room = usize::try_from(FILE_SIZE_MAX.saturating_sub(offset)).unwrap_or(usize::MAX);
    let data = &data[..data.len().min(room)];
    if data.is_empty() {
        return Err(Posix::FileTooBig.into());
    }
    let plan = Plan::of(store, &before, offset, data)?;
    let mut inode = (*before).clone();
    let mut edit = Edit::begin(store, plan.need(store, &before, mode)?, &locked)?;
    plan.apply(&mut edit.tx, &mut inode)?;
    inode.size = inode.size.max(offset + data.len() as u64);
    mark_written(store, &mut edit.tx, caller, ino, &mut inode, mode, volume.clock.now())?;
    edit.put_inode(ino, inode);
    edit.finish();
    Ok(data.len())
}

/// Notes that content changed: times, privileges and capabilities follow.
pub(super) fn mark_written(
    store: &Store,
    tx: &mut Tx<'_>,
    caller: &Caller,
    ino: InodeNo,
    inode: &mut Inode,
    mode: WriteMode,
    now: Timestamp,
) -> Result<()> {
    match mode {
        // The kernel counts the times of its cached writes itself and sends them.
        WriteMode::Writeback => inode.change = inode.change.wrapping_add(1),
        WriteMode::Direct | WriteMode::Append | WriteMode::KillPrivileges => touch_content(inode, now),
    }
    let kills = match mode {
        WriteMode::KillPrivileges => true,
        WriteMode::Direct | WriteMode::Append => caller.is_limited(),
        WriteMode::Writeback => false,
    };
    if kills {
        inode.mode = permission::without_privileges(caller, inode);
    }
    xattr::strip_capability(store, tx, ino, inode)
}

impl<'d> Plan<'d> {
    /// Works out what a write of `data`, which is not empty, needs; reads what it changes in part.
    fn of(store: &Store, inode: &Inode, offset: u64, data: &'d [u8]) -> Result<Plan<'d>> {
        let old = if inode.flags.inline { Some(inline_content(store, inode)?) } else { None };
        let end = offset + data.len() as u64;
        if let Some(old) = &old
            && let (Ok(from), Ok(to)) = (usize::try_from(offset), usize::try_from(end))
            && to <= INLINE_FILE_MAX
        {
            let mut bytes = old.clone();
            bytes.resize(bytes.len().max(to), 0);
            bytes[from..to].copy_from_slice(data);
            return Ok(Plan::Inline(bytes));
        }
        Ok(Plan::Blocks(Blocks::of(store, inode, offset, data, old)?))
    }

    fn need(&self, store: &Store, inode: &Inode, mode: WriteMode) -> Result<Need> {
        let (blocks, promised) = match self {
            Plan::Inline(_) => (0, 0),
            Plan::Blocks(blocks) => (blocks.count(), blocks.promised(store, inode)?),
        };
        Ok(match (mode, blocks) {
            (_, blocks) if promised > 0 => Need::Promised { blocks, promised },
            (WriteMode::Writeback, blocks) => Need::Writeback { blocks },
            (_, 0) => Need::Metadata,
            (_, blocks) => Need::Data { blocks },
        })
    }

    fn apply(self, tx: &mut Tx<'_>, inode: &mut Inode) -> Result<()> {
        match self {
            Plan::Inline(bytes) => {
                inode.size = bytes.len() as u64;
                put_inline(tx, inode.object, bytes);
                Ok(())
            }
            Plan::Blocks(blocks) => blocks.apply(tx, inode),
        }
    }
}

impl<'d> Blocks<'d> {
    fn of(store: &Store, inode: &Inode, offset: u64, data: &'d [u8], inline: Option<Vec<u8>>) -> Result<Blocks<'d>> {
        let mut blocks = Blocks { carried: None, head: None, middle: None, tail: None };
        let (mut block, within) = (offset / BLOCK_SIZE_U64, within_block(offset));
        if block > 0 {
            blocks.carried = inline.clone().and_then(first_block);
        }
        let mut rest = data;
        if within > 0 {
            let (part, later) = rest.split_at(rest.len().min(BLOCK_SIZE - within));
            blocks.head = Some((block, overlaid(store, inode, inline.as_deref(), block, within, part)?));
            (rest, block) = (later, block + 1);
        }
        let (whole, last) = rest.split_at(rest.len() - rest.len() % BLOCK_SIZE);
        if !whole.is_empty() {
            blocks.middle = Some((block, whole));
            block += (whole.len() / BLOCK_SIZE) as u64;
        }
        if !last.is_empty() {
            blocks.tail = Some((block, overlaid(store, inode, inline.as_deref(), block, 0, last)?));
        }
        Ok(blocks)
    }

    fn count(&self) -> u64 {
        let parts = [self.carried.is_some(), self.head.is_some(), self.tail.is_some()];
        let whole = self.middle.map_or(0, |(_, data)| data.len() / BLOCK_SIZE);
        (parts.iter().filter(|there| **there).count() + whole) as u64
    }

    /// How many of them fallocate(2) has promised.
    fn promised(&self, store: &Store, inode: &Inode) -> Result<u64> {
        let edges = self.head.iter().chain(&self.tail).map(|(block, _)| (*block, block + 1));
        let whole = self.middle.map(|(block, data)| (block, block + (data.len() / BLOCK_SIZE) as u64));
        edges.chain(whole).map(|(first, end)| store.unwritten_blocks(inode.object, first, end)).sum()
    }

    fn apply(self, tx: &mut Tx<'_>, inode: &mut Inode) -> Result<()> {
        if inode.flags.inline {
            leave_inline(tx, inode, self.carried)?;
        }
        for (block, bytes) in self.head.iter().map(|(block, bytes)| (*block, &bytes[..])).chain(self.middle) {
            tx.write(inode.object, block, bytes)?;
        }
        if let Some((block, bytes)) = &self.tail {
            tx.write(inode.object, *block, bytes)?;
        }
        Ok(())
    }
}

/// A block with `part` laid over what it held. Nothing is read where the file had nothing, or where all of it is covered.
fn overlaid(
    store: &Store,
    inode: &Inode,
    inline: Option<&[u8]>,
    block: u64,
    within: usize,
    part: &[u8],
) -> Result<Block> {
    let mut bytes = alloc::vec![0; BLOCK_SIZE];
    let start = block * BLOCK_SIZE_U64;
    let covers_rest = within == 0 && start + part.len() as u64 >= inode.size;
    match inline {
        Some(old) if block == 0 => bytes[..old.len()].copy_from_slice(old),
        Some(_) => {}
        None if start >= inode.size || covers_rest => {}
        None => store.read_blocks(inode.object, block, &mut bytes)?,
    }
    bytes[within..within + part.len()].copy_from_slice(part);
    Ok(bytes)
}
