//! Checkpoints: the logged layer is merged into the trees, and a slot names the new roots.
//!
//! Order, each step after the one before:
//! 1. freeze: the logged layer and the addresses that it took and gave back become the checkpoint's;
//! 2. data blocks that stand in the ring only are copied home, as they are;
//! 3. the trees are merged, bottom-up and copy-on-write;
//! 4. the pages of the epoch table, then the allocation pages, are written; after this nothing of it allocates or releases;
//! 5. flush, slot, flush, anchor;
//! 6. the new roots are published; what the checkpoint *before* this one released becomes free.
//!
//! *Invariants*: a crash before 5 leaves the older checkpoint and the whole log. Either slot and the log lead to the same
//! state, because nothing that the older slot or its log needs is reused before the newer one's successor is durable.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;

use crate::allocator::{Extent, Interval, PageIo, Renewal, Trees, is_made};
use crate::backend::{Backend, HostBuf, Io};
use crate::error::{Error, Invalid, Result, RolledBack, Tampered};
use crate::format::{
    AllocEntry, BlockLoc, BlockRef, BlockState, Checkpoint, EpochPageRef, FILES_TREE, Key, LIVE_UNKNOWN, SYSTEM_TREE,
    TreeRoot,
};
use crate::keys::{SealedSlot, slot_of};
use crate::merge::{self, NodeWriter};
use crate::node::Node;
use crate::sealer::Sealed;
use crate::store::changes::{Changes, Totals};
use crate::store::layer::{Entry, Layer};
use crate::store::read::block_error;
use crate::store::reseal::{Order, Slice};
use crate::store::{FILES_FROM, SLOT_ADDRS, Store};
use crate::suite::{Nonce, Tag};
use crate::tree::Root;
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Generation, Lsn, ObjectId};

/// Why a checkpoint is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    Ordinary,
    /// The first of a mount's two: names the new epoch and closes the old log. The next group binds its tag.
    EpochStart,
    /// The first under another volume key: an epoch's start in the middle of a mount. The anchor moves when the header did.
    KeyChange,
    /// The last one of a mount: nothing follows in the log.
    Close,
}

/// What is known of the slots. Its lock lets one checkpoint run at a time.
pub(super) struct Slots {
    /// The newest checkpoint as it was written.
    pub(super) newest: Checkpoint,
    pub(super) newest_salt: [u8; 32],
    /// The bytes of the newest slot, compared before the other one is overwritten.
    pub(super) newest_bytes: Box<[u8; BLOCK_SIZE]>,
    /// Where the log started for the newest slot: the ring's tail once the next checkpoint is durable.
    pub(super) newest_log_start: Lsn,
}

/// The log's position when the layer was frozen, and the counters that go with it.
struct Frozen {
    layer: Arc<Layer>,
    ring: BTreeMap<BlockAddr, Lsn>,
    log_start: Lsn,
    previous_tag: Tag,
    epoch: EpochId,
    next_id: u64,
    inodes: u64,
    system_root: Option<Root>,
    files_root: Option<Root>,
}

/// A checkpoint before its epoch table and its slot.
struct Built {
    roots: [Option<Root>; 2],
    totals: Totals,
    /// Where the pages of the epoch table go.
    epoch_homes: Vec<BlockAddr>,
    /// Epochs that the table does without from now on.
    dead: BTreeSet<EpochId>,
    alloc_root: AllocEntry,
    /// Old epochs that were worked off beside.
    slice: Slice,
}

/// How a checkpoint failed.
enum Failed {
    /// Everything is as it was before.
    TakenBack(Error),
    /// It is unknown what a slot names. The layers and the log still hold the truth, so nothing more is written.
    Halfway(Error),
}

impl From<Error> for Failed {
    fn from(failure: Error) -> Failed {
        Failed::Halfway(failure)
    }
}

/// Ring blocks that are read in one request, and copied home in one.
const COPY_BLOCKS: usize = 256;
/// So many ring blocks that are not needed are read along with their neighbours, for another request takes longer. Between
/// blocks that were synced one by one there is the head of a group each time.
const READ_ALONG_BLOCKS: u64 = 16;

