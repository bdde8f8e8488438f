//! Opening a volume: header, slots, log, anchor.
//!
//! Nothing is written here. A read-write mount makes what was replayed durable with its first write (see `start_epoch`).
//!
//! - `headers`: the two copies of the header. The newest authentic slot counts; it has to accept the header's digest, or the
//!   header was rolled back.
//! - `chain`: which groups of the log count.
//! - `anchor`: whether that is as new as the anchor says.
//!
//! *Bounds*: everything read is bounded by the ring's size, which the header's checks bound; a group's length is checked
//! against the ring before anything is allocated for it.

mod anchor;
mod chain;
mod headers;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::allocator::{Allocator, Extent};
use crate::anchor::Anchor;
use crate::backend::Backend;
use crate::cache::ByteCache;
use crate::env::Env;
use crate::error::{Corrupt, Error, Incompatible, Malformed, Result, RolledBack, Tampered};
use crate::format::{
    AnchorBinding, BlockLoc, BlockState, Checkpoint, Digest, FEATURE_LAYERED, FEATURE_ROTATED, FILES_TREE, GroupBody,
    Header, Key, Kind, LogRecord, MAX_LOWERS, SYSTEM_TREE,
};
use crate::keys::{self, OpenFault, VolumeKey, slot_of};
use crate::sealer::Sealer;
use crate::store::checkpoint::{Slots, read_slot, trees_of};
use crate::store::commit::Anchored;
use crate::store::correct::Corrections;
use crate::store::fetch::Streams;
use crate::store::layer::Layer;
use crate::store::log::{Log, Ring};
use crate::store::packed;
use crate::store::read::range_of;
use crate::store::{Geometry, Layers, Limits, Lowers, Start, Store, Unflushed};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::tree::{self, Root};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, Generation};
use crate::workers::Workers;

pub(super) use headers::HeaderRepair;
pub(crate) use headers::{find_replica, is_key_of_header, read_header, read_headers};

use anchor::bind_anchor;
use chain::{Group, chain_start};
use headers::open_headers;

pub(super) use headers::OpenedHeader;

/// How to open a store.
pub(crate) struct StoreOptions {
    pub(crate) read_only: bool,
    pub(crate) anchor: Option<Arc<dyn Anchor>>,
    pub(crate) abandon_anchor: bool,
    pub(crate) volume_id: Option<[u8; 16]>,
    /// The packed image that must be found.
    pub(crate) root_digest: Option<Digest>,
    pub(crate) memory_bytes: usize,
    /// Epochs that the volume may keep: with half of them old ones are re-encrypted beside, with three quarters at once.
    pub(crate) max_epochs: u32,
    /// Who seals and opens the parts of large requests.
    pub(crate) workers: Arc<dyn Workers>,
    /// What a repair lays over the volume.
    pub(crate) corrections: Option<Arc<Corrections>>,
}

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Groups of the log that count.
    pub(crate) groups: u64,
    /// Unflushed groups at the log's end that were not whole, and were dropped.
    pub(crate) dropped: u64,
    /// The header came from its replica.
    pub(crate) header_replica: bool,
    /// A slot that does not authenticate: its index.
    pub(crate) damaged_slot: Option<u8>,
    /// The anchor that the newest slot names, abandoned or not.
    pub(crate) bound: AnchorBinding,
}

/// A slot that authenticated.
pub(super) struct OpenedSlot {
    pub(super) index: u8,
    pub(super) opened: keys::OpenedSlot,
    pub(super) bytes: alloc::boxed::Box<[u8; BLOCK_SIZE]>,
}

