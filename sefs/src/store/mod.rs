//! The store: records and data blocks of one volume, with transactions, a log and checkpoints.
//!
//! ```text
//! Tx::finish ─► unlogged ─(cut: seal, log group)─► active ─(freeze)─► frozen ─(merge)─► trees, slot
//! ```
//! *Locks*, in the order in which they are taken: re-encryption, start, slots, anchored, log, shares, layers, the allocator's,
//! flushing, latched, the sealer's own. Nothing is taken under the cache's, the streams', `commit_state`, `header_repair`, `page_epochs` and
//! `last_flush`. Neither I/O nor cryptography happens under the layers' lock, which readers need.
//!
//! *Security*: everything read from the backend is authenticated before it is used, under an expectation that comes from
//! what was authenticated before. A failed write or flush latches the volume read-only.

mod binding;
mod changes;
mod checkpoint;
mod commit;
mod correct;
mod counted;
mod fetch;
mod format;
mod header_change;
mod info;
mod layer;
mod log;
mod lower;
mod packed;
mod ranges;
mod read;
mod reclaim;
mod recovery;
mod reencrypt;
mod reseal;
mod room;
mod rotation;
mod runs;
#[cfg(test)]
mod tests;
mod tx;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::allocator::Allocator;
use crate::backend::Backend;
use crate::cache::ByteCache;
use crate::env::Clock;
#[cfg(test)]
use crate::env::Env;
use crate::error::Result;
use crate::format::{AllocEntry, Chunk, Header, Key, Kind, MAX_EPOCHS};
use crate::node::Node;
use crate::sealer::Sealer;
use crate::suite::{Nonce, Suite};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::tree::Root;
use crate::types::{BLOCK_SIZE, BlockAddr, EpochId, Generation, Lsn, Timestamp};
use crate::workers::Workers;

pub(crate) use crate::allocator::Geometry;
pub use binding::AnchorStanding;
pub(crate) use checkpoint::read_slot;
pub(crate) use correct::{Corrections, GivenUp, NodeName};
pub(crate) use format::StoreFormat;
pub use info::{EpochInfo, Notice, Reencrypting, VolumeInfo};
pub use lower::Lower;
pub(crate) use lower::Lowers;
pub(crate) use packed::{Admitted, PACKED_IDS_END, PackedFacts, admit, claims_to_be_packed, root_digest};
pub(crate) use read::{Extent, chunk_key, record_error};
pub use reclaim::WorkDone;
pub(crate) use recovery::{Replayed, StoreOptions, find_replica, is_key_of_header, read_header, read_headers};
pub(crate) use room::Need;
pub use rotation::{Rotating, RotationStep};
pub use runs::DataRun;
pub(crate) use tx::{MAX_PREALLOCATE_BLOCKS, Tx};

use checkpoint::{Occasion, Slots};
use commit::{Anchored, CommitState};
use fetch::Streams;
use layer::Layer;
use log::{Log, MAX_RING_PAGES, Ring};
use ranges::Ranges;
use recovery::HeaderRepair;
use reencrypt::Reencryption;
use room::Shares;

/// Where the two checkpoint slots stand.
const SLOT_ADDRS: [BlockAddr; 2] = [BlockAddr(16), BlockAddr(17)];

/// The smallest key of the tree of files; the system tree has all below.
const FILES_FROM: Key = Key::new(1, Kind::Inode, 0);

