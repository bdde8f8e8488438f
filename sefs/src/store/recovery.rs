//! Opening a volume: header, slots, log, anchor.
//!
//! Nothing is written here. A read-write mount makes what was replayed durable with its first write (see `start_epoch`).
//!
//! *Security*
//! - The newest authentic slot counts. Its header digest has to be the header's, or the header was rolled back.
//! - Groups that were known flushed have to be there and true. The highest flushed LSN is looked for in the whole ring, behind
//!   a break too: a break below it is tampering, not a torn tail.
//! - Groups above it count only if they and every data block that they name authenticate. The first that does not ends the log.
//! - With an anchor, the chain from the slots has to lead through the state that the anchor holds.
//!
//! *Bounds*: everything read is bounded by the ring's size, which the header's checks bound; a group's length is checked
//! against the ring before anything is allocated for it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64};

use crate::allocator::{Allocator, Extent};
use crate::anchor::{Anchor, AnchorState};
use crate::backend::Backend;
use crate::cache::ByteCache;
use crate::env::Env;
use crate::error::{Corrupt, Error, Incompatible, Malformed, Result, RolledBack, Tampered};
use crate::format::{
    AnchorBinding, AnchorPolicy, BlockLoc, BlockState, Checkpoint, FILES_TREE, GROUP_PREFIX_LEN, GroupBody,
    GroupPrefix, HEADER_LEN, Header, Key, Kind, LogRecord, Patch, SYSTEM_TREE, VerifiedHeader,
};
use crate::keys::{self, OpenFault, VolumeKey};
use crate::sealer::Sealer;
use crate::store::checkpoint::{Slots, read_slot};
use crate::store::commit::Anchored;
use crate::store::correct::Corrections;
use crate::store::layer::Layer;
use crate::store::log::{Log, Ring, group_blocks};
use crate::store::read::range_of;
use crate::store::{Geometry, Layers, Limits, Store, Unflushed};
use crate::suite::Tag;
use crate::sync::{Condvar, Mutex, RwLock};
use crate::tree::{self, Root};
use crate::types::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, EpochId, Generation, Lsn};

/// How to open a store.
pub(crate) struct StoreOptions {
    pub(crate) read_only: bool,
    pub(crate) anchor: Option<Arc<dyn Anchor>>,
    pub(crate) abandon_anchor: bool,
    pub(crate) volume_id: Option<[u8; 16]>,
    pub(crate) memory_bytes: usize,
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
}

/// Ring blocks that the search behind a break reads at once.
const LOOK_ON_BLOCKS: u64 = 256;