impl Store {
    /// Opens a volume; see the module's header.
    pub(crate) fn open(backend: Arc<dyn Backend>, key: &VolumeKey, options: &StoreOptions, env: &Env) -> Result<Store> {
        if packed::claims_to_be_packed(&*backend) {
            return Store::open_packed(backend, Some(key), options, env);
        }
        let headers = open_headers(&*backend, key, env)?;
        if options.root_digest.is_some() {
            return Err(Incompatible::NotPacked.into());
        }
        let first = headers.first().ok_or(Malformed::NotSefs)?;
        // A host that showed another header a moment ago: a packed image is never read as a volume.
        if let Some(packed) = headers.iter().find(|it| it.header.image.is_packed()) {
            return Err(Incompatible::ImageType(packed.header.image.numbers().0).into());
        }
        if options.volume_id.is_some_and(|id| id != first.header.volume_id) {
            return Err(Incompatible::VolumeId.into());
        }
        let unknown = first.header.unknown_read_only_features();
        if unknown != 0 && !options.read_only {
            return Err(Incompatible::Features(unknown).into());
        }
        check_length(&*backend, &first.header)?;
        let sealer = Sealer::new(env.suite.clone(), env.rng.clone(), key, &first.verified);
        let mut slots = open_slots(&*backend, &sealer)?;
        let damaged_slot = damaged(&slots);
        let newest = slots.pop().ok_or(Tampered::CheckpointSlots)?;
        let accepted = &newest.opened.checkpoint.accepted_headers;
        let generation = first.header.generation;
        let header = headers.iter().find(|header| accepted.contains(header.verified.digest()));
        let header = header.ok_or(RolledBack::Header { generation })?;
        let repair = HeaderRepair::plan(&headers, header);
        let anchored = bind_anchor(&newest.opened.checkpoint, options)?;
        load_epochs(&*backend, &sealer, &newest.opened.checkpoint, true)?;
        sealer.set_needed(newest.opened.checkpoint.log_epoch);
        // Any other authentic slot is an older one that the host put back: nothing of it matters.
        let older = slots.last().filter(|older| older.opened.salt == newest.opened.checkpoint.previous_salt);
        let rotations = [Some(&newest), older].map(|slot| slot.and_then(|slot| slot.opened.checkpoint.rotation));
        let rotation = rotations.into_iter().flatten().next();
        if rotation.is_some() && header.header.incompatible & FEATURE_ROTATED == 0 {
            return Err(Corrupt::Checkpoint("a rotation of a key that was never changed").into());
        }
        sealer.set_rotation(rotation);
        if let Some(older) = older {
            // Epochs that only the older slot knows sealed groups that an anchored chain may have to lead through.
            load_epochs(&*backend, &sealer, &older.opened.checkpoint, false)?;
        }
        let mut store = build(backend, sealer, header, &newest, damaged_slot, options, env)?;
        store.header_repair = Mutex::new(repair);
        store.correct_counts();
        store.replay(&newest, older, anchored)
    }