/// One open volume's records and data.
pub(crate) struct Store {
    backend: Arc<dyn Backend>,
    clock: Arc<dyn Clock>,
    workers: Arc<dyn Workers>,
    sealer: Sealer,
    alloc: Allocator,
    geometry: Geometry,
    ring: Ring,
    node_size: usize,
    header: Header,
    header_digest: [u8; 32],
    read_only: bool,
    /// Of a packed image what only such a one has.
    packed: Option<PackedFacts>,
    lowers: Lowers,
    lower_cache_bytes: usize,
    limits: Limits,
    nodes: ByteCache<(u64, Nonce), Node>,
    /// Decoded chunks, by the root of the tree that they were found in.
    chunks: ByteCache<(Nonce, Key), Chunk>,
    streams: Streams,
    layers: RwLock<Layers>,
    log: Mutex<Log>,
    slots: Mutex<Slots>,
    anchored: Mutex<Option<Anchored>>,
    commit_state: Mutex<CommitState>,
    commit_done: Condvar,
    /// Why nothing may be written any more. Whoever writes to the backend holds it shared until the write is done, so that no
    /// write begins, or is still under way, once the latch is set.
    latched: RwLock<Option<String>>,
    epoch_started: AtomicBool,
    /// The newest checkpoint names an epoch of the volume key before this one.
    rotating: AtomicBool,
    start: Mutex<Start>,
    last_flush: Mutex<Timestamp>,
    generation: AtomicU64,
    node_count: AtomicU64,
    unflushed: Unflushed,
    flushing: Mutex<()>,
    shares: Mutex<Shares>,
    share_given_back: Condvar,
    /// Live allocation pages that came and went while a checkpoint writes them, by epoch.
    page_epochs: Mutex<BTreeMap<EpochId, i64>>,
    reencryption: Mutex<Reencryption>,
    replayed: Replayed,
    /// Copies of the header that were damaged when the volume was opened.
    header_repair: Mutex<HeaderRepair>,
    /// What a repair lays over the volume.
    corrections: Option<Arc<Corrections>>,
    /// The generation that the first checkpoint of the mount follows.
    opened_at: Generation,
}

/// How far a mount's start has come. A checkpoint that was refused, by a host without space say, is tried again; what was done
/// before it is not: the slot that was damaged may hold the newest checkpoint by then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Accepted,
    EpochDrawn,
    EpochNamed,
    Done,
}

/// Bounds on what a mount holds in memory or leaves undone.
struct Limits {
    unlogged_bytes: usize,
    unlogged_pages: u64,
    unmerged_bytes: usize,
    unflushed_bytes: u64,
    reserve_blocks: u64,
    ring_pages: u64,
    ranges: usize,
    epochs: u32,
}

/// What lies over the trees, and the trees' roots: what a lookup has to see in one state.
struct Layers {
    unlogged: Layer,
    sealing: Option<Arc<Layer>>,
    active: Layer,
    frozen: Option<Arc<Layer>>,
    ring_active: BTreeMap<BlockAddr, Lsn>,
    ring_frozen: BTreeMap<BlockAddr, Lsn>,
    system_root: Option<Root>,
    files_root: Option<Root>,
    ranges: Ranges,
    next_id: AtomicU64,
    inodes: u64,
    inodes_logged: u64,
    unwritten_stored: u64,
    unwritten_frozen: i64,
    unwritten_active: i64,
    unwritten_unlogged: i64,
    sequence: u64,
    /// Something was cleared or dropped, and how many blocks that gave back is not known yet.
    gave_back: bool,
    oldest_change: Option<Timestamp>,
    last_change: Timestamp,
}

impl Layers {
    /// The layers, newest first.
    fn stack(&self) -> impl Iterator<Item = &Layer> {
        let newest = core::iter::once(&self.unlogged).chain(self.sealing.as_deref());
        newest.chain(core::iter::once(&self.active)).chain(self.frozen.as_deref())
    }

    fn unwritten(&self) -> u64 {
        self.unwritten_stored
            .saturating_add_signed(self.unwritten_frozen + self.unwritten_active + self.unwritten_unlogged)
    }

    fn peek_id(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }
}

/// Bytes written since the last flush.
#[derive(Default)]
struct Unflushed(AtomicU64);