impl Store {
    /// Merges what is logged so far.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.start_epoch()?;
        self.checkpoint_for(Occasion::Ordinary)
    }

    pub(super) fn checkpoint_for(&self, occasion: Occasion) -> Result<()> {
        self.checkpoint_with(occasion, &Order::nothing()).map(drop)
    }

    /// A checkpoint that also works off a slice of what old epochs sealed.
    pub(super) fn checkpoint_with(&self, occasion: Occasion, order: &Order<'_>) -> Result<Slice> {
        let mut slots = self.slots.lock();
        self.check_latch()?;
        self.run_checkpoint(&mut slots, occasion, order).map_err(|failed| match failed {
            Failed::TakenBack(failure) => failure,
            Failed::Halfway(failure) => self.latch(failure),
        })
    }

    fn run_checkpoint(
        &self,
        slots: &mut Slots,
        occasion: Occasion,
        order: &Order<'_>,
    ) -> core::result::Result<Slice, Failed> {
        let generation = self.next_generation();
        let frozen = self.freeze();
        let built = match self.build(&frozen, generation, slots, order) {
            Ok(built) => built,
            // No slot names anything of it, so it can be taken back; a failed write has latched the volume by itself.
            Err(failure) => {
                self.thaw(frozen)?;
                return Err(Failed::TakenBack(failure));
            }
        };
        let needed = slots.newest.log_epoch;
        let mut next = slots.newest.clone();
        next.generation = generation;
        next.previous_salt = slots.newest_salt;
        next.log_start = frozen.log_start;
        next.previous_tag = frozen.previous_tag;
        next.log_epoch = frozen.epoch;
        let starts = matches!(occasion, Occasion::EpochStart | Occasion::KeyChange);
        next.epoch_start = starts;
        next.clean = occasion == Occasion::Close;
        next.next_id = frozen.next_id;
        next.inodes = frozen.inodes;
        next.unwritten_blocks = next.unwritten_blocks.saturating_add_signed(built.totals.unwritten);
        next.nodes = self.nodes_in_use().saturating_add_signed(built.totals.nodes);
        next.roots = tree_roots(built.roots[0], built.roots[1]);
        next.alloc_root = built.alloc_root;
        next.free_blocks = self.geometry.free_blocks(&built.alloc_root);
        self.write_epochs(&mut next, &built, order)?;
        let log_end = self.flush_before_slot()?;
        let sealed = self.write_slot(&mut next, occasion)?;
        self.publish(slots, &next, &frozen, built.roots)?;
        if starts {
            self.log.lock().previous_tag = sealed.tag;
        }
        self.sealer.drop_dead_epochs(self.alloc.oldest_read(), needed);
        self.rotating.store(next.rotation.is_some(), Ordering::Release);
        slots.newest = next;
        slots.newest_bytes = sealed.bytes;
        slots.newest_salt = sealed.salt;
        if occasion == Occasion::KeyChange {
            return Ok(built.slice);
        }
        let start = (frozen.log_start, if starts { sealed.tag } else { frozen.previous_tag });
        self.anchor_slot(sealed.salt, start, if start.0 < log_end.0 { log_end } else { start })?;
        self.discard_free()?;
        Ok(built.slice)
    }

    /// Everything that a slot will name but the epoch table. Until it is done, nothing is changed that cannot be taken back.
    fn build(&self, frozen: &Frozen, generation: Generation, slots: &Slots, order: &Order<'_>) -> Result<Built> {
        self.copy_home(frozen)?;
        let mut slice = self.plan_slice([frozen.system_root, frozen.files_root], order)?;
        let mut totals = Totals::default();
        let mut writer = Writer::new(self, generation, order, &mut totals);
        let system_root = self.merge_tree(&mut writer, frozen, &slice, true)?;
        let files_root = self.merge_tree(&mut writer, frozen, &slice, false)?;
        writer.drain()?;
        for page in &slots.newest.epoch_pages {
            self.alloc.release_frozen(Extent { addr: page.addr, blocks: 1 })?;
        }
        let mut epoch_homes = Vec::new();
        let mut dead = self.sealer.dead_epochs(generation, slots.newest.log_epoch);
        // What the log made live again since it died.
        dead.retain(|epoch| !totals.epochs.contains_key(epoch));
        for _ in 0..self.sealer.epoch_page_count(&dead) {
            epoch_homes.push(self.alloc.allocate_block(self, Interval::Frozen)?);
        }
        self.try_homes(&epoch_homes)?;
        self.page_epochs.lock().clear();
        let is_old = |epoch| order.epochs.contains(&epoch);
        let renewal = Renewal { groups: slice.groups.clone(), is_old: &is_old, left_one: Cell::new(false) };
        let alloc_root = self.alloc.write_pages(self, Some(&renewal).filter(|_| !slice.groups.is_empty()))?;
        slice.left_one |= renewal.left_one.get() || totals.left_one;
        for (epoch, delta) in core::mem::take(&mut *self.page_epochs.lock()) {
            *totals.epochs.entry(epoch).or_default() += delta;
        }
        self.check_newest_slot(slots)?;
        Ok(Built { roots: [system_root, files_root], totals, epoch_homes, dead, alloc_root, slice })
    }

    fn freeze(&self) -> Frozen {
        let log = self.log.lock();
        let mut layers = self.layers.write();
        let layer = Arc::new(core::mem::take(&mut layers.active));
        layers.frozen = Some(layer.clone());
        layers.ring_frozen = core::mem::take(&mut layers.ring_active);
        self.alloc.freeze();
        layers.unwritten_frozen = core::mem::take(&mut layers.unwritten_active);
        Frozen {
            layer,
            ring: layers.ring_frozen.clone(),
            log_start: log.next,
            previous_tag: log.previous_tag,
            epoch: log.epoch,
            next_id: layers.peek_id(),
            inodes: layers.inodes_logged,
            system_root: layers.system_root,
            files_root: layers.files_root,
        }
    }

    /// Copies blocks that stand in the ring to their homes, ciphertext as it is. Each is verified on the way: the ring's copy
    /// is given up afterwards, so one wrong answer of the host would lose for ever what was acknowledged.
    fn copy_home(&self, frozen: &Frozen) -> Result<()> {
        let proofs = proofs(&frozen.layer, &frozen.ring);
        let mut by_place: Vec<(Lsn, BlockAddr)> = frozen.ring.iter().map(|(addr, lsn)| (*lsn, *addr)).collect();
        by_place.sort_unstable();
        for batch in by_place.chunks(COPY_BLOCKS) {
            let mut writes: Vec<(BlockAddr, Vec<u8>)> = Vec::with_capacity(batch.len());
            let mut at = 0;
            while at < batch.len() {
                let first = batch[at].0;
                let (count, bytes) = self.read_stretch(first, &batch[at..])?;
                let (blocks, _) = bytes.as_chunks::<BLOCK_SIZE>();
                for (lsn, addr) in &batch[at..at + count] {
                    // A block that the layer does not name is no part of this checkpoint.
                    let Some((loc, place)) = proofs.get(addr) else { continue };
                    let block = &blocks[(lsn.0 - first.0) as usize];
                    self.verify_block(loc, block).map_err(|failure| block_error(failure, loc, *place))?;
                    writes.push((*addr, block.to_vec()));
                }
                at += count;
            }
            writes.sort_unstable_by_key(|(addr, _)| *addr);
            self.submit_unnamed(join_writes(self, &writes))?;
        }
        Ok(())
    }

    /// Reads as many of these ring blocks as one request does, which rise from `first` on, and says how many they are. What comes
    /// begins at `first` and has no gap. Where that fails, it is the first one alone: what is only read along must not keep
    /// anything from going home.
    fn read_stretch(&self, first: Lsn, by_place: &[(Lsn, BlockAddr)]) -> Result<(usize, Vec<u8>)> {
        let count = read_together(by_place);
        let blocks = by_place[..count].last().map_or(1, |(last, _)| last.0 - first.0 + 1);
        match self.read_ring(first, blocks) {
            Err(Error::Backend(_)) if blocks > 1 => Ok((1, self.read_ring(first, 1)?)),
            read => Ok((count, read?)),
        }
    }

    /// Takes a checkpoint back that was not built to the end: its layer goes back under the active one.
    fn thaw(&self, frozen: Frozen) -> Result<()> {
        drop(frozen);
        let mut layers = self.layers.write();
        let layers = &mut *layers;
        // The other owner was the checkpoint's own, dropped above; readers take no share.
        let Some(mut merged) = layers.frozen.take().and_then(Arc::into_inner) else {
            return Err(Error::Invalid(Invalid::Option("a frozen layer in use")));
        };
        let mut released = Vec::new();
        merged.absorb(&layers.active, &mut BTreeMap::new(), &mut |loc: BlockLoc| released.push(loc));
        layers.active = merged;
        let newer = core::mem::replace(&mut layers.ring_active, core::mem::take(&mut layers.ring_frozen));
        layers.ring_active.extend(newer);
        layers.unwritten_active += core::mem::take(&mut layers.unwritten_frozen);
        self.alloc.unfreeze()?;
        self.release_logged(&mut layers.ring_active, &released)
    }

    fn merge_tree(
        &self,
        writer: &mut Writer<'_>,
        frozen: &Frozen,
        slice: &Slice,
        system: bool,
    ) -> Result<Option<Root>> {
        let (root, from, end) = match system {
            true => (frozen.system_root, Key::MIN, FILES_FROM),
            false => (frozen.files_root, FILES_FROM, Key::MAX),
        };
        let (entries, planned) = (frozen.layer.range(from, end), slice.planned.range(from..end));
        let mut changes = Changes::new(self, root, entries, planned, writer.old_epochs);
        let merged = merge::try_apply(self, writer, self.node_size, root, &mut changes)?;
        writer.totals.add(changes.totals);
        Ok(merged)
    }

    /// Writes to the places of the epoch table before anything depends on it: a host that has no space for them says so while
    /// the checkpoint can be taken back.
    fn try_homes(&self, homes: &[BlockAddr]) -> Result<()> {
        let zeros = |addr: &BlockAddr| {
            let mut buf = self.backend.buffer(BLOCK_SIZE);
            buf.bytes_mut().fill(0);
            Io::Write { offset_bytes: addr.0 * BLOCK_SIZE_U64, buf }
        };
        self.submit_unnamed(homes.iter().map(zeros).collect())
    }

    /// The epoch table. The allocation pages count as live blocks of their epochs, so it is sealed after them.
    fn write_epochs(&self, next: &mut Checkpoint, built: &Built, order: &Order<'_>) -> Result<()> {
        for (epoch, delta) in &built.totals.epochs {
            self.sealer.adjust_live(*epoch, *delta);
        }
        if built.slice.next.is_none() && order.is_whole && !built.slice.left_one {
            // All of the volume was looked at, and nothing of them is left.
            for (epoch, live) in self.sealer.epochs() {
                if live == LIVE_UNKNOWN && order.epochs.contains(&epoch) {
                    self.sealer.set_live(epoch, 0);
                }
            }
        }
        next.epoch_pages.clear();
        let mut batch = Vec::new();
        // An epoch that began since the homes were counted is named by the log after this checkpoint's start.
        let homes = &built.epoch_homes;
        let (pages, count) = self.sealer.seal_epoch_pages(next.generation, &built.dead, homes.len(), next.log_epoch)?;
        for (addr, page) in homes.iter().zip(pages) {
            next.epoch_pages.push(EpochPageRef { addr: *addr, tag: page.tag });
            let mut buf = self.backend.buffer(BLOCK_SIZE);
            buf.bytes_mut().copy_from_slice(&page.bytes[..]);
            batch.push(Io::Write { offset_bytes: addr.0 * BLOCK_SIZE_U64, buf });
        }
        next.epoch_count = count;
        next.rotation = next.rotation.and_then(|_| self.sealer.rotation_without(&built.dead));
        self.submit(batch)
    }

    /// Flushes what the slot is going to name. Log groups written so far become durable with it.
    fn flush_before_slot(&self) -> Result<(Lsn, Tag)> {
        let (end, tag) = {
            let log = self.log.lock();
            (log.next, log.previous_tag)
        };
        self.flush()?;
        self.flushed(end);
        Ok((end, tag))
    }

    fn write_slot(&self, next: &mut Checkpoint, occasion: Occasion) -> Result<SealedSlot> {
        if let Some(anchored) = self.anchored.lock().as_mut() {
            next.anchor.counter = self.slot_number(anchored, occasion)?;
        }
        let index = slot_of(next.generation);
        let sealed = self.sealer.seal_checkpoint(next)?;
        let mut buf = self.backend.buffer(BLOCK_SIZE);
        buf.bytes_mut().copy_from_slice(&sealed.bytes[..]);
        let offset_bytes = SLOT_ADDRS[usize::from(index)].0 * BLOCK_SIZE_U64;
        self.submit(alloc::vec![Io::Write { offset_bytes, buf }])?;
        self.flush()?;
        Ok(sealed)
    }

    /// A slot that did not open when the volume was mounted goes for good before anything else is written. The host may have
    /// misread it once only: then it is the newest, and what this mount writes would go over blocks that it needs.
    pub(super) fn give_up_damaged_slot(&self) -> Result<()> {
        let Some(index) = self.replayed.damaged_slot else { return Ok(()) };
        let offset_bytes = SLOT_ADDRS[usize::from(index)].0 * BLOCK_SIZE_U64;
        self.submit(alloc::vec![Io::Write { offset_bytes, buf: HostBuf::zeroed(BLOCK_SIZE) }])?;
        self.flush()
    }

    /// Somebody else's newer checkpoint beside ours means that two writers are at work: ours stops.
    fn check_newest_slot(&self, slots: &Slots) -> Result<()> {
        let index = slot_of(slots.newest.generation);
        let bytes = read_slot(&*self.backend, index)?;
        if bytes == slots.newest_bytes {
            return Ok(());
        }
        match self.sealer.open_checkpoint(index, &bytes) {
            Ok(other) if other.checkpoint.generation > slots.newest.generation => {
                Err(self.latch(RolledBack::NewerCheckpoint { generation: other.checkpoint.generation }.into()))
            }
            // Damaged, or rolled back: the one that is being written replaces its meaning.
            _ => Ok(()),
        }
    }

    /// Tells the allocator what the trees have. Inodes of images below have no record in them.
    pub(super) fn say_trees(&self, nodes: u64, inodes: u64) {
        let images = self.lowers.images().unwrap_or_default();
        let below: u64 = images.iter().map(|image| image.layers.read().inodes).sum();
        self.alloc.set_trees(trees_of(nodes, self.node_size, inodes.saturating_sub(below)));
    }

    fn publish(&self, slots: &mut Slots, next: &Checkpoint, frozen: &Frozen, roots: [Option<Root>; 2]) -> Result<()> {
        let mut log = self.log.lock();
        let mut layers = self.layers.write();
        [layers.system_root, layers.files_root] = roots;
        layers.frozen = None;
        layers.ring_frozen = BTreeMap::new();
        layers.unwritten_stored = next.unwritten_blocks;
        layers.unwritten_frozen = 0;
        self.set_generation(next.generation, next.nodes);
        self.say_trees(next.nodes, next.inodes);
        log.tail = slots.newest_log_start;
        slots.newest_log_start = frozen.log_start;
        self.alloc.finish(next.generation)
    }

    fn discard_free(&self) -> Result<()> {
        let extents = self.alloc.discardable();
        for extent in &extents {
            // Discarding is advice to the host; that it failed costs space there and nothing here.
            let (offset_bytes, len_bytes) = (extent.addr.0 * BLOCK_SIZE_U64, extent.blocks * BLOCK_SIZE_U64);
            let _ = self.while_unlatched(|| self.backend.discard(offset_bytes, len_bytes))?;
        }
        self.alloc.discard_done(&extents)
    }
}