    /// Reads tombstones and the log, checks the anchor, and hands the store over.
    fn replay(mut self, newest: &OpenedSlot, older: Option<&OpenedSlot>, anchored: Option<Anchored>) -> Result<Store> {
        self.load_ranges()?;
        self.load_job()?;
        let start = chain_start(newest);
        let cut = self.corrections.as_ref().and_then(|corrections| corrections.log_end);
        let chain = self.scan_log(start, newest.opened.checkpoint.clean, cut)?;
        if chain.groups.iter().any(|group| is_two_slots_back(&newest.opened.checkpoint, group.base)) {
            return Err(Tampered::CheckpointSlots.into());
        }
        let keep = self.whole_groups(&chain)?;
        if let Some(mut anchored) = anchored {
            if cut.is_some() {
                // What the anchor confirmed is never given up under its eyes.
                return Err(RolledBack::Anchor { counter: anchored.state.counter }.into());
            }
            self.verify_anchor(&anchored, newest, older, &chain.groups[..keep])?;
            anchored.slot_salt = newest.opened.salt;
            *self.anchored.lock() = Some(anchored);
        }
        if let Some(older) = older
            && !self.read_only
        {
            match self.alloc.hold_released(&self, &older.opened.checkpoint.alloc_root) {
                // Pages that are given up cannot tell what the older slot needs; it is the first to be overwritten.
                Err(Error::Tampered(_) | Error::Corrupt(_) | Error::Backend(_)) if self.has_made_pages() => {}
                held => held?,
            }
        }
        let (mut end, mut superseded) = (start, false);
        for group in &chain.groups[..keep] {
            let body = self.read_group(group)?;
            end = group.after(&body);
            superseded |= body.base > newest.opened.checkpoint.generation;
            self.apply(group, body)?;
        }
        {
            let mut log = self.log.lock();
            (log.next, log.previous_tag, log.epoch) = (end.lsn, end.tag, end.epoch);
            log.flushed = end.lsn.min(chain.flushed.max(start.lsn));
            log.sequence = self.layers.read().sequence;
        }
        if let Some(older) = older.filter(|_| superseded) {
            // Both slots are true, and a group was written when a newer one was durable: the host put the older one back in
            // its place. That is a slot lost like any other.
            self.replayed.damaged_slot = Some(older.index);
            self.generation.store(after_lost_slot(&newest.opened.checkpoint), Ordering::Relaxed);
        }
        self.opened_at = self.base_generation();
        self.correct_records()?;
        self.load_lowers()?;
        self.replayed.groups = keep as u64;
        self.replayed.dropped = (chain.groups.len() - keep) as u64 + u64::from(chain.torn);
        Ok(self)
    }

    /// Which images the volume lies over. They are given later.
    fn load_lowers(&mut self) -> Result<()> {
        let layered = self.header.incompatible & FEATURE_LAYERED != 0;
        let (first, end) = (Key::new(0, Kind::Lower, 0), Key::new(0, Kind::Orphan, 0));
        self.lowers = Lowers::of_records(layered, self.scan(first, end, MAX_LOWERS + 1)?)?;
        Ok(())
    }

    fn load_ranges(&self) -> Result<()> {
        let root = self.layers.read().system_root;
        let (first, end) = (Key::new(0, Kind::Range, 0), Key::new(0, Kind::Lower, 0));
        for (key, bytes) in tree::scan(self, root, first, end, usize::MAX)? {
            let range = range_of(key, &bytes)?;
            self.layers.write().ranges.set(range);
        }
        Ok(())
    }

    /// The operations of a group happen again.
    fn apply(&self, group: &Group, body: GroupBody) -> Result<()> {
        let mut released: Vec<BlockLoc> = Vec::new();
        let mut layers = self.layers.write();
        let layers = &mut *layers;
        for (addr, lsn) in group.ring_addresses(&body) {
            layers.ring_active.insert(addr, lsn);
        }
        for record in body.records {
            match record {
                LogRecord::Put(key, bytes) => {
                    if key.kind == Kind::Range {
                        layers.ranges.set(range_of(key, &bytes)?);
                    }
                    layers.active.set(key, Some(bytes));
                }
                LogRecord::Delete(key) => {
                    if key.kind == Kind::Range {
                        layers.ranges.remove(key.offset);
                    }
                    layers.active.set(key, None);
                }
                LogRecord::Patch(key, patch) => {
                    // One by one: of neighbours one may be free and another held back.
                    for loc in patch.sealed_blocks() {
                        self.alloc.mark_taken(self, Extent { addr: loc.addr, blocks: 1 })?;
                    }
                    let unwritten = patch.iter().filter(|(_, state)| *state == BlockState::Unwritten).count();
                    layers.unwritten_active += unwritten as i64;
                    layers.active.merge_patch(key, &patch, &mut |loc| released.push(loc));
                }
                LogRecord::NewEpoch { .. } => {}
            }
        }
        layers.next_id.fetch_max(body.next_id, Ordering::Relaxed);
        (layers.inodes, layers.inodes_logged) = (body.inodes, body.inodes);
        layers.sequence = body.sequence;
        self.release_logged(&mut layers.ring_active, &released)
    }
}

