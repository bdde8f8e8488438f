//! One operation's records.
//!
//! A [`Tx`] collects what an operation changes; [`Tx::finish`] puts all of it into the newest layer in one hold of the
//! layers' lock. So an operation is in one log group whole, and operations have one order: that of their `finish`.
//!
//! *Invariants*: data blocks that a transaction allocated are `held` by the allocator until a log group names them; a
//! dropped transaction gives them back. Nothing in `finish` can fail: what it takes was set aside when the operation began.

use alloc::vec::Vec;

use crate::allocator::Extent;
use crate::backend::{Batch, Io};
use crate::error::{Error, Invalid, Result};
use crate::format::{BlockLoc, BlockState, Key, Kind, RangeRecord, nonce_at};
use crate::store::layer::{Content, Page};
use crate::store::ranges::Range;
use crate::store::read::{Block, chunk_key};
use crate::store::room::Room;
use crate::store::{Layers, Store};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, CHUNK_BLOCKS, ObjectId};
use crate::workers;

/// Blocks that one operation may write: an operation is all or nothing, so it has to be bounded.
pub(crate) const MAX_WRITE_BLOCKS: u64 = 256;
/// Blocks that one operation may preallocate.
pub(crate) const MAX_PREALLOCATE_BLOCKS: u64 = 16_384;
/// Writes of at least so many blocks go home at once; smaller ones wait as pages for their log group.
const DIRECT_BLOCKS: usize = 16;
/// Clearing more chunks than this takes a range tombstone.
const MAX_RESET_CHUNKS: u64 = 16;

enum Change {
    Record(Key, Option<Vec<u8>>),
    Chunk {
        object: ObjectId,
        chunk: u64,
        reset: bool,
        blocks: Vec<(u8, Content)>,
    },
    Range(Range),
    /// A step of the job that works a tombstone off: these chunks go, the tombstone then starts at `next`.
    Reclaim {
        id: u64,
        chunks: Vec<u64>,
        next: u64,
    },
}

impl Change {
    fn gives_back(&self) -> bool {
        match self {
            Change::Record(..) => false,
            Change::Range(_) | Change::Reclaim { .. } => true,
            Change::Chunk { reset, blocks, .. } => {
                *reset || blocks.iter().any(|(_, content)| matches!(content, Content::State(BlockState::Absent)))
            }
        }
    }
}

/// The records of one operation. Dropped without [`Tx::finish`], nothing happened.
pub(crate) struct Tx<'a> {
    store: &'a Store,
    room: Room<'a>,
    changes: Vec<Change>,
    held: Vec<Extent>,
    inodes: i64,
    unwritten: i64,
}