pub(crate) fn read_slot(backend: &dyn Backend, index: u8) -> Result<Box<[u8; BLOCK_SIZE]>> {
    let buf = backend.read_at(SLOT_ADDRS[usize::from(index)].0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
    let mut bytes = Box::new([0; BLOCK_SIZE]);
    bytes.copy_from_slice(buf.bytes());
    backend.give_back(buf);
    Ok(bytes)
}

/// What the allocator has to know of trees.
pub(super) fn trees_of(nodes: u64, node_size: usize, inodes: u64) -> Trees {
    Trees { node_blocks: nodes.saturating_mul((node_size / BLOCK_SIZE) as u64), inodes }
}

fn tree_roots(system: Option<Root>, files: Option<Root>) -> Vec<TreeRoot> {
    let root = |tree, root: Option<Root>| TreeRoot {
        tree,
        level: root.map_or(0, |root| root.level),
        birth: root.map_or(Generation(0), |root| root.reference.birth),
        parent: 0,
        reference: root.map(|root| root.reference),
    };
    alloc::vec![root(SYSTEM_TREE, system), root(FILES_TREE, files)]
}

fn join_writes(store: &Store, writes: &[(BlockAddr, Vec<u8>)]) -> Vec<Io> {
    let mut batch = Vec::new();
    let mut at = 0;
    while at < writes.len() {
        let run = writes[at..].iter().zip(writes[at].0.0..).take_while(|((addr, _), want)| addr.0 == *want).count();
        let bytes: usize = writes[at..at + run].iter().map(|(_, bytes)| bytes.len()).sum();
        let mut buf: HostBuf = store.backend.buffer(bytes);
        let mut out = buf.bytes_mut();
        for (_, bytes) in &writes[at..at + run] {
            let (head, rest) = out.split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            out = rest;
        }
        batch.push(Io::Write { offset_bytes: writes[at].0.0 * BLOCK_SIZE_U64, buf });
        at += run;
    }
    batch
}

/// Seals nodes and writes them, neighbours in one request.
struct Writer<'a> {
    store: &'a Store,
    generation: Generation,
    pending: Vec<(BlockAddr, Vec<u8>)>,
    totals: &'a mut Totals,
    /// What is sealed with these is built again where a change leads through it.
    old_epochs: &'a BTreeSet<EpochId>,
    /// The first release that failed; it fails the checkpoint.
    failure: Option<Error>,
}