fn check_length(backend: &dyn Backend, header: &Header) -> Result<()> {
    let (expected_bytes, actual_bytes) = (header.total_blocks * BLOCK_SIZE_U64, backend.len_bytes()?);
    if actual_bytes < expected_bytes {
        return Err(Malformed::Truncated { expected_bytes, actual_bytes }.into());
    }
    Ok(())
}

/// The slots that authenticate, the newest last.
fn open_slots(backend: &dyn Backend, sealer: &Sealer) -> Result<Vec<OpenedSlot>> {
    let (mut slots, mut unreadable) = (Vec::new(), None);
    for index in [0, 1] {
        let bytes = match read_slot(backend, index) {
            Ok(bytes) => bytes,
            // A write that lost its power can leave a sector that cannot be read: as good as one that does not authenticate.
            Err(failure) => {
                unreadable = Some(failure);
                continue;
            }
        };
        match sealer.open_checkpoint(index, &bytes) {
            Ok(opened) => slots.push(OpenedSlot { index, opened, bytes }),
            Err(OpenFault::Auth) => {}
            Err(OpenFault::Corrupt(why)) => return Err(Corrupt::Checkpoint(why).into()),
        }
    }
    slots.sort_by_key(|slot| slot.opened.checkpoint.generation);
    match unreadable {
        Some(failure) if slots.is_empty() => Err(failure),
        _ => Ok(slots),
    }
}

fn damaged(slots: &[OpenedSlot]) -> Option<u8> {
    match slots {
        [only] => Some(1 - only.index),
        _ => None,
    }
}

