//! Lookups: through the layers, then through the trees of the last checkpoint.
//!
//! The layers' lock is held for the look into memory only. The tree is read after it is given back, under a pin that keeps
//! everything the root reaches from being reused.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::allocator::{Extent as AddrExtent, Pin};
use crate::backend::{Batch, Io, Ticket};
use crate::error::{BackendError, Corrupt, Error, Posix, Result, Tampered};
use crate::format::{BlockLoc, BlockRef, BlockState, Chunk, Key, Kind, OWN_SOURCE, RangeRecord, SpaceRecord};
use crate::node::Node;
use crate::sealer::OpenFailure;
use crate::store::layer::{Entry, Page, Said};
use crate::store::ranges;
use crate::store::{Layers, Store};
use crate::tree::{self, NodeReader, Root};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, CHUNK_BLOCKS, ObjectId};

/// Whether a search looks for data or for a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Data,
    Hole,
}

/// What a block is, all layers and the tree considered.
#[derive(Clone)]
pub(super) enum Block {
    Absent,
    Unwritten,
    Page(Page),
    Stored(BlockLoc),
}

impl Block {
    fn is_at(&self, other: &Block) -> bool {
        match (self, other) {
            (Block::Stored(one), Block::Stored(two)) => one == two,
            (Block::Absent, Block::Absent) | (Block::Unwritten, Block::Unwritten) => true,
            (Block::Page(_), Block::Page(_)) => true,
            _ => false,
        }
    }
}

impl From<BlockState> for Block {
    fn from(state: BlockState) -> Block {
        match state {
            BlockState::Absent => Block::Absent,
            BlockState::Unwritten => Block::Unwritten,
            BlockState::Data(loc) => Block::Stored(loc),
        }
    }
}

pub(super) type Blocks = Vec<Block>;

const CHUNK_BLOCKS_U8: u8 = 64;
/// Up to so many pending chunks, `st_blocks` is exact; beyond, it is an estimate until they are merged.
const EXACT_CHUNKS: usize = 16;
/// What a decoded chunk takes in memory, at most.
const CHUNK_MEMORY_BYTES: usize = 64 * size_of::<(u8, BlockState)>() + 128;
/// Blocks that one backend request may span.
const MAX_READ_BLOCKS: usize = 256;