impl<'a> Writer<'a> {
    fn new(store: &'a Store, generation: Generation, order: &'a Order<'_>, totals: &'a mut Totals) -> Writer<'a> {
        Writer { store, generation, pending: Vec::new(), totals, old_epochs: order.epochs, failure: None }
    }

    fn drain(&mut self) -> Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut pending = core::mem::take(&mut self.pending);
        pending.sort_unstable_by_key(|(addr, _)| *addr);
        let blocks = (self.store.node_size / BLOCK_SIZE) as u64;
        let mut joined: Vec<(BlockAddr, Vec<u8>)> = Vec::new();
        for (addr, bytes) in pending {
            match joined.last_mut() {
                Some((first, run)) if first.0 + (run.len() / self.store.node_size) as u64 * blocks == addr.0 => {
                    run.extend_from_slice(&bytes);
                }
                _ => joined.push((addr, bytes)),
            }
        }
        let writes = joined.into_iter().map(|(addr, bytes)| {
            let mut buf = self.store.backend.buffer(bytes.len());
            buf.bytes_mut().copy_from_slice(&bytes);
            Io::Write { offset_bytes: addr.0 * BLOCK_SIZE_U64, buf }
        });
        let writes: Vec<Io> = writes.collect();
        self.store.submit_unnamed(writes)
    }
}

