//! The log ring: cutting the newest layer into a group, and writing it.
//!
//! A group holds all operations up to one moment, so the state after a crash is a prefix of them. Up to 64 KiB of data go
//! into the ring with the records, sealed as they will stand at home: a commit is then one contiguous write and one flush.
//! More data than that go home first.
//!
//! *Security*: the first thing that happens to a block is that its nonce is burned; the host sees it afterwards.
//!
//! *Invariants*: groups follow one another without gaps, each bound to the tag of the one before. The ring from the log
//! start of the older checkpoint slot to the newest group is never overwritten.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::allocator::Extent;
use crate::backend::Io;
use crate::error::{Corrupt, Error, Invalid, Posix, Result};
use crate::format::{BlockLoc, BlockState, GROUP_PREFIX_LEN, GroupBody, GroupPrefix, Key, LogRecord, Patch};
use crate::sealer::{GroupPlace, OpenFailure};
use crate::store::Store;
use crate::store::layer::{Entry, Layer, Page};
use crate::suite::Tag;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, CHUNK_BLOCKS, EpochId, Lsn};

/// Pages that travel in the ring with their records, at most; more go home.
pub(super) const MAX_RING_PAGES: u64 = 16;
/// What naming a page takes in a group, at most.
const PAGE_RECORD_BYTES: u64 = 80;
/// Pages that are sealed into one buffer on their way home.
const HOME_BATCH_PAGES: usize = 256;

/// Where the log stands. Its lock is held while a group is cut and written.
pub(super) struct Log {
    /// Where the next group goes.
    pub(super) next: Lsn,
    /// What the next group binds: the tag of the group before it, or of the slot that started the epoch.
    pub(super) previous_tag: Tag,
    /// The epoch whose key seals the next group.
    pub(super) epoch: EpochId,
    /// All groups below are known flushed.
    pub(super) flushed: Lsn,
    /// The ring is in use from here on.
    pub(super) tail: Lsn,
    /// The operations that groups hold so far.
    pub(super) sequence: u64,
}

/// Where the ring lies.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    pub(super) start: u64,
    pub(super) blocks: u64,
}

impl Ring {
    pub(super) fn addr(&self, lsn: Lsn) -> BlockAddr {
        BlockAddr(self.start + lsn.0 % self.blocks)
    }
}

impl Log {
    pub(super) fn used_blocks(&self) -> u64 {
        self.next.0.saturating_sub(self.tail.0)
    }
}

/// A page on its way into a group.
struct Waiting {
    key: Key,
    block: u8,
    page: Page,
}

impl Store {
    /// Puts all operations so far into a group and writes it, unflushed. Does nothing if there are none; false if the ring
    /// has no room for it.
    pub(super) fn cut(&self, log: &mut Log) -> Result<bool> {
        self.check_latch()?;
        let room = self.ring.blocks.saturating_sub(log.used_blocks());
        let cut = match self.take_unlogged(room) {
            Taken::Nothing => return Ok(true),
            Taken::NoRoom => return Ok(false),
            Taken::Cut(cut) => cut,
        };
        // After a failure the layer stays where readers find it; the volume is latched and nothing more is logged.
        self.renew_epoch(log).map_err(|failure| self.latch(failure))?;
        let sealed = match self.seal_layer(&cut.layer) {
            // Nothing names what was sealed, so all of it can be tried again.
            Err(failure @ Error::Posix(Posix::NoSpace)) => return self.put_back(cut).and(Err(failure)),
            sealed => sealed.map_err(|failure| self.latch(failure))?,
        };
        self.write_group(log, &cut, sealed).map_err(|failure| self.latch(failure))?;
        Ok(true)
    }

    fn take_unlogged(&self, room: u64) -> Taken {
        let mut layers = self.layers.write();
        if layers.unlogged.is_empty() {
            return Taken::Nothing;
        }
        let (bytes, pages) = (layers.unlogged.log_bytes(), layers.unlogged.pages());
        if group_estimate(bytes, pages, pages.min(self.limits.ring_pages)) > room {
            return Taken::NoRoom;
        }
        debug_assert!(layers.sealing.is_none(), "one group is cut at a time, under the log's lock");
        let layer = Arc::new(core::mem::take(&mut layers.unlogged));
        layers.sealing = Some(layer.clone());
        layers.oldest_change = None;
        let unwritten = core::mem::take(&mut layers.unwritten_unlogged);
        let (sequence, inodes, next_id) = (layers.sequence, layers.inodes, layers.peek_id());
        Taken::Cut(Cut { layer, unwritten, sequence, inodes, next_id })
    }