impl Store {
    /// The newest value of a record.
    pub(crate) fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        let (root, _pin) = {
            let layers = self.layers.read();
            for layer in layers.stack() {
                match layer.entry(&key) {
                    Some(Entry::Put(bytes)) => return Ok(Some(bytes.clone())),
                    Some(Entry::Delete) => return Ok(None),
                    Some(Entry::Chunk(_)) | None => {}
                }
            }
            (layers.root_of(key), self.alloc.pin())
        };
        self.stored_record(root, key)
    }

    /// Records with keys in `[from, end)`, rising, at most `limit`. Not for chunks.
    pub(crate) fn scan(&self, from: Key, end: Key, limit: usize) -> Result<Vec<(Key, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut from = from;
        while found.len() < limit {
            let window = limit - found.len();
            let (merged, horizon) = self.scan_window(from, end, window)?;
            found.extend(merged.into_iter().filter_map(|(key, value)| Some((key, value?))));
            match horizon.and_then(Key::successor) {
                Some(next) if next < end => from = next,
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Up to `window` entries of each layer, of the tree, and of the images below, merged up to the last key that all of them reached;
    /// `None` as that key means that nothing is left.
    #[allow(clippy::type_complexity)]
    fn scan_window(&self, from: Key, end: Key, window: usize) -> Result<(BTreeMap<Key, Option<Vec<u8>>>, Option<Key>)> {
        let mut merged = BTreeMap::new();
        let mut horizon: Option<Key> = None;
        let mut stop_at = |last: Option<Key>, count: usize| {
            if let Some(last) = last
                && count == window
            {
                horizon = Some(horizon.map_or(last, |old| old.min(last)));
            }
        };
        let (root, _pin) = {
            let layers = self.layers.read();
            for layer in layers.stack() {
                let (mut last, mut count) = (None, 0);
                for (key, entry) in layer.range(from, end).take(window) {
                    (last, count) = (Some(*key), count + 1);
                    let value = match entry {
                        Entry::Put(bytes) => Some(bytes),
                        Entry::Delete => None,
                        Entry::Chunk(_) => continue,
                    };
                    merged.entry(*key).or_insert_with(|| value.cloned());
                }
                stop_at(last, count);
            }
            (layers.root_of(from), self.alloc.pin())
        };
        let stored = tree::scan(self, root, from, end, window)?;
        stop_at(stored.last().map(|(key, _)| *key), stored.len());
        let below = self.lowers.scan(from, end, window)?;
        stop_at(below.last().map(|(key, _)| *key), below.len());
        for (key, value) in stored {
            let is_whiteout = value.is_empty() && self.lowers.may_have(key.object);
            merged.entry(key).or_insert((!is_whiteout).then_some(value));
        }
        for (key, value) in below {
            merged.entry(key).or_insert(Some(value));
        }
        if let Some(horizon) = horizon {
            merged.retain(|key, _| *key <= horizon);
        }
        Ok((merged, horizon))
    }

    /// Reads blocks of one chunk.
    pub(super) fn read_in_chunk(&self, object: ObjectId, first_block: u64, out: &mut [u8]) -> Result<()> {
        let (chunk, start) = (first_block / CHUNK_BLOCKS, (first_block % CHUNK_BLOCKS) as u8);
        let wanted = start..start + (out.len() / BLOCK_SIZE) as u8;
        let (mut blocks, mut pin) = self.resolve_some(object, chunk, wanted.clone())?;
        loop {
            let Err(failure) = self.fill(object, first_block, &blocks, out) else { return Ok(()) };
            // A block may have moved while it was read: home from the ring, or away because it was written again before
            // any group named it. Only what is still said to be there, and is not, was tampered with.
            let again = self.resolve_some(object, chunk, wanted.clone())?;
            let same = blocks.iter().zip(&again.0).all(|(old, new)| old.is_at(new));
            if same && again.1.generation() == pin.generation() {
                return Err(failure);
            }
            (blocks, pin) = again;
        }
    }

    pub(super) fn fill(&self, object: ObjectId, first_block: u64, blocks: &[Block], out: &mut [u8]) -> Result<()> {
        let mut at = 0;
        while at < blocks.len() {
            let plain = &mut out[at * BLOCK_SIZE..(at + 1) * BLOCK_SIZE];
            match &blocks[at] {
                Block::Absent | Block::Unwritten => plain.fill(0),
                Block::Page(page) => plain.copy_from_slice(page),
                Block::Stored(first) => {
                    let run = contiguous(&blocks[at..], *first);
                    let out = &mut out[at * BLOCK_SIZE..(at + run.len()) * BLOCK_SIZE];
                    self.read_run(object, first_block + at as u64, &run, out)?;
                    at += run.len();
                    continue;
                }
            }
            at += 1;
        }
        Ok(())
    }

    /// Reads blocks that stand side by side at home. Some of them may still be in the log ring only.
    pub(super) fn read_run(&self, object: ObjectId, first_block: u64, run: &[BlockLoc], out: &mut [u8]) -> Result<()> {
        let Some(first) = run.first() else { return Ok(()) };
        let image = self.image_of(first)?;
        for (addr, part) in image.pieces(run) {
            let (at, out) = (part.start, &mut out[part.start * BLOCK_SIZE..part.end * BLOCK_SIZE]);
            let buf = image.backend.read_at(addr.0 * BLOCK_SIZE_U64, out.len())?;
            image.sealer.open_run(&run[part], buf.bytes(), out).map_err(|(index, failure)| {
                block_error(failure, &run[at + index], (object, first_block + (at + index) as u64))
            })?;
            image.backend.give_back(buf);
        }
        Ok(())
    }

    /// The image that a block is of: this volume, or one below.
    pub(super) fn image_of(&self, loc: &BlockLoc) -> Result<&Store> {
        if loc.source == OWN_SOURCE || self.packed.is_some() { Ok(self) } else { self.lowers.image(loc.source) }
    }

    /// Blocks that stand side by side at home, in pieces that one request reads: at home, or in the log ring as long as
    /// their home was not written.
    pub(super) fn pieces(&self, run: &[BlockLoc]) -> Vec<(BlockAddr, Range<usize>)> {
        let layers = self.layers.read();
        let in_ring = |addr| layers.ring_active.get(addr).or_else(|| layers.ring_frozen.get(addr));
        let mut pieces: Vec<(BlockAddr, Range<usize>)> = Vec::new();
        for (index, loc) in run.iter().enumerate() {
            let addr = in_ring(&loc.addr).map_or(loc.addr, |lsn| self.ring.addr(*lsn));
            match pieces.last_mut() {
                Some((first, part)) if first.0 + part.len() as u64 == addr.0 && part.len() < MAX_READ_BLOCKS => {
                    part.end += 1
                }
                _ => pieces.push((addr, index..index + 1)),
            }
        }
        pieces
    }

    /// All 64 blocks of a chunk, with a pin that keeps what they name in place.
    pub(super) fn resolve(&self, object: ObjectId, chunk: u64) -> Result<(Blocks, Pin)> {
        self.resolve_some(object, chunk, 0..CHUNK_BLOCKS_U8)
    }

    /// The same of some blocks of the chunk.
    pub(super) fn resolve_some(&self, object: ObjectId, chunk: u64, wanted: Range<u8>) -> Result<(Blocks, Pin)> {
        let key = chunk_key(object, chunk);
        let mut blocks: Vec<Option<Block>> = alloc::vec![None; wanted.len()];
        let (root, pin) = {
            let layers = self.layers.read();
            let pin = self.alloc.pin();
            if layers.ranges.covering(object, chunk).is_some() {
                return Ok((alloc::vec![Block::Absent; wanted.len()], pin));
            }
            for layer in layers.stack() {
                let Some(Entry::Chunk(entry)) = layer.entry(&key) else { continue };
                for (index, block) in wanted.clone().zip(blocks.iter_mut()) {
                    if block.is_none() {
                        *block = match entry.said(index) {
                            Said::Nothing => None,
                            Said::Page(page) => Some(Block::Page(page)),
                            Said::State(state) => Some(state.into()),
                        };
                    }
                }
            }
            (layers.root_of(key), pin)
        };
        if blocks.iter().any(Option::is_none) {
            let stored = self.stored_chunk(root, key)?;
            for (index, block) in wanted.clone().zip(blocks.iter_mut()) {
                if block.is_none() {
                    *block = Some(stored.get(index).into());
                }
            }
        }
        Ok((blocks.into_iter().map(|block| block.unwrap_or(Block::Absent)).collect(), pin))
    }

    /// The chunk as the tree and the images below have it, out of the cache if it was read before; an empty one where they have
    /// none.
    fn stored_chunk(&self, root: Option<Root>, key: Key) -> Result<Arc<Chunk>> {
        if root.is_none() && !self.lowers.may_have(key.object) {
            return Ok(Arc::default());
        }
        // A root's nonce names all that is below: no other root was sealed with it. Images do not change.
        let place = (root.map_or([0; 12], |root| root.reference.nonce), key);
        if let Some(chunk) = self.chunks.get(&place) {
            return Ok(chunk);
        }
        let chunk = Arc::new(self.read_chunk(root, key)?);
        self.chunks.insert(place, chunk.clone(), CHUNK_MEMORY_BYTES);
        Ok(chunk)
    }

    /// The same, for whoever is going to change it.
    pub(crate) fn read_chunk(&self, root: Option<Root>, key: Key) -> Result<Chunk> {
        let own = self.own_chunk(root, key)?;
        match self.lowers.may_have(key.object) {
            true => Ok(own.over(&self.lowers.chunk(key)?)),
            false => Ok(own),
        }
    }

    /// The chunk as the tree alone has it.
    pub(super) fn own_chunk(&self, root: Option<Root>, key: Key) -> Result<Chunk> {
        let Some(bytes) = tree::get(self, root, key)? else { return Ok(Chunk::default()) };
        let own = Chunk::decode_as(&bytes, self.header.image.proofs()).map_err(|why| record_error(key, why))?;
        if own.hides_some() && !self.lowers.may_have(key.object) {
            return Err(record_error(key, "holes over an image that is not there"));
        }
        Ok(own)
    }

    /// Blocks of a range that were promised to the object and are not written yet.
    pub(crate) fn unwritten_blocks(&self, object: ObjectId, first_block: u64, end_block: u64) -> Result<u64> {
        if self.layers.read().unwritten() == 0 {
            return Ok(0);
        }
        let (mut unwritten, mut block) = (0, first_block);
        while block < end_block {
            let chunk = block / CHUNK_BLOCKS;
            let chunk_end = end_block.min((chunk + 1) * CHUNK_BLOCKS);
            let (blocks, _pin) = self.resolve(object, chunk)?;
            let range = (block % CHUNK_BLOCKS) as usize..(chunk_end - chunk * CHUNK_BLOCKS) as usize;
            unwritten += blocks[range].iter().filter(|block| matches!(block, Block::Unwritten)).count() as u64;
            block = chunk_end;
        }
        Ok(unwritten)
    }

    /// The first block in `[from_block, end_block)` that is data, or that is a hole.
    pub(crate) fn next_extent(
        &self,
        object: ObjectId,
        from_block: u64,
        want: Extent,
        end_block: u64,
    ) -> Result<Option<u64>> {
        let mut block = from_block;
        while block < end_block {
            let chunk = block / CHUNK_BLOCKS;
            let next = self.next_chunk(object, chunk, end_block.div_ceil(CHUNK_BLOCKS))?;
            if next != Some(chunk) {
                match (want, next) {
                    (Extent::Hole, _) => return Ok(Some(block)),
                    (Extent::Data, None) => return Ok(None),
                    (Extent::Data, Some(next)) => {
                        block = next * CHUNK_BLOCKS;
                        continue;
                    }
                }
            }
            let (blocks, _pin) = self.resolve(object, chunk)?;
            let skip = (block % CHUNK_BLOCKS) as usize;
            let found = blocks
                .iter()
                .skip(skip)
                .position(|block| matches!(block, Block::Page(_) | Block::Stored(_)) == (want == Extent::Data));
            if let Some(ahead) = found {
                let at = block + ahead as u64;
                return Ok((at < end_block).then_some(at));
            }
            block = (chunk + 1) * CHUNK_BLOCKS;
        }
        Ok(None)
    }

    /// The first chunk in `[from, end)` that may have content: it is named in a layer or in the tree, and no tombstone
    /// covers it.
    pub(super) fn next_chunk(&self, object: ObjectId, from: u64, end: u64) -> Result<Option<u64>> {
        let mut from = from;
        while let Some(chunk) = self.next_named_chunk(object, from, end)? {
            match self.layers.read().ranges.covering(object, chunk) {
                None => return Ok(Some(chunk)),
                Some(range) => from = range.end_chunk,
            }
        }
        Ok(None)
    }

    /// The first chunk in `[from, end)` that a layer or the tree has a record of.
    pub(super) fn next_named_chunk(&self, object: ObjectId, from: u64, end: u64) -> Result<Option<u64>> {
        if from >= end {
            return Ok(None);
        }
        let (first, last) = (chunk_key(object, from), chunk_key(object, end));
        let (root, named, _pin) = {
            let layers = self.layers.read();
            let named = layers.stack().filter_map(|layer| layer.range(first, last).next().map(|(key, _)| key.offset));
            (layers.root_of(first), named.min(), self.alloc.pin())
        };
        let stored = tree::next_key(self, root, first, last)?;
        let below = self.lowers.next_key(first, last)?;
        Ok(named.into_iter().chain(stored.into_iter().chain(below).map(|key| key.offset)).min())
    }

    /// Blocks that count for `st_blocks`: those of the last checkpoint, and those that were written since.
    pub(crate) fn object_blocks(&self, object: ObjectId) -> Result<u64> {
        let stored = match self.get(Key::new(object.0, Kind::Space, 0))? {
            Some(bytes) => SpaceRecord::decode(&bytes).map_err(|why| record_error(space_key(object), why))?.data_blocks,
            None => 0,
        };
        let (first, end) = (chunk_key(object, 0), space_key(object));
        let pending: Vec<u64> = {
            let layers = self.layers.read();
            let mut chunks: Vec<u64> =
                layers.stack().flat_map(|layer| layer.range(first, end).map(|(key, _)| key.offset)).collect();
            chunks.sort_unstable();
            chunks.dedup();
            chunks
        };
        if pending.len() > EXACT_CHUNKS {
            return Ok(stored.max(self.said_blocks(first, end)));
        }
        let mut blocks = i128::from(stored);
        for chunk in pending {
            let (now, _pin) = self.resolve(object, chunk)?;
            let used = now.iter().filter(|block| !matches!(block, Block::Absent)).count();
            let root = self.layers.read().root_of(first);
            let before = self.stored_chunk(root, chunk_key(object, chunk))?;
            blocks += used as i128 - i128::from(before.data_blocks() + before.unwritten_blocks());
        }
        Ok(u64::try_from(blocks).unwrap_or(0))
    }

    /// Blocks that the layers give content to: what is known of an object without reading its tree.
    fn said_blocks(&self, first: Key, end: Key) -> u64 {
        let layers = self.layers.read();
        let chunks = layers.stack().flat_map(|layer| layer.range(first, end));
        let given = chunks.map(|(_, entry)| match entry {
            Entry::Chunk(chunk) => chunk.patch.iter().count() as u64 + chunk.pages.len() as u64,
            Entry::Put(_) | Entry::Delete => 0,
        });
        given.sum()
    }

    /// Opens a node that a reference names; nothing else reads nodes.
    pub(super) fn open_node(&self, level: u8, reference: &BlockRef) -> Result<Node> {
        let blocks = (self.node_size / BLOCK_SIZE) as u64;
        if !self.geometry.is_usable(AddrExtent { addr: reference.addr, blocks }) {
            return Err(Corrupt::Reference(reference.addr).into());
        }
        let buf = self.backend.read_at(reference.addr.0 * BLOCK_SIZE_U64, self.node_size)?;
        let mut bytes = buf.bytes().to_vec();
        self.backend.give_back(buf);
        self.sealer.open_node(level, reference, &mut bytes).map_err(|failure| match failure {
            OpenFailure::UnknownEpoch(epoch) => Error::Corrupt(Corrupt::UnknownEpoch(epoch)),
            OpenFailure::Auth => Error::Tampered(Tampered::Node { addr: reference.addr, level }),
        })?;
        let node = Node::decode_as(bytes, level, self.node_size, self.header.image.proofs());
        node.map_err(|why| Corrupt::Node(reference.addr, why).into())
    }

    /// Writes what something that is durable may name. A failure latches the volume.
    pub(super) fn submit(&self, batch: Vec<Io>) -> Result<()> {
        self.write(batch)?.map_err(|failure| self.latch(failure.into()))
    }

    /// Writes what nothing names yet. That the host has no space for it is a refusal: what was to be written is to be given
    /// up, and nothing is lost. Any other failure latches the volume.
    pub(super) fn submit_unnamed(&self, batch: Vec<Io>) -> Result<()> {
        self.write(batch)?.map_err(|failure| self.refused_or_latched(failure))
    }

    /// Writes what nothing names yet, each batch while the next one is made; refusals are those of `submit_unnamed`. Batches are
    /// made under no lock: threads that make them may be busy with what waits for one.
    pub(super) fn submit_batches(&self, batches: impl IntoIterator<Item = Result<Batch>>) -> Result<()> {
        let (mut under_way, mut failure, mut made) = (Vec::new(), None, Ok(()));
        for batch in batches {
            let submitted = batch.and_then(|batch| {
                self.unflushed.add(bytes_of(&batch));
                self.while_unlatched(|| self.backend.submit(batch))
            });
            match submitted {
                // The next batch gets this one's buffers, which the processor still has at hand.
                Ok(Ok(Ticket::Done(batch))) => self.give_all_back(batch),
                Ok(Ok(ticket)) => under_way.push(ticket),
                Ok(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                Err(error) => {
                    made = Err(error);
                    break;
                }
            }
        }
        for ticket in under_way {
            match self.backend.wait(ticket) {
                Ok(batch) => self.give_all_back(batch),
                // A refusal gives way to what is worse.
                Err(error) if failure.as_ref().is_none_or(BackendError::is_no_space) => failure = Some(error),
                Err(_) => {}
            }
        }
        let written = failure.map_or(Ok(()), |failure| Err(self.refused_or_latched(failure)));
        made.and(written)
    }

    fn give_all_back(&self, batch: Batch) {
        for Io::Read { buf, .. } | Io::Write { buf, .. } in batch {
            self.backend.give_back(buf);
        }
    }

    fn refused_or_latched(&self, failure: BackendError) -> Error {
        if failure.is_no_space() { Posix::NoSpace.into() } else { self.latch(failure.into()) }
    }

    fn write(&self, batch: Vec<Io>) -> Result<core::result::Result<(), BackendError>> {
        self.unflushed.add(bytes_of(&batch));
        let written =
            self.while_unlatched(|| self.backend.submit(batch).and_then(|ticket| self.backend.wait(ticket)))?;
        Ok(written.map(|batch| self.give_all_back(batch)))
    }
}

impl NodeReader for Store {
    fn is_given_up(&self, reference: &BlockRef) -> bool {
        self.is_in(reference, |given_up| &given_up.nodes)
    }

    fn holds_given_up(&self, reference: &BlockRef) -> bool {
        self.is_given_up(reference) || self.is_in(reference, |given_up| &given_up.above)
    }

    fn read(&self, level: u8, reference: &BlockRef) -> Result<Arc<Node>> {
        let key = (reference.addr.0, reference.nonce);
        if let Some(node) = self.nodes.get(&key) {
            // The nonce is unique, but the level is the parent's word and part of what was authenticated.
            if node.level() == level {
                return Ok(node);
            }
        }
        let node = Arc::new(self.open_node(level, reference)?);
        self.nodes.insert(key, node.clone(), self.node_size);
        Ok(node)
    }
}

impl Layers {
    pub(super) fn root_of(&self, key: Key) -> Option<Root> {
        if key.object == 0 { self.system_root } else { self.files_root }
    }
}

fn bytes_of(batch: &Batch) -> u64 {
    batch.iter().map(|io| io.bytes().len() as u64).sum()
}

/// The stored blocks from the start of `blocks` that stand side by side.
pub(super) fn contiguous(blocks: &[Block], first: BlockLoc) -> Vec<BlockLoc> {
    let stored = blocks.iter().map_while(|block| match block {
        Block::Stored(loc) => Some(*loc),
        _ => None,
    });
    (first.addr.0..)
        .zip(stored)
        .map_while(|(addr, loc)| (loc.source == first.source && loc.addr == BlockAddr(addr)).then_some(loc))
        .collect()
}

pub(crate) fn chunk_key(object: ObjectId, chunk: u64) -> Key {
    Key::new(object.0, Kind::Extent, chunk)
}

pub(super) fn space_key(object: ObjectId) -> Key {
    Key::new(object.0, Kind::Space, 0)
}

pub(super) fn range_of(key: Key, bytes: &[u8]) -> Result<ranges::Range> {
    let record = RangeRecord::decode(bytes).map_err(|why| record_error(key, why))?;
    Ok(ranges::Range {
        id: key.offset,
        object: record.object,
        first_chunk: record.first_chunk,
        end_chunk: record.end_chunk,
    })
}

pub(crate) fn record_error(key: Key, why: &'static str) -> Error {
    Corrupt::Record { object: ObjectId(key.object), kind: key.kind as u8, why }.into()
}

/// What a data block that does not open says of it; `place` is its object and its number within.
pub(super) fn block_error(failure: OpenFailure, loc: &BlockLoc, (object, block): (ObjectId, u64)) -> Error {
    match failure {
        OpenFailure::UnknownEpoch(epoch) => Error::Corrupt(Corrupt::UnknownEpoch(epoch)),
        OpenFailure::Auth => Error::Tampered(Tampered::Data { addr: loc.addr, object, block }),
    }
}