impl<'a> Tx<'a> {
    pub(super) fn new(store: &'a Store, room: Room<'a>) -> Tx<'a> {
        Tx { store, room, changes: Vec::new(), held: Vec::new(), inodes: 0, unwritten: 0 }
    }

    /// Sets a record.
    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>) {
        debug_assert!(key.kind != Kind::Extent);
        self.changes.push(Change::Record(key, Some(value)));
    }

    /// Removes a record.
    pub(crate) fn delete(&mut self, key: Key) {
        debug_assert!(key.kind != Kind::Extent);
        self.changes.push(Change::Record(key, None));
    }

    /// Counts inodes that come or go.
    pub(crate) fn count_inodes(&mut self, delta: i64) {
        self.inodes += delta;
    }

    /// Writes whole blocks, at most [`MAX_WRITE_BLOCKS`] an operation.
    pub(crate) fn write(&mut self, object: ObjectId, first_block: u64, data: &[u8]) -> Result<()> {
        let blocks = data.len() / BLOCK_SIZE;
        if !data.len().is_multiple_of(BLOCK_SIZE) || blocks as u64 > MAX_WRITE_BLOCKS {
            return Err(Invalid::Option("write length").into());
        }
        if blocks >= DIRECT_BLOCKS {
            return self.write_home(object, first_block, data);
        }
        for (block, plain) in (first_block..).zip(data.chunks_exact(BLOCK_SIZE)) {
            self.content(object, block, Content::Page(Page::from(plain)));
        }
        Ok(())
    }

    /// Seals blocks and sends them home. They become visible with `finish`, and durable with the group that names them.
    fn write_home(&mut self, object: ObjectId, first_block: u64, data: &[u8]) -> Result<()> {
        let store = self.store;
        let blocks = (data.len() / BLOCK_SIZE) as u64;
        let extents = self.room.spend(blocks, || store.alloc.allocate_data(store, blocks, true))?;
        self.held.extend(extents.iter().copied());
        let (mut pieces, mut rest, mut block) = (Vec::new(), data, first_block);
        for mut extent in extents {
            while extent.blocks > 0 {
                let here = Extent { blocks: extent.blocks.min(CHUNK_BLOCKS - block % CHUNK_BLOCKS), ..extent };
                let (plain, later) = rest.split_at((here.blocks as usize * BLOCK_SIZE).min(rest.len()));
                pieces.push((block, here, plain));
                (block, rest) = (block + here.blocks, later);
                extent = Extent { addr: BlockAddr(extent.addr.0 + here.blocks), blocks: extent.blocks - here.blocks };
            }
        }
        let seal = |pieces: &[(u64, Extent, &[u8])]| -> Result<(Batch, Vec<(u64, BlockLoc)>)> {
            let (mut batch, mut locs) = (Vec::with_capacity(pieces.len()), Vec::with_capacity(CHUNK_BLOCKS as usize));
            for (block, extent, plain) in pieces {
                let mut buf = store.backend.buffer(plain.len());
                locs.extend(store.seal_run(*block, *extent, plain.chunks_exact(BLOCK_SIZE), buf.bytes_mut())?);
                batch.push(Io::Write { offset_bytes: extent.addr.0 * BLOCK_SIZE_U64, buf });
            }
            Ok((batch, locs))
        };
        // What one chunk holds goes out together, however scattered it will lie. Where the backend works meanwhile, as many chunks
        // are sealed at once as there are threads for; elsewhere all of them, for threads take long to wake.
        let chunks: Vec<_> = pieces.chunk_by(|one, two| one.0 / CHUNK_BLOCKS == two.0 / CHUNK_BLOCKS).collect();
        let mut sealed = Vec::with_capacity(data.len() / BLOCK_SIZE);
        // Waking a thread takes longer than sealing a few blocks.
        let threads = if blocks > CHUNK_BLOCKS { store.workers.count() } else { 1 };
        let at_once = if threads > 1 && !store.backend.works_meanwhile() { chunks.len() } else { threads };
        let rounds = chunks.chunks(at_once.max(1));
        let batches = rounds.flat_map(|round| workers::map(&*store.workers, round.to_vec(), seal)).map(|made| {
            let (batch, locs) = made?;
            sealed.extend(locs);
            Ok(batch)
        });
        store.submit_batches(batches)?;
        for part in sealed.chunk_by(|one, two| one.0 / CHUNK_BLOCKS == two.0 / CHUNK_BLOCKS) {
            let named =
                |(block, loc): &(u64, BlockLoc)| ((block % CHUNK_BLOCKS) as u8, Content::State(BlockState::Data(*loc)));
            let (chunk, blocks) = (part[0].0 / CHUNK_BLOCKS, part.iter().map(named).collect());
            self.changes.push(Change::Chunk { object, chunk, reset: false, blocks });
        }
        Ok(())
    }

    /// Makes blocks holes, to `end_block` or, with `u64::MAX`, all that follow.
    pub(crate) fn clear(&mut self, object: ObjectId, first_block: u64, end_block: u64) -> Result<()> {
        if first_block >= end_block {
            return Ok(());
        }
        let first_whole = first_block.div_ceil(CHUNK_BLOCKS);
        let end_whole = if end_block == u64::MAX { u64::MAX } else { end_block / CHUNK_BLOCKS };
        for block in first_block..end_block.min(first_whole * CHUNK_BLOCKS) {
            self.content(object, block, Content::State(BlockState::Absent));
        }
        if first_whole < end_whole {
            self.clear_chunks(object, first_whole, end_whole);
        }
        if end_block != u64::MAX && end_whole >= first_whole {
            for block in (end_whole * CHUNK_BLOCKS).max(first_block)..end_block {
                self.content(object, block, Content::State(BlockState::Absent));
            }
        }
        Ok(())
    }

    /// Removes everything that hangs on an object. `size_hint_blocks` tells that no block stands at or after it.
    pub(crate) fn drop_object(&mut self, object: ObjectId, size_hint_blocks: u64) {
        self.delete(Key::new(object.0, Kind::Inline, 0));
        let end = if size_hint_blocks == u64::MAX { u64::MAX } else { size_hint_blocks.div_ceil(CHUNK_BLOCKS) };
        if end > 0 {
            self.clear_chunks(object, 0, end);
        }
    }

    fn clear_chunks(&mut self, object: ObjectId, first_chunk: u64, end_chunk: u64) {
        if end_chunk - first_chunk <= MAX_RESET_CHUNKS {
            for chunk in first_chunk..end_chunk {
                self.changes.push(Change::Chunk { object, chunk, reset: true, blocks: Vec::new() });
            }
        } else {
            let id = self.store.new_id();
            self.changes.push(Change::Range(Range { id, object, first_chunk, end_chunk }));
        }
    }

    /// Makes absent blocks unwritten: they read as zeros and their space is promised.
    pub(crate) fn preallocate(&mut self, object: ObjectId, first_block: u64, count: u64) -> Result<()> {
        if count > MAX_PREALLOCATE_BLOCKS {
            return Err(Invalid::Option("preallocation length").into());
        }
        let end = first_block + count;
        let mut block = first_block;
        while block < end {
            let chunk = block / CHUNK_BLOCKS;
            let (blocks, _pin) = self.store.resolve(object, chunk)?;
            for at in block..end.min((chunk + 1) * CHUNK_BLOCKS) {
                if matches!(blocks[(at % CHUNK_BLOCKS) as usize], Block::Absent) {
                    self.content(object, at, Content::State(BlockState::Unwritten));
                    self.unwritten += 1;
                }
            }
            block = (chunk + 1) * CHUNK_BLOCKS;
        }
        Ok(())
    }

    pub(super) fn reclaim(&mut self, id: u64, chunks: Vec<u64>, next: u64) {
        self.changes.push(Change::Reclaim { id, chunks, next });
    }

    fn content(&mut self, object: ObjectId, block: u64, content: Content) {
        let (chunk, index) = (block / CHUNK_BLOCKS, (block % CHUNK_BLOCKS) as u8);
        if let Some(Change::Chunk { object: last_object, chunk: last_chunk, reset: false, blocks }) =
            self.changes.last_mut()
            && (*last_object, *last_chunk) == (object, chunk)
        {
            blocks.push((index, content));
            return;
        }
        self.changes.push(Change::Chunk { object, chunk, reset: false, blocks: alloc::vec![(index, content)] });
    }

    /// Makes the operation happen.
    pub(crate) fn finish(mut self) {
        let store = self.store;
        let changes = core::mem::take(&mut self.changes);
        let held = core::mem::take(&mut self.held);
        let gives_back = changes.iter().any(Change::gives_back);
        if changes.is_empty() && self.inodes == 0 {
            held.into_iter().for_each(|extent| store.give_back(extent));
            return;
        }
        let mut superseded = Vec::new();
        {
            let mut layers = store.layers.write();
            let (bytes, pages) = (layers.unlogged.log_bytes(), layers.unlogged.pages());
            for change in changes {
                layers.change(change, &mut superseded);
            }
            let more =
                (layers.unlogged.log_bytes().saturating_sub(bytes), layers.unlogged.pages().saturating_sub(pages));
            debug_assert!(self.room.covers(more.0, more.1), "{more:?} is more than was set aside");
            layers.inodes = layers.inodes.saturating_add_signed(self.inodes);
            layers.unwritten_unlogged += self.unwritten;
            layers.sequence += 1;
            layers.gave_back |= gives_back;
            let now = store.clock.now();
            layers.last_change = now;
            if layers.oldest_change.is_none() {
                layers.oldest_change = Some(now);
            }
        }
        // What was superseded before any group named it never was anybody's but ours.
        store.release_unnamed(&superseded);
    }
}