    /// What was to be logged is unlogged again, under what came since.
    fn put_back(&self, cut: Cut) -> Result<()> {
        let (mut superseded, mut whole) = (Vec::new(), false);
        drop(cut.layer);
        {
            let mut layers = self.layers.write();
            let layers = &mut *layers;
            // The other owner was the cut, dropped above; readers take no share.
            if let Some(older) = layers.sealing.take().and_then(Arc::into_inner) {
                let newer = core::mem::replace(&mut layers.unlogged, older);
                layers.unlogged.absorb_unlogged(newer, &mut |loc| superseded.push(loc));
                layers.unwritten_unlogged += cut.unwritten;
                layers.oldest_change = layers.oldest_change.or(Some(layers.last_change));
                whole = true;
            }
        }
        if !whole {
            return Err(self.latch(Invalid::Option("a layer in use").into()));
        }
        self.release_unnamed(&superseded);
        Ok(())
    }

    /// Seals the pages of a layer. After a failure none of them has an address.
    fn seal_layer(&self, layer: &Layer) -> Result<SealedPages> {
        let waiting = waiting_pages(layer);
        let in_ring = waiting.len() as u64 <= self.limits.ring_pages;
        let mut sealed = SealedPages::default();
        let mut taken = Vec::new();
        if let Err(failure) = self.seal_pages(&waiting, in_ring, &mut sealed, &mut taken) {
            taken.into_iter().for_each(|extent| self.give_back(extent));
            return Err(failure);
        }
        sealed.complete(layer);
        Ok(sealed)
    }

    fn write_group(&self, log: &mut Log, cut: &Cut, sealed: SealedPages) -> Result<()> {
        let body = self.group_body(log, cut, &sealed, Vec::new());
        let place = log.next;
        self.append(log, &body, &sealed.ring_data)?;
        log.sequence = cut.sequence;
        let data_at = log.next.0 - sealed.ring_addresses.len() as u64;
        debug_assert!(data_at > place.0);
        self.publish_group(cut, sealed, Lsn(data_at))
    }

    /// When the epoch's nonces run low: a group, under the old keys, that names the next epoch. What the new keys seal is
    /// named by later groups only, so whoever finds it finds the secret first.
    fn renew_epoch(&self, log: &mut Log) -> Result<()> {
        if !self.sealer.exhausted() {
            return Ok(());
        }
        let id = self.sealer.new_epoch()?;
        let record = self.sealer.new_epoch_record(id).ok_or(Error::Corrupt(Corrupt::UnknownEpoch(id)))?;
        let nothing = {
            let layers = self.layers.read();
            Cut {
                layer: Arc::new(Layer::default()),
                unwritten: 0,
                sequence: log.sequence,
                inodes: layers.inodes_logged,
                next_id: layers.peek_id(),
            }
        };
        let body = self.group_body(log, &nothing, &SealedPages::default(), alloc::vec![record]);
        self.append(log, &body, &[])?;
        log.epoch = id;
        Ok(())
    }

    fn group_body(&self, log: &Log, cut: &Cut, sealed: &SealedPages, mut records: Vec<LogRecord>) -> GroupBody {
        for (key, entry) in cut.layer.iter() {
            records.push(match entry {
                Entry::Put(bytes) => LogRecord::Put(*key, bytes.clone()),
                Entry::Delete => LogRecord::Delete(*key),
                Entry::Chunk(chunk) => {
                    LogRecord::Patch(*key, sealed.patches.get(key).cloned().unwrap_or_else(|| chunk.patch.clone()))
                }
            });
        }
        GroupBody {
            flushed_lsn: log.flushed,
            base: self.base_generation(),
            sequence: cut.sequence,
            next_id: cut.next_id,
            inodes: cut.inodes,
            data_addresses: sealed.ring_addresses.clone(),
            records,
        }
    }