/// The header as it stands there, not authenticated: only to find the key slots.
pub(crate) fn read_header(backend: &dyn Backend) -> Result<Header> {
    let mut first = None;
    for bytes in header_copies(backend)? {
        match Header::decode(&bytes) {
            Ok(header) => return Ok(header),
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    Err(first.unwrap_or(Malformed::NotSefs.into()))
}

/// The header's two copies: at the start, and where a replica would stand if the backend has the volume's length.
fn header_copies(backend: &dyn Backend) -> Result<Vec<Vec<u8>>> {
    let len = backend.len_bytes()?;
    let header_len = HEADER_LEN as u64;
    let mut copies = Vec::new();
    for offset in [Some(0), (len - len % BLOCK_SIZE_U64).checked_sub(header_len).filter(|offset| *offset > 0)] {
        if let Some(offset) = offset.filter(|offset| offset + header_len <= len) {
            copies.push(backend.read_at(offset, HEADER_LEN)?.bytes().to_vec());
        }
    }
    Ok(copies)
}

struct OpenedHeader {
    header: Header,
    verified: VerifiedHeader,
    replica: bool,
}

/// The copies that authenticate, the primary first; if none does, what is wrong with the primary.
fn open_headers(backend: &dyn Backend, key: &VolumeKey, env: &Env) -> Result<Vec<OpenedHeader>> {
    let (mut opened, mut first) = (Vec::new(), None);
    for (index, bytes) in header_copies(backend)?.iter().enumerate() {
        match key.verify_header(&*env.suite, bytes) {
            Ok((header, verified)) => opened.push(OpenedHeader { header, verified, replica: index > 0 }),
            Err(failure) => first = first.or(Some(failure)),
        }
    }
    if opened.is_empty() { Err(first.unwrap_or(Malformed::NotSefs.into())) } else { Ok(opened) }
}

/// A slot that authenticated.
struct OpenedSlot {
    index: u8,
    opened: keys::OpenedSlot,
    bytes: alloc::boxed::Box<[u8; BLOCK_SIZE]>,
}

impl Store {
    /// Opens a volume; see the module's header.
    pub(crate) fn open(backend: Arc<dyn Backend>, key: &VolumeKey, options: &StoreOptions, env: &Env) -> Result<Store> {
        let headers = open_headers(&*backend, key, env)?;
        let first = headers.first().ok_or(Malformed::NotSefs)?;
        if options.volume_id.is_some_and(|id| id != first.header.volume_id) {
            return Err(Incompatible::VolumeId.into());
        }
        let unknown = first.header.read_only_compatible;
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
        let header = headers.into_iter().find(|header| accepted.contains(header.verified.digest()));
        let header = header.ok_or(RolledBack::Header { generation })?;
        let anchored = bind_anchor(&newest.opened.checkpoint, options)?;
        load_epochs(&*backend, &sealer, &newest.opened.checkpoint)?;
        // Any other authentic slot is an older one that the host put back: nothing of it matters.
        let older = slots.last().filter(|older| older.opened.salt == newest.opened.checkpoint.previous_salt);
        if let Some(older) = older {
            // Epochs that only the older slot knows sealed groups that an anchored chain may have to lead through.
            load_epochs(&*backend, &sealer, &older.opened.checkpoint)?;
        }
        let store = build(backend, sealer, header, &newest, damaged_slot, options, env)?;
        store.correct_counts();
        store.replay(&newest, older, anchored)
    }

    /// Reads tombstones and the log, checks the anchor, and hands the store over.
    fn replay(mut self, newest: &OpenedSlot, older: Option<&OpenedSlot>, anchored: Option<Anchored>) -> Result<Store> {
        self.load_ranges()?;
        let start = chain_start(newest);
        let cut = self.corrections.as_ref().and_then(|corrections| corrections.log_end);
        let chain = self.scan_log(start, newest.opened.checkpoint.clean, cut)?;
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
        let mut end = start;
        for group in &chain.groups[..keep] {
            let body = self.read_group(group)?;
            end = ChainPoint { lsn: Lsn(group.lsn.0 + group.blocks), tag: group.tag, epoch: group.epoch };
            for record in &body.records {
                if let LogRecord::NewEpoch { id, .. } = record {
                    end.epoch = *id;
                }
            }
            self.apply(group, body)?;
        }
        {
            let mut log = self.log.lock();
            (log.next, log.previous_tag, log.epoch) = (end.lsn, end.tag, end.epoch);
            log.flushed = end.lsn.min(chain.flushed.max(start.lsn));
            log.sequence = self.layers.read().sequence;
        }
        self.correct_records()?;
        self.replayed.groups = keep as u64;
        self.replayed.dropped = (chain.groups.len() - keep) as u64 + u64::from(chain.torn);
        Ok(self)
    }

    fn load_ranges(&self) -> Result<()> {
        let root = self.layers.read().system_root;
        let (first, end) = (Key::new(0, Kind::Range, 0), Key::new(0, Kind::Orphan, 0));
        for (key, bytes) in tree::scan(self, root, first, end, usize::MAX)? {
            let range = range_of(key, &bytes)?;
            self.layers.write().ranges.set(range);
        }
        Ok(())
    }

    /// Follows the chain of groups from `start`, then looks for flushed groups behind its end.
    /// A break at `cut` is accepted.
    fn scan_log(&self, start: ChainPoint, clean: bool, cut: Option<Lsn>) -> Result<Chain> {
        let mut chain = Chain { groups: Vec::new(), flushed: start.lsn, torn: false };
        let mut at = start;
        while let Some((group, body)) = self.next_group(&at, start.lsn)? {
            chain.flushed = chain.flushed.max(body.flushed_lsn);
            at = ChainPoint { lsn: Lsn(group.lsn.0 + group.blocks), tag: group.tag, epoch: group.epoch };
            for record in body.records {
                if let LogRecord::NewEpoch { id, secret } = record {
                    self.sealer.add_epoch(id, secret, 0)?;
                    at.epoch = id;
                }
            }
            chain.groups.push(group);
        }
        chain.torn = self.torn_group(&at, start.lsn)?;
        if !clean {
            let behind = self.flushed_behind(at.lsn, Lsn(start.lsn.0 + self.ring.blocks))?;
            if behind.is_some_and(|flushed| flushed > at.lsn) {
                if cut != Some(at.lsn) {
                    return Err(Tampered::LogGroup { lsn: at.lsn }.into());
                }
                // What stands behind confirms everything before the cut.
                (chain.flushed, chain.torn) = (at.lsn, false);
            }
        }
        Ok(chain)
    }

    /// The group at a point of the chain, if an authentic one that continues the chain is there.
    fn next_group(&self, at: &ChainPoint, start: Lsn) -> Result<Option<(Group, GroupBody)>> {
        let room = self.ring.blocks - (at.lsn.0 - start.0);
        if room == 0 {
            return Ok(None);
        }
        let head = self.read_ring(at.lsn, 1)?;
        let Some(prefix) = prefix_of(&head) else { return Ok(None) };
        if (prefix.lsn, prefix.previous_tag, prefix.epoch) != (at.lsn, at.tag, at.epoch) {
            return Ok(None);
        }
        self.open_group(&prefix, room)
    }

    /// Whether a group that does not open stands where the chain ends: it was written, and not whole.
    fn torn_group(&self, at: &ChainPoint, start: Lsn) -> Result<bool> {
        if at.lsn.0 - start.0 >= self.ring.blocks {
            return Ok(false);
        }
        let prefix = prefix_of(&self.read_ring(at.lsn, 1)?);
        Ok(prefix.is_some_and(|prefix| (prefix.lsn, prefix.previous_tag) == (at.lsn, at.tag)))
    }

    /// Opens a group under what its prefix says. Whoever calls has compared that with what is expected.
    fn open_group(&self, prefix: &GroupPrefix, room: u64) -> Result<Option<(Group, GroupBody)>> {
        let Some((head_blocks, blocks)) = group_blocks(&self.ring, prefix) else { return Ok(None) };
        if blocks > room {
            return Ok(None);
        }
        let bytes = self.read_ring(prefix.lsn, head_blocks)?;
        // The prefix is taken from the same bytes that are opened: the host may have changed it since it was looked at.
        if prefix_of(&bytes).as_ref() != Some(prefix) {
            return Ok(None);
        }
        let sealed = &bytes[GROUP_PREFIX_LEN..GROUP_PREFIX_LEN + prefix.sealed_len as usize];
        let Some(plain) = self.sealer.open_group(prefix, sealed) else { return Ok(None) };
        let body = GroupBody::decode(&plain, prefix.data_blocks).map_err(|why| Corrupt::LogGroup(prefix.lsn, why))?;
        let group = Group {
            lsn: prefix.lsn,
            blocks,
            head_blocks,
            tag: prefix.tag,
            previous_tag: prefix.previous_tag,
            epoch: prefix.epoch,
        };
        Ok(Some((group, body)))
    }

    /// Reads a group of the chain once more; that it was there a moment ago is no proof that it still is.
    fn read_group(&self, group: &Group) -> Result<GroupBody> {
        let at = ChainPoint { lsn: group.lsn, tag: group.previous_tag, epoch: group.epoch };
        match self.next_group(&at, group.lsn)? {
            Some((again, body)) if again.tag == group.tag => Ok(body),
            _ => Err(Tampered::LogGroup { lsn: group.lsn }.into()),
        }
    }

    /// The highest flushed LSN that any authentic group in `[from, end)` tells of.
    fn flushed_behind(&self, from: Lsn, end: Lsn) -> Result<Option<Lsn>> {
        let mut found = None;
        let mut at = from.0;
        while at < end.0 {
            let count = LOOK_ON_BLOCKS.min(end.0 - at);
            let bytes = self.read_ring(Lsn(at), count)?;
            for (lsn, block) in (at..).zip(bytes.chunks_exact(BLOCK_SIZE)) {
                let Some(prefix) = prefix_of(block).filter(|prefix| prefix.lsn == Lsn(lsn)) else { continue };
                if let Some((_, body)) = self.open_group(&prefix, self.ring.blocks)? {
                    found = found.max(Some(body.flushed_lsn));
                }
            }
            at += count;
        }
        Ok(found)
    }

    /// How many groups count: all that were flushed, and of the others those whose data blocks authenticate, up to the
    /// first that has one which does not.
    fn whole_groups(&self, chain: &Chain) -> Result<usize> {
        for (index, group) in chain.groups.iter().enumerate() {
            if group.lsn < chain.flushed {
                continue;
            }
            let body = self.read_group(group)?;
            if !self.group_is_whole(group, &body)? {
                return Ok(index);
            }
        }
        Ok(chain.groups.len())
    }

    fn group_is_whole(&self, group: &Group, body: &GroupBody) -> Result<bool> {
        let in_ring: BTreeMap<BlockAddr, Lsn> = group.ring_addresses(body).collect();
        for record in &body.records {
            let LogRecord::Patch(_, patch) = record else { continue };
            for loc in stored_blocks(patch) {
                if !self.geometry.is_usable(Extent { addr: loc.addr, blocks: 1 }) {
                    return Err(Corrupt::Reference(loc.addr).into());
                }
                let addr = in_ring.get(&loc.addr).map_or(loc.addr, |lsn| self.ring.addr(*lsn));
                let sealed = self.backend.read_at(addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
                if self.verify_block(&loc, sealed.bytes()).is_err() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
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
                    for loc in stored_blocks(&patch) {
                        self.alloc.mark_taken(self, Extent { addr: loc.addr, blocks: 1 })?;
                    }
                    let unwritten = patch.iter().filter(|(_, state)| *state == BlockState::Unwritten).count();
                    layers.unwritten_active += unwritten as i64;
                    layers.active.merge_patch(key, &patch, &mut |loc| released.push(loc));
                }
                LogRecord::NewEpoch { .. } => {}
            }
        }
        layers.next_id.fetch_max(body.next_id, core::sync::atomic::Ordering::Relaxed);
        (layers.inodes, layers.inodes_logged) = (body.inodes, body.inodes);
        layers.sequence = body.sequence;
        for loc in released {
            layers.ring_active.remove(&loc.addr);
            self.alloc.release(Extent { addr: loc.addr, blocks: 1 })?;
        }
        Ok(())
    }

    /// The chain has to lead through the state that the anchor holds.
    fn verify_anchor(
        &self,
        anchored: &Anchored,
        newest: &OpenedSlot,
        older: Option<&OpenedSlot>,
        groups: &[Group],
    ) -> Result<()> {
        let start = chain_start(newest);
        let holds = |salt: &[u8; 32], lsn, tag: &Tag| self.digest_at(salt, lsn, tag) == anchored.state.digest;
        let through = |salt: &[u8; 32], start: ChainPoint, groups: &[Group]| {
            holds(salt, start.lsn, &start.tag)
                || groups.iter().any(|group| holds(salt, Lsn(group.lsn.0 + group.blocks), &group.tag))
        };
        if through(&newest.opened.salt, start, groups) {
            return Ok(());
        }
        // The slot was written and the anchor had not advanced yet: the anchor's state is on the way from the slot before.
        if let Some(older) = older {
            let from = chain_start(older);
            let chain = self.scan_log(from, true, None)?;
            let closed = &newest.opened.checkpoint;
            let meets = |lsn: Lsn, tag: &Tag| (lsn, tag) == (closed.log_start, &closed.previous_tag);
            let joins = meets(from.lsn, &from.tag)
                || chain.groups.iter().any(|group| meets(Lsn(group.lsn.0 + group.blocks), &group.tag));
            if joins && through(&older.opened.salt, from, &chain.groups) {
                return Ok(());
            }
        }
        Err(RolledBack::Anchor { counter: anchored.state.counter }.into())
    }
}

/// A place in the chain: what the next group has to carry.
#[derive(Clone, Copy)]
struct ChainPoint {
    lsn: Lsn,
    tag: Tag,
    epoch: EpochId,
}

/// An authentic group.
struct Group {
    lsn: Lsn,
    blocks: u64,
    head_blocks: u64,
    tag: Tag,
    previous_tag: Tag,
    epoch: EpochId,
}

struct Chain {
    groups: Vec<Group>,
    /// All groups below were flushed.
    flushed: Lsn,
    /// What follows the last group is one that was not written whole.
    torn: bool,
}

impl Group {
    /// The home addresses of the data blocks that stand in the ring behind the group's records, and where they stand.
    fn ring_addresses(&self, body: &GroupBody) -> impl Iterator<Item = (BlockAddr, Lsn)> {
        let first = self.lsn.0 + self.head_blocks;
        let addresses: Vec<BlockAddr> = body.data_addresses.clone();
        addresses.into_iter().zip(first..).map(|(addr, lsn)| (addr, Lsn(lsn)))
    }
}

fn prefix_of(block: &[u8]) -> Option<GroupPrefix> {
    GroupPrefix::decode(block.first_chunk::<GROUP_PREFIX_LEN>()?)
}

fn stored_blocks(patch: &Patch) -> impl Iterator<Item = BlockLoc> + '_ {
    patch.iter().filter_map(|(_, state)| match state {
        BlockState::Data(loc) => Some(loc),
        BlockState::Absent | BlockState::Unwritten => None,
    })
}

fn chain_start(slot: &OpenedSlot) -> ChainPoint {
    let checkpoint = &slot.opened.checkpoint;
    let tag = if checkpoint.epoch_start { slot.opened.tag } else { checkpoint.previous_tag };
    ChainPoint { lsn: checkpoint.log_start, tag, epoch: checkpoint.log_epoch }
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
    let mut slots = Vec::new();
    for index in [0, 1] {
        let bytes = read_slot(backend, index)?;
        match sealer.open_checkpoint(index, &bytes) {
            Ok(opened) => slots.push(OpenedSlot { index, opened, bytes }),
            Err(OpenFault::Auth) => {}
            Err(OpenFault::Corrupt(why)) => return Err(Corrupt::Checkpoint(why).into()),
        }
    }
    slots.sort_by_key(|slot| slot.opened.checkpoint.generation);
    Ok(slots)
}

fn damaged(slots: &[OpenedSlot]) -> Option<u8> {
    match slots {
        [only] => Some(1 - only.index),
        _ => None,
    }
}

fn bind_anchor(checkpoint: &Checkpoint, options: &StoreOptions) -> Result<Option<Anchored>> {
    let binding = &checkpoint.anchor;
    let anchor = match (&options.anchor, binding.policy) {
        (None, AnchorPolicy::None) => return Ok(None),
        (Some(_), AnchorPolicy::None) => return Err(Incompatible::NotAnchored.into()),
        (_, _) if options.abandon_anchor => return Ok(None),
        (None, _) => return Err(Incompatible::AnchorRequired.into()),
        (Some(anchor), _) => anchor.clone(),
    };
    if anchor.identity() != binding.identity || anchor.kind() != binding.kind {
        return Err(Incompatible::AnchorRequired.into());
    }
    let state: AnchorState = anchor.read()?;
    Ok(Some(Anchored { anchor, policy: binding.policy, state, slot_salt: [0; 32], confirmed: (Lsn(0), [0; 16]) }))
}

fn load_epochs(backend: &dyn Backend, sealer: &Sealer, checkpoint: &Checkpoint) -> Result<()> {
    for (index, page) in (0u32..).zip(&checkpoint.epoch_pages) {
        let buf = backend.read_at(page.addr.0 * BLOCK_SIZE_U64, BLOCK_SIZE)?;
        let mut bytes = alloc::boxed::Box::new([0; BLOCK_SIZE]);
        bytes.copy_from_slice(buf.bytes());
        sealer.open_epoch_page(index, &bytes, &page.tag)?;
    }
    Ok(())
}

fn build(
    backend: Arc<dyn Backend>,
    sealer: Sealer,
    opened: OpenedHeader,
    newest: &OpenedSlot,
    damaged_slot: Option<u8>,
    options: &StoreOptions,
    env: &Env,
) -> Result<Store> {
    let header = opened.header;
    let geometry = Geometry::new(header.total_blocks, header.ring_start.0, header.ring_blocks)?;
    let ring = Ring { start: header.ring_start.0, blocks: header.ring_blocks };
    let mut checkpoint = newest.opened.checkpoint.clone();
    if options.abandon_anchor {
        // Every later checkpoint repeats what this one says; the first of the mount makes it durable.
        checkpoint.anchor = AnchorBinding::default();
    }
    let limits = Limits::new(options.memory_bytes, &header, &geometry);
    let generation = checkpoint.generation;
    let made = options.corrections.as_ref().and_then(|corrections| corrections.allocation.as_ref());
    let (alloc_root, free_blocks) = match made {
        Some(made) => (made.root, geometry.free_blocks(&made.root)),
        None => (checkpoint.alloc_root, checkpoint.free_blocks),
    };
    let allocator = Allocator::new(geometry, alloc_root, free_blocks, generation)?;
    allocator.set_reserve(limits.reserve_blocks);
    let node_size = usize::try_from(header.node_size_bytes).map_err(|_| Malformed::HeaderField("node size"))?;
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
        sealer,
        alloc: allocator,
        geometry,
        ring,
        node_size,
        header_digest: *opened.verified.digest(),
        header,
        read_only: options.read_only,
        nodes: ByteCache::new(options.memory_bytes / 8 * 3),
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
        latched: Mutex::new(None),
        epoch_started: AtomicBool::new(false),
        starting: Mutex::new(false),
        last_flush: Mutex::new(env.clock.now()),
        unflushed: Unflushed::default(),
        flushing: Mutex::new(()),
        page_epochs: Mutex::default(),
        replayed: Replayed { header_replica: opened.replica, damaged_slot, ..Replayed::default() },
    })
}

/// The highest generation that may have been used. A damaged slot may have held the one after ours; the two that follow
/// are left out, so that no generation ever means two states and the next slot written is the damaged one.
fn last_generation(checkpoint: &Checkpoint, damaged_slot: Option<u8>) -> u64 {
    checkpoint.generation.0 + if damaged_slot.is_some() { 2 } else { 0 }
}

fn root_of(checkpoint: &Checkpoint, tree: u32) -> Option<Root> {
    let root = checkpoint.root(tree)?;
    Some(Root { reference: root.reference?, level: root.level })
}