impl Drop for Tx<'_> {
    fn drop(&mut self) {
        self.held.iter().for_each(|extent| self.store.give_back(*extent));
    }
}

impl Layers {
    fn change(&mut self, change: Change, superseded: &mut Vec<BlockLoc>) {
        let mut released = |loc| superseded.push(loc);
        match change {
            Change::Record(key, value) => self.unlogged.set(key, value),
            Change::Range(range) => {
                let (first, end) =
                    (chunk_key(range.object, range.first_chunk), chunk_key(range.object, range.end_chunk));
                self.unlogged.forget(first, end, &mut released);
                self.set_range(range);
            }
            Change::Chunk { object, chunk, reset, blocks } => {
                let uncovered = self.uncover(object, chunk);
                self.unlogged.change_chunk(chunk_key(object, chunk), reset || uncovered, blocks, &mut released);
            }
            Change::Reclaim { id, chunks, next } => {
                let Some(range) = self.ranges.by_id(id) else { return };
                for chunk in chunks {
                    // A writer may have taken the chunk out of the tombstone since the job looked.
                    if (range.first_chunk..range.end_chunk).contains(&chunk) {
                        self.unlogged.change_chunk(chunk_key(range.object, chunk), true, Vec::new(), &mut released);
                    }
                }
                let first_chunk = next.max(range.first_chunk);
                self.set_range(Range { first_chunk, ..range });
            }
        }
    }