    /// Seals a group and writes it at the log's end.
    fn append(&self, log: &mut Log, body: &GroupBody, data: &[u8]) -> Result<()> {
        let bytes = body.encode();
        let data_blocks = u32::try_from(body.data_addresses.len()).map_err(|_| Posix::NoSpace)?;
        let place = GroupPlace { lsn: log.next, previous_tag: log.previous_tag, epoch: log.epoch, data_blocks };
        let sealed = self.sealer.seal_group(&place, &bytes)?;
        let blocks = (sealed.bytes.len() / BLOCK_SIZE) as u64 + u64::from(data_blocks);
        if log.used_blocks() + blocks > self.ring.blocks {
            return Err(Posix::NoSpace.into());
        }
        let mut batch = Vec::with_capacity(2);
        for piece in ring_pieces(&self.ring, log.next, blocks) {
            let mut buf = self.backend.buffer(piece.bytes());
            piece.fill(buf.bytes_mut(), &sealed.bytes, data);
            batch.push(Io::Write { offset_bytes: piece.addr.0 * BLOCK_SIZE_U64, buf });
        }
        self.submit(batch)?;
        log.next = Lsn(log.next.0 + blocks);
        log.previous_tag = sealed.prefix.tag;
        Ok(())
    }

    /// The group's operations become part of the logged layer.
    fn publish_group(&self, cut: &Cut, mut sealed: SealedPages, data_at: Lsn) -> Result<()> {
        let mut released = Vec::new();
        {
            let mut layers = self.layers.write();
            let layers = &mut *layers;
            layers.active.absorb(&cut.layer, &mut sealed.patches, &mut |loc| released.push(loc));
            layers.sealing = None;
            layers.inodes_logged = cut.inodes;
            layers.unwritten_active += cut.unwritten;
            for (index, addr) in (0u64..).zip(&sealed.ring_addresses) {
                layers.ring_active.insert(*addr, Lsn(data_at.0 + index));
            }
            // Under the same lock, so that a freeze takes the layer and its addresses together.
            sealed.named.into_iter().try_for_each(|run| self.alloc.name(run))?;
            self.release_logged(&mut layers.ring_active, &released)
        }
    }

    /// Gives back blocks that were superseded after a group named them; nothing needs what stands of them in the ring.
    pub(super) fn release_logged(
        &self,
        ring_active: &mut BTreeMap<BlockAddr, Lsn>,
        released: &[BlockLoc],
    ) -> Result<()> {
        for loc in released {
            ring_active.remove(&loc.addr);
        }
        let runs = Extent::runs(released.iter().map(|loc| loc.addr));
        runs.into_iter().try_for_each(|run| self.alloc.release(run))
    }