/// Nodes that wait for being written together.
const PENDING_NODES: usize = 32;

impl NodeWriter for Writer<'_> {
    fn write(&mut self, level: u8, bytes: Vec<u8>) -> Result<BlockRef> {
        let store = self.store;
        let blocks = (store.node_size / BLOCK_SIZE) as u64;
        let addr = store.alloc.allocate_node(store, blocks, Interval::Frozen)?;
        let mut sealed = alloc::vec![0u8; bytes.len()];
        let Sealed { epoch, nonce, tag } = store.sealer.seal_node(level, &bytes, &mut sealed)?;
        self.pending.push((addr, sealed));
        if self.pending.len() >= PENDING_NODES {
            self.drain()?;
        }
        *self.totals.epochs.entry(epoch).or_default() += 1;
        self.totals.nodes += 1;
        let len_bytes = u32::try_from(bytes.len()).map_err(|_| crate::error::Invalid::Option("node size"))?;
        if let Ok(node) = Node::decode(bytes, level, store.node_size) {
            store.nodes.insert((addr.0, nonce), Arc::new(node), store.node_size);
        }
        Ok(BlockRef { source: 0, epoch, addr, nonce, birth: self.generation, proof: tag.into(), len_bytes })
    }

    fn release(&mut self, reference: &BlockRef) {
        let blocks = (self.store.node_size / BLOCK_SIZE) as u64;
        let released = self.store.alloc.release_frozen(Extent { addr: reference.addr, blocks });
        self.failure = self.failure.take().or(released.err());
        *self.totals.epochs.entry(reference.epoch).or_default() -= 1;
        self.totals.nodes -= 1;
    }

    fn is_unwanted(&self, reference: &BlockRef) -> bool {
        self.old_epochs.contains(&reference.epoch)
    }
}