    /// Takes a chunk out of all tombstones that cover it; true if one did.
    fn uncover(&mut self, object: ObjectId, chunk: u64) -> bool {
        let mut covered = false;
        while let Some(range) = self.ranges.covering(object, chunk) {
            covered = true;
            let tail = Range { first_chunk: chunk + 1, ..range };
            self.set_range(Range { end_chunk: chunk, ..range });
            if tail.first_chunk < tail.end_chunk {
                let id = self.new_id();
                self.set_range(Range { id, ..tail });
            }
        }
        covered
    }

    fn set_range(&mut self, range: Range) {
        let key = range_key(range.id);
        if range.first_chunk >= range.end_chunk {
            self.ranges.remove(range.id);
            self.unlogged.set(key, None);
        } else {
            self.ranges.set(range);
            let record =
                RangeRecord { object: range.object, first_chunk: range.first_chunk, end_chunk: range.end_chunk };
            self.unlogged.set(key, Some(record.encode()));
        }
    }

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, core::sync::atomic::Ordering::Relaxed)
    }
}

impl Store {
    /// Gives back blocks that no group names. That the allocator does not know them is our own mistake.
    pub(super) fn give_back(&self, extent: Extent) {
        if let Err(failure) = self.alloc.give_back(extent) {
            self.latch(failure);
        }
    }

    /// Seals consecutive blocks of an object for one extent, as many as `out` has room for, run by run: a run stays within
    /// a chunk.
    pub(super) fn seal_run<'p>(
        &self,
        first_block: u64,
        extent: Extent,
        plain: impl IntoIterator<Item = &'p [u8]>,
        out: &mut [u8],
    ) -> Result<Vec<(u64, BlockLoc)>> {
        let mut locs = Vec::with_capacity(out.len() / BLOCK_SIZE);
        let (mut at, mut block, mut plain) = (0, first_block, plain.into_iter());
        while at < out.len() {
            let in_chunk = (CHUNK_BLOCKS - block % CHUNK_BLOCKS) as usize * BLOCK_SIZE;
            let take = in_chunk.min(out.len() - at);
            let run = plain.by_ref().take(take / BLOCK_SIZE);
            let sealed = self.sealer.seal_data(run, &mut out[at..at + take])?;
            let addr = extent.addr.0 + (at / BLOCK_SIZE) as u64;
            for (index, tag) in (0u32..).zip(sealed.tags) {
                let loc = BlockLoc {
                    source: 0,
                    epoch: sealed.epoch,
                    addr: BlockAddr(addr + u64::from(index)),
                    birth: self.next_generation(),
                    nonce: nonce_at(&sealed.nonce, index).ok_or(Error::Rng)?,
                    proof: tag.into(),
                };
                locs.push((block + u64::from(index), loc));
            }
            block += (take / BLOCK_SIZE) as u64;
            at += take;
        }
        Ok(locs)
    }
}

pub(super) fn range_key(id: u64) -> Key {
    Key::new(0, Kind::Range, id)
}