    fn seal_pages(
        &self,
        waiting: &[Waiting],
        in_ring: bool,
        sealed: &mut SealedPages,
        taken: &mut Vec<Extent>,
    ) -> Result<()> {
        let mut rest = waiting;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(rest.len().min(HOME_BATCH_PAGES));
            let extents = self.alloc.allocate_data(self, batch.len() as u64, true)?;
            taken.extend(extents.iter().copied());
            let (mut pages, mut writes) = (batch, Vec::new());
            for extent in extents {
                let count = usize::try_from(extent.blocks).map_or(pages.len(), |blocks| blocks.min(pages.len()));
                let (here, next) = pages.split_at(count);
                let mut buf = self.backend.buffer(count * BLOCK_SIZE);
                self.seal_extent(here, extent, buf.bytes_mut(), sealed)?;
                if in_ring {
                    sealed.ring_data.extend_from_slice(buf.bytes());
                    sealed.ring_addresses.extend((0..count as u64).map(|index| BlockAddr(extent.addr.0 + index)));
                    self.backend.give_back(buf);
                } else {
                    writes.push(Io::Write { offset_bytes: extent.addr.0 * BLOCK_SIZE_U64, buf });
                }
                pages = next;
            }
            if !writes.is_empty() {
                self.submit_unnamed(writes)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Seals pages for consecutive addresses; pages of one chunk that follow one another make one run.
    fn seal_extent(&self, pages: &[Waiting], extent: Extent, out: &mut [u8], sealed: &mut SealedPages) -> Result<()> {
        let mut at = 0;
        while at < pages.len() {
            let first = &pages[at];
            let follows = |index: usize| {
                pages[index].key == first.key
                    && usize::from(pages[index].block) == usize::from(first.block) + index - at
            };
            let end = (at + 1..pages.len()).find(|index| !follows(*index)).unwrap_or(pages.len());
            let plain = pages[at..end].iter().map(|waiting| &*waiting.page);
            let block = first.key.block_number(first.block);
            let here = Extent { addr: BlockAddr(extent.addr.0 + at as u64), blocks: (end - at) as u64 };
            let locs = self.seal_run(block, here, plain, &mut out[at * BLOCK_SIZE..end * BLOCK_SIZE])?;
            let patch = sealed.patches.entry(first.key).or_default();
            for (block, loc) in locs {
                patch.set((block % CHUNK_BLOCKS) as u8, BlockState::Data(loc), &mut |_| {});
            }
            at = end;
        }
        Ok(())
    }

    /// Gives back blocks that were superseded before a group named them.
    pub(super) fn release_unnamed(&self, locs: &[BlockLoc]) {
        Extent::runs(locs.iter().map(|loc| loc.addr)).into_iter().for_each(|run| self.give_back(run));
    }

    /// Reads whole ring blocks from `lsn` on, round the ring's end if need be.
    pub(super) fn read_ring(&self, lsn: Lsn, blocks: u64) -> Result<Vec<u8>> {
        read_ring(&*self.backend, &self.ring, lsn, blocks)
    }

    /// What looks like the start of a group in so many ring blocks from `lsn` on: prefixes that name their own place. Nothing
    /// else is copied out of what the host may change, for whoever opens a group reads it anew.
    pub(super) fn group_starts(&self, lsn: Lsn, blocks: u64) -> Result<Vec<GroupPrefix>> {
        let (mut starts, mut at) = (Vec::new(), lsn);
        for piece in ring_pieces(&self.ring, lsn, blocks) {
            let buf = self.backend.read_at(piece.addr.0 * BLOCK_SIZE_U64, piece.bytes())?;
            for block in buf.bytes().chunks_exact(BLOCK_SIZE) {
                let head = block.first_chunk::<GROUP_PREFIX_LEN>().copied();
                let prefix = head.and_then(|head| GroupPrefix::decode(&head));
                starts.extend(prefix.filter(|prefix| prefix.lsn == at));
                at.0 += 1;
            }
            self.backend.give_back(buf);
        }
        Ok(starts)
    }

    /// Opens a data block that stands in memory.
    pub(super) fn verify_block(&self, loc: &BlockLoc, sealed: &[u8]) -> core::result::Result<(), OpenFailure> {
        let mut block = alloc::boxed::Box::new([0u8; BLOCK_SIZE]);
        block.copy_from_slice(sealed);
        self.sealer.open_data(loc, &mut block)
    }
}

/// Reads whole ring blocks from `lsn` on, round the ring's end if need be.
pub(super) fn read_ring(backend: &dyn crate::backend::Backend, ring: &Ring, lsn: Lsn, blocks: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in ring_pieces(ring, lsn, blocks) {
        let buf = backend.read_at(piece.addr.0 * BLOCK_SIZE_U64, piece.bytes())?;
        bytes.extend_from_slice(buf.bytes());
        backend.give_back(buf);
    }
    Ok(bytes)
}

/// What a look at the newest layer gives.
enum Taken {
    Nothing,
    NoRoom,
    Cut(Cut),
}

/// Ring blocks that a group takes at most, with records of so many bytes, naming so many pages of which some stand in the
/// ring; and one that names a new epoch before it.
pub(super) fn group_estimate(record_bytes: usize, pages: u64, pages_in_ring: u64) -> u64 {
    let bytes = record_bytes as u64 + pages * PAGE_RECORD_BYTES;
    bytes.div_ceil(BLOCK_SIZE_U64) + pages_in_ring + 3
}

/// What one group takes out of the newest layer.
#[derive(Clone)]
struct Cut {
    layer: Arc<Layer>,
    unwritten: i64,
    sequence: u64,
    inodes: u64,
    next_id: u64,
}

/// Pages after sealing.
#[derive(Default)]
struct SealedPages {
    /// For each chunk that had pages: its whole patch, pages included.
    patches: BTreeMap<Key, Patch>,
    ring_data: Vec<u8>,
    ring_addresses: Vec<BlockAddr>,
    /// Every address that the group makes live.
    named: Vec<Extent>,
}

impl SealedPages {
    /// Completes the patches: what the layer says of blocks without a page, then the pages over it.
    fn complete(&mut self, layer: &Layer) {
        let mut named = Vec::new();
        for (key, entry) in layer.iter() {
            let Entry::Chunk(chunk) = entry else { continue };
            if let Some(pages) = self.patches.get_mut(key) {
                let pages = core::mem::replace(pages, chunk.patch.clone());
                if let Some(patch) = self.patches.get_mut(key) {
                    patch.merge(&pages, &mut |_| {});
                }
            }
            let patch = self.patches.get(key).unwrap_or(&chunk.patch);
            named.extend(patch.sealed_blocks().map(|loc| loc.addr));
        }
        self.named = Extent::runs(named);
    }
}

fn waiting_pages(layer: &Layer) -> Vec<Waiting> {
    let mut waiting = Vec::new();
    for (key, entry) in layer.iter() {
        if let Entry::Chunk(chunk) = entry {
            let pages = chunk.pages.iter();
            waiting.extend(pages.map(|(block, page)| Waiting { key: *key, block: *block, page: page.clone() }));
        }
    }
    waiting
}

/// A contiguous piece of a group on the backend.
struct RingPiece {
    addr: BlockAddr,
    /// Blocks of the group before this piece.
    skip: u64,
    blocks: u64,
}

impl RingPiece {
    fn bytes(&self) -> usize {
        usize::try_from(self.blocks).map_or(usize::MAX, |blocks| blocks.saturating_mul(BLOCK_SIZE))
    }

    /// Copies this piece's part of `records ‖ data`.
    fn fill(&self, out: &mut [u8], records: &[u8], data: &[u8]) {
        let start = self.skip as usize * BLOCK_SIZE;
        let from_records = records.len().saturating_sub(start).min(out.len());
        let (head, tail) = out.split_at_mut(from_records);
        if from_records > 0 {
            head.copy_from_slice(&records[start..start + from_records]);
        }
        let data_start = (start + from_records).saturating_sub(records.len());
        tail.copy_from_slice(&data[data_start..data_start + tail.len()]);
    }
}

fn ring_pieces(ring: &Ring, lsn: Lsn, blocks: u64) -> impl Iterator<Item = RingPiece> {
    let before_end = ring.blocks - lsn.0 % ring.blocks;
    let first = blocks.min(before_end);
    let one = RingPiece { addr: ring.addr(lsn), skip: 0, blocks: first };
    let two = (blocks > first).then(|| RingPiece { addr: BlockAddr(ring.start), skip: first, blocks: blocks - first });
    core::iter::once(one).chain(two)
}

/// The length of a group in ring blocks, from its prefix; nothing that could not fit the ring.
pub(super) fn group_blocks(ring: &Ring, prefix: &GroupPrefix) -> Option<(u64, u64)> {
    let blocks = prefix.total_blocks();
    (blocks <= ring.blocks).then_some((prefix.record_blocks(), blocks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_wraps_is_written_in_two_pieces() {
        let place = Ring { start: 64, blocks: 64 };
        let records: Vec<u8> = (0..2 * BLOCK_SIZE).map(|index| (index / BLOCK_SIZE) as u8 + 1).collect();
        let data: Vec<u8> = (0..3 * BLOCK_SIZE).map(|index| (index / BLOCK_SIZE) as u8 + 11).collect();
        for start in [0, 59, 60, 61, 62, 63, 64 + 63] {
            let mut ring = alloc::vec![0u8; 64];
            for piece in ring_pieces(&place, Lsn(start), 5) {
                let mut out = alloc::vec![0u8; piece.bytes()];
                piece.fill(&mut out, &records, &data);
                for (index, block) in out.chunks(BLOCK_SIZE).enumerate() {
                    ring[(piece.addr.0 - 64) as usize + index] = block[0];
                }
            }
            let got: Vec<u8> = (0..5).map(|index| ring[((start + index) % 64) as usize]).collect();
            assert_eq!(got, [1, 2, 11, 12, 13], "start {start}");
        }
    }
}