impl Unflushed {
    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Limits {
    /// Divides a memory budget, within what the volume's geometry allows.
    fn new(options: &StoreOptions, header: &Header, geometry: &Geometry) -> Limits {
        let memory_bytes = options.memory_bytes;
        let ring_bytes = usize::try_from(header.ring_blocks).map_or(usize::MAX, |blocks| blocks * BLOCK_SIZE);
        let max_unmerged = usize::try_from(header.max_unmerged_bytes).unwrap_or(usize::MAX);
        let unmerged_bytes = (memory_bytes / 8).min(max_unmerged / 2).max(64 << 10);
        let data = data_blocks(geometry);
        Limits {
            unlogged_bytes: (unmerged_bytes / 2).min(ring_bytes / 8).min(512 << 10),
            unlogged_pages: ((memory_bytes / 16 * 3 / BLOCK_SIZE) as u64).min(4096).min((data / 16).max(16)),
            unmerged_bytes,
            unflushed_bytes: 32 << 20,
            reserve_blocks: (data / 50).max((data / 8).clamp(256, 4096)),
            ring_pages: (header.ring_blocks / 16).min(MAX_RING_PAGES),
            ranges: 1024,
            epochs: options.max_epochs.clamp(MIN_EPOCHS, MAX_EPOCHS),
        }
    }
}

/// With fewer epochs than this, a mount's own would be among those to be re-encrypted.
const MIN_EPOCHS: u32 = 8;

/// Blocks of a volume that are not reserved areas.
fn data_blocks(geometry: &Geometry) -> u64 {
    geometry.free_blocks(&AllocEntry::default())
}

impl Store {
    /// A number that no inode or object had before.
    pub(crate) fn new_id(&self) -> u64 {
        self.layers.read().new_id()
    }

    pub(crate) fn suite(&self) -> &dyn Suite {
        &**self.sealer.suite()
    }

    fn epoch_count(&self) -> u32 {
        self.sealer.listed_epochs()
    }

    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// The generation of the newest durable checkpoint.
    fn base_generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    fn next_generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire) + 1)
    }

    fn set_generation(&self, generation: Generation, nodes: u64) {
        self.generation.store(generation.0, Ordering::Release);
        self.node_count.store(nodes, Ordering::Relaxed);
    }

    fn nodes_in_use(&self) -> u64 {
        self.node_count.load(Ordering::Relaxed)
    }

    /// Before the first write of a mount: a new epoch, named by a durable checkpoint that closes the old log.
    ///
    /// It is written twice, so that both slots know the epoch: then either of them and the log lead to the same state.
    fn start_epoch(&self) -> Result<()> {
        if self.epoch_started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut start = self.start.lock();
        if *start == Start::Accepted {
            self.lead_to_new_key()?;
            // The anchor first moves to the state that was accepted: two crashes in a row must not leave it behind both slots.
            self.anchor_accepted()?;
            self.give_up_damaged_slot()?;
            self.settle_header();
            let epoch = self.sealer.new_epoch().map_err(|failure| self.latch(failure.into()))?;
            self.log.lock().epoch = epoch;
            *start = Start::EpochDrawn;
        }
        if *start == Start::EpochDrawn {
            self.checkpoint_for(Occasion::EpochStart)?;
            *start = Start::EpochNamed;
        }
        if *start == Start::Done {
            return Ok(());
        }
        self.checkpoint_for(Occasion::Ordinary)?;
        self.repair_headers()?;
        *start = Start::Done;
        self.epoch_started.store(true, Ordering::Release);
        drop(start);
        self.pay_for_epoch();
        self.check_latch()
    }

    /// Ends the mount: everything committed and merged, nothing left in the log.
    pub(crate) fn close(&self) -> Result<()> {
        if self.read_only || !self.epoch_started.load(Ordering::Acquire) {
            return Ok(());
        }
        self.commit()?;
        self.reclaim_ranges(usize::MAX)?;
        self.commit()?;
        self.checkpoint_or_slice()?;
        self.checkpoint_for(Occasion::Close)
    }
}