fn load_epochs(backend: &dyn Backend, sealer: &Sealer, checkpoint: &Checkpoint, newest: bool) -> Result<()> {
    for (index, page) in (0u32..).zip(&checkpoint.epoch_pages) {
        let buf = backend.read_at(page.addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
        let mut bytes = alloc::boxed::Box::new([0; BLOCK_SIZE]);
        bytes.copy_from_slice(buf.bytes());
        sealer.open_epoch_page(index, &bytes, &page.tag, checkpoint.generation, newest)?;
    }
    Ok(())
}

pub(super) fn build(
    backend: Arc<dyn Backend>,
    sealer: Sealer,
    opened: &OpenedHeader,
    newest: &OpenedSlot,
    damaged_slot: Option<u8>,
    options: &StoreOptions,
    env: &Env,
) -> Result<Store> {
    let header = opened.header.clone();
    let geometry = match header.image.is_packed() {
        true => Geometry::packed(header.total_blocks),
        false => Geometry::new(header.total_blocks, header.ring_start.0, header.ring_blocks)?,
    };
    let ring = Ring { start: header.ring_start.0, blocks: header.ring_blocks };
    let mut checkpoint = newest.opened.checkpoint.clone();
    let bound = checkpoint.anchor;
    if options.abandon_anchor {
        // Every later checkpoint repeats what this one says; the first of the mount makes it durable.
        checkpoint.anchor = AnchorBinding::default();
    }
    let limits = Limits::new(options, &header, &geometry);
    let generation = checkpoint.generation;
    let made = options.corrections.as_ref().and_then(|corrections| corrections.allocation.as_ref());
    let (alloc_root, free_blocks) = match made {
        Some(made) => (made.root, geometry.free_blocks(&made.root)),
        None => (checkpoint.alloc_root, checkpoint.free_blocks),
    };
    let allocator = Allocator::new(geometry, alloc_root, free_blocks, generation)?;
    let node_size = usize::try_from(header.node_size_bytes).map_err(|_| Malformed::HeaderField("node size"))?;
    allocator.set_reserve(limits.reserve_blocks);
    allocator.set_trees(trees_of(checkpoint.nodes, node_size, checkpoint.inodes));
    let layers = Layers {
        unlogged: Layer::default(),
        sealing: None,
        active: Layer::default(),
        frozen: None,
        ring_active: BTreeMap::new(),
        ring_frozen: BTreeMap::new(),
        system_root: root_of(&checkpoint, SYSTEM_TREE),
        files_root: root_of(&checkpoint, FILES_TREE),
        ranges: Default::default(),
        next_id: AtomicU64::new(checkpoint.next_id),
        inodes: checkpoint.inodes,
        inodes_logged: checkpoint.inodes,
        unwritten_stored: checkpoint.unwritten_blocks,
        unwritten_frozen: 0,
        unwritten_active: 0,
        unwritten_unlogged: 0,
        sequence: 0,
        gave_back: false,
        oldest_change: None,
        last_change: env.clock.now(),
    };
    let log = Log {
        next: checkpoint.log_start,
        previous_tag: checkpoint.previous_tag,
        epoch: checkpoint.log_epoch,
        flushed: checkpoint.log_start,
        tail: checkpoint.log_start,
        sequence: 0,
    };
    Ok(Store {
        backend,
        clock: env.clock.clone(),
        workers: options.workers.clone(),
        sealer,
        alloc: allocator,
        geometry,
        ring,
        node_size,
        header_digest: *opened.verified.digest(),
        header,
        read_only: options.read_only,
        packed: None,
        lowers: Lowers::default(),
        lower_cache_bytes: 0,
        nodes: ByteCache::new(options.memory_bytes / 32 * 11),
        chunks: ByteCache::new(options.memory_bytes / 32),
        streams: Streams::new(options.memory_bytes),
        limits,
        layers: RwLock::new(layers),
        log: Mutex::new(log),
        generation: AtomicU64::new(last_generation(&checkpoint, damaged_slot)),
        opened_at: Generation(last_generation(&checkpoint, damaged_slot)),
        corrections: options.corrections.clone(),
        node_count: AtomicU64::new(checkpoint.nodes),
        slots: Mutex::new(Slots {
            newest_salt: newest.opened.salt,
            newest_bytes: newest.bytes.clone(),
            newest_log_start: checkpoint.log_start,
            newest: checkpoint,
        }),
        anchored: Mutex::new(None),
        commit_state: Mutex::default(),
        commit_done: Condvar::new(),
        latched: RwLock::new(None),
        epoch_started: AtomicBool::new(false),
        rotating: AtomicBool::new(newest.opened.checkpoint.rotation.is_some()),
        start: Mutex::new(Start::Accepted),
        last_flush: Mutex::new(env.clock.now()),
        unflushed: Unflushed::default(),
        flushing: Mutex::new(()),
        shares: Mutex::default(),
        share_given_back: Condvar::new(),
        page_epochs: Mutex::default(),
        reencryption: Mutex::default(),
        header_repair: Mutex::default(),
        replayed: Replayed { header_replica: opened.replica, damaged_slot, bound, ..Replayed::default() },
    })
}

/// Whether a checkpoint that was durable, for a group of the log says so, stood in the very slot that holds ours, which is
/// older: the host put ours back, and the checkpoint between the two is gone as well. Slots take turns, so generations
/// follow each other by odd steps: one lost slot is an odd distance, whatever numbers were left out. What only the older of
/// two lost checkpoints released may be in use again, so this state leads nowhere.
fn is_two_slots_back(ours: &Checkpoint, base: Generation) -> bool {
    base > ours.generation && slot_of(base) == slot_of(ours.generation)
}

/// The highest generation that may have been used. A damaged slot may have held the one after ours; the two that follow
/// are left out, so that no generation ever means two states and the next slot written is the damaged one.
fn last_generation(checkpoint: &Checkpoint, damaged_slot: Option<u8>) -> u64 {
    if damaged_slot.is_some() { after_lost_slot(checkpoint) } else { checkpoint.generation.0 }
}

fn after_lost_slot(checkpoint: &Checkpoint) -> u64 {
    checkpoint.generation.0 + 2
}

fn root_of(checkpoint: &Checkpoint, tree: u32) -> Option<Root> {
    let root = checkpoint.root(tree)?;
    Some(Root { reference: root.reference?, level: root.level })
}