impl PageIo for Store {
    fn read_page(
        &self,
        level: u8,
        first_group: u64,
        addr: BlockAddr,
        entry: &AllocEntry,
    ) -> Result<Box<[u8; BLOCK_SIZE]>> {
        let made = if is_made(entry) { self.made_page(level, first_group) } else { None };
        if let Some(page) = made {
            return Ok(page);
        }
        let buf = self.backend.read_at(addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
        let mut page = Box::new([0u8; BLOCK_SIZE]);
        page.copy_from_slice(buf.bytes());
        self.backend.give_back(buf);
        let failure = Error::Tampered(Tampered::AllocPage { group: first_group, level });
        self.sealer.open_alloc_page(level, entry, &mut page[..]).map_err(|_| failure)?;
        Ok(page)
    }

    fn write_page(
        &self,
        level: u8,
        addr: BlockAddr,
        page: &[u8; BLOCK_SIZE],
        old: &AllocEntry,
    ) -> Result<(EpochId, Nonce, Tag)> {
        let mut own = [0; BLOCK_SIZE];
        let proof = self.sealer.seal_alloc_page(level, page, &mut own)?;
        let mut buf = self.backend.buffer(BLOCK_SIZE);
        buf.bytes_mut().copy_from_slice(&own);
        self.submit_unnamed(alloc::vec![Io::Write { offset_bytes: addr.0 * BLOCK_SIZE_U64, buf }])?;
        let mut epochs = self.page_epochs.lock();
        *epochs.entry(proof.epoch).or_default() += 1;
        if old.present {
            *epochs.entry(old.epoch).or_default() -= 1;
        }
        Ok((proof.epoch, proof.nonce, proof.tag))
    }
}

/// How many of these ring blocks, which rise, one request reads; at least one.
fn read_together(by_place: &[(Lsn, BlockAddr)]) -> usize {
    let first = by_place.first().map_or(0, |(lsn, _)| lsn.0);
    let is_near = |pair: &&[(Lsn, BlockAddr)]| {
        let (before, next) = (pair[0].0.0, pair[1].0.0);
        next - before <= READ_ALONG_BLOCKS + 1 && next - first < COPY_BLOCKS as u64
    };
    1 + by_place.windows(2).take_while(is_near).count()
}

/// What vouches for the blocks of a layer that stand in the ring: by home address, with object and block number.
fn proofs(layer: &Layer, ring: &BTreeMap<BlockAddr, Lsn>) -> BTreeMap<BlockAddr, (BlockLoc, (ObjectId, u64))> {
    let mut proofs = BTreeMap::new();
    for (key, entry) in layer.iter() {
        let Entry::Chunk(chunk) = entry else { continue };
        for (block, state) in chunk.patch.iter() {
            if let BlockState::Data(loc) = state
                && ring.contains_key(&loc.addr)
            {
                proofs.insert(loc.addr, (loc, (ObjectId(key.object), key.block_number(block))));
            }
        }
    }
    proofs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together_and_no_more_than_a_request_may_hold() {
        let places = |lsns: &[u64]| lsns.iter().map(|lsn| (Lsn(*lsn), BlockAddr(0))).collect::<Vec<_>>();
        let together = |lsns: &[u64]| read_together(&places(lsns));
        assert_eq!((together(&[7]), together(&[7, 8, 9])), (1, 3));
        assert_eq!((together(&[7, 24, 41]), together(&[7, 25, 26])), (3, 1), "16 between them, and 17");
        let every_second: Vec<u64> = (0..400).map(|index| 9 + 2 * index).collect();
        assert_eq!(together(&every_second), COPY_BLOCKS / 2, "the last one is 254 blocks after the first");
    }
}
