//! Room: when an operation may begin, and what is set aside for it until it has happened.
//!
//! What was accepted must not fail later for lack of space: the pages of an operation need addresses when they are sealed,
//! its records room in a log group, and their merge new tree nodes. So each operation says what it needs at most, and gets
//! a share of the room, or is refused before anything of it exists. A share is held until the operation is in the layers,
//! where its pages and entries count by themselves, or is dropped.
//!
//! ```text
//! free blocks │ broken quads: for data │ whole quads: for data and nodes │ growth of the leaves │ the reserve: for nodes │
//! ```
//! *Invariants*
//! 1. Pages and shares fit into the blocks that their kind may take, and what they leave has whole quads for merging
//!    everything that lies over the trees.
//! 2. What is unlogged and all shares fit into one group, and one group into the empty ring.
//! 3. Whoever waits here holds no share, and whoever holds one waits for nobody who may wait here.

use crate::allocator::{Counts, EPOCH_PAGE_BLOCKS, QUAD_BLOCKS};
use crate::error::{Posix, Result};
use crate::format::{RECORD_HEAD_LEN, XATTR_PART_LEN};
use crate::store::layer::Layer;
use crate::store::log::group_estimate;
use crate::store::tx::MAX_PREALLOCATE_BLOCKS;
use crate::store::{Store, Tx};
use crate::types::CHUNK_BLOCKS;

/// What an operation is going to need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Records only, a few small ones.
    Metadata,
    /// Records, and so many new data blocks.
    Data {
        /// Blocks, at most what one operation may write.
        blocks: u64,
    },
    /// Records that promise so many blocks.
    Promise {
        /// Blocks, at most what one operation may preallocate.
        blocks: u64,
    },
    /// Records that give space back in the end: these may use the reserve.
    Release,
    /// As `Release`, with blocks whose other part stays: these may use the reserve too.
    Edges {
        /// Blocks.
        blocks: u64,
    },
    /// Data of which fallocate(2) has promised a part: that part's space was set aside then. If it is all of it, these may use
    /// the reserve, otherwise half of it.
    Promised {
        /// Blocks, at most what one operation may write.
        blocks: u64,
        /// Those of them that were promised.
        promised: u64,
    },
    /// The kernel's writeback of pages that were accepted long ago: these may use half of the reserve.
    Writeback {
        /// Blocks.
        blocks: u64,
    },
}

/// What one operation takes at most, or several together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Share {
    /// Data blocks that have no address yet.
    blocks: u64,
    log_bytes: usize,
    entries: u64,
}

/// All shares that are held.
#[derive(Default)]
pub(super) struct Shares {
    holders: u64,
    held: Share,
}

/// An operation's share; dropping it gives back what it still has.
pub(super) struct Room<'a> {
    store: &'a Store,
    share: Share,
}

/// What there is too little of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shortage {
    /// Room in the next group.
    Log,
    /// Blocks.
    Space,
    /// Whole quads for merging what waits.
    Merge,
}

/// What stands in the layers. What is being cut counts as unlogged until its group is written: it may be put back.
#[derive(Clone, Copy)]
struct Standing {
    unlogged_bytes: usize,
    unlogged_pages: u64,
    /// Pages that have no address yet.
    pages: u64,
    unwritten: u64,
    entries: u64,
    record_bytes: usize,
}

/// Checkpoints that a full volume may need before blocks that were given back can be used.
const MAX_SPACE_CHECKPOINTS: usize = 3;
/// Entries of an operation of a few records.
const FEW_ENTRIES: u64 = 8;
/// Log bytes of an operation of a few records: the longest names and a symlink's target are among them.
const FEW_BYTES: usize = 12 << 10;
/// Log bytes of a block's record, and of a chunk's beside its blocks, at most.
const BLOCK_BYTES: usize = 80;
const CHUNK_BYTES: usize = 64;
/// Records of a merge that make one node more, at least.
const NODE_BYTES: usize = 8 << 10;
/// Nodes of a merge that no entry accounts for: the way up, and the epoch table.
const MERGE_BASE_NODES: u64 = 6;

impl Need {
    pub(super) fn share(self) -> Share {
        let few = Share { blocks: 0, log_bytes: FEW_BYTES, entries: FEW_ENTRIES };
        let count = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX);
        match self {
            Need::Metadata | Need::Release => few,
            Need::Data { blocks }
            | Need::Writeback { blocks }
            | Need::Edges { blocks }
            | Need::Promised { blocks, .. } => {
                let chunks = blocks / CHUNK_BLOCKS + 3;
                let log_bytes = few.log_bytes + count(blocks) * BLOCK_BYTES + count(chunks) * CHUNK_BYTES;
                Share { blocks, log_bytes, entries: few.entries + chunks }
            }
            Need::Promise { blocks } => {
                // They may be scattered over all chunks that one operation reaches.
                let chunks = blocks.min(MAX_PREALLOCATE_BLOCKS / CHUNK_BLOCKS + 1);
                Share { blocks, log_bytes: few.log_bytes + count(chunks) * CHUNK_BYTES, entries: few.entries + chunks }
            }
        }
    }
}

impl Need {
    /// Blocks that nothing was set aside for yet.
    fn unpromised_blocks(self) -> u64 {
        match self {
            Need::Metadata | Need::Release => 0,
            Need::Promised { blocks, promised } => blocks.saturating_sub(promised),
            Need::Data { blocks } | Need::Promise { blocks } | Need::Edges { blocks } | Need::Writeback { blocks } => {
                blocks
            }
        }
    }
}

impl Share {
    /// With long values beside the small ones.
    pub(super) fn with_values(self, value_bytes: usize) -> Share {
        let parts = value_bytes.div_ceil(XATTR_PART_LEN);
        Share {
            log_bytes: self.log_bytes + value_bytes + parts * RECORD_HEAD_LEN,
            entries: self.entries + parts as u64,
            ..self
        }
    }

    #[cfg(test)]
    pub(super) fn log_bytes(self) -> usize {
        self.log_bytes
    }

    fn plus(self, other: Share) -> Share {
        Share {
            blocks: self.blocks + other.blocks,
            log_bytes: self.log_bytes + other.log_bytes,
            entries: self.entries + other.entries,
        }
    }

    fn minus(self, other: Share) -> Share {
        Share {
            blocks: self.blocks - other.blocks,
            log_bytes: self.log_bytes - other.log_bytes,
            entries: self.entries - other.entries,
        }
    }
}

impl Store {
    /// Lets an operation begin, after the work that has to come before it.
    pub(crate) fn begin(&self, need: Need) -> Result<Tx<'_>> {
        self.begin_with(need, 0)
    }

    /// As `begin`, for an operation that also puts long values, of so many bytes together.
    pub(crate) fn begin_with(&self, need: Need, value_bytes: usize) -> Result<Tx<'_>> {
        if self.read_only {
            return Err(Posix::ReadOnly.into());
        }
        self.check_latch()?;
        self.start_epoch()?;
        self.slow_down()?;
        Ok(Tx::new(self, self.make_room(need, value_bytes)?))
    }

    /// Sets aside what an operation needs, after checkpoints if only they can make room. `NoSpace` only if they cannot.
    pub(super) fn make_room(&self, need: Need, value_bytes: usize) -> Result<Room<'_>> {
        let share = need.share().with_values(value_bytes);
        let mut checkpoints = 0;
        loop {
            let mut shares = self.shares.lock();
            let Some(shortage) = self.shortage(need, share, shares.held)? else {
                shares.holders += 1;
                shares.held = shares.held.plus(share);
                return Ok(Room { store: self, share });
            };
            let others = shares.holders > 0 && shortage != Shortage::Space;
            let spent = checkpoints == MAX_SPACE_CHECKPOINTS || !self.checkpoint_would_help();
            if others && (shortage == Shortage::Log || spent) && self.shortage(need, share, Share::default())?.is_none()
            {
                drop(self.share_given_back.wait(shares));
                continue;
            }
            drop(shares);
            match shortage {
                Shortage::Log if self.nothing_to_log() => return Err(Posix::NoSpace.into()),
                Shortage::Log => self.cut_group()?,
                Shortage::Space | Shortage::Merge if spent => return Err(Posix::NoSpace.into()),
                Shortage::Space | Shortage::Merge => {
                    checkpoints += 1;
                    if shortage == Shortage::Space {
                        self.reclaim_ranges(usize::MAX)?;
                    }
                    self.cut_group()?;
                    self.checkpoint()?;
                }
            }
        }
    }

    /// What an operation lacks beside those that hold these shares.
    fn shortage(&self, need: Need, share: Share, held: Share) -> Result<Option<Shortage>> {
        let standing = self.standing();
        let all = held.plus(share);
        let bytes = standing.unlogged_bytes + all.log_bytes;
        let group = group_estimate(bytes, standing.unlogged_pages, self.limits.ring_pages);
        if group > self.ring.blocks {
            return Ok(Some(Shortage::Log));
        }
        let mut counts = self.alloc.counts();
        let kept = self.reserve_quads() + counts.growth(standing.pages + all.blocks).div_ceil(QUAD_BLOCKS);
        if counts.free_quads < kept * 2 || !self.can_merge(need, &counts, &standing, all) {
            counts = self.alloc.exact_counts(self)?;
        }
        if !self.has_space(need, &counts, &standing, held.blocks) {
            return Ok(Some(Shortage::Space));
        }
        Ok((!self.can_merge(need, &counts, &standing, all)).then_some(Shortage::Merge))
    }

    fn nothing_to_log(&self) -> bool {
        let layers = self.layers.read();
        layers.unlogged.is_empty() && layers.sealing.is_none()
    }

    fn standing(&self) -> Standing {
        let layers = self.layers.read();
        let sealing = layers.sealing.as_deref();
        let pages = layers.unlogged.pages() + sealing.map_or(0, Layer::pages);
        Standing {
            unlogged_bytes: layers.unlogged.log_bytes() + sealing.map_or(0, Layer::log_bytes),
            unlogged_pages: pages,
            pages,
            unwritten: layers.unwritten(),
            entries: layers.stack().map(|layer| layer.len() as u64).sum(),
            record_bytes: layers.stack().map(|layer| layer.log_bytes()).sum(),
        }
    }

    fn reserve_quads(&self) -> u64 {
        self.limits.reserve_blocks / QUAD_BLOCKS
    }

    /// Whether there are blocks for an operation. Data may have all blocks of broken quads, and whole quads down to a
    /// floor: that of their kind, and what the trees may still grow by.
    fn has_space(&self, need: Need, counts: &Counts, standing: &Standing, held_blocks: u64) -> bool {
        let reserve = self.reserve_quads();
        let taken = standing.pages + held_blocks;
        let growth = |new: u64| counts.growth(taken + standing.unwritten + new);
        let broken = counts.broken_blocks().saturating_sub(EPOCH_PAGE_BLOCKS);
        let above = |floor: u64| broken + counts.free_quads.saturating_sub(floor) * QUAD_BLOCKS;
        match need {
            Need::Release => true,
            Need::Edges { blocks } => above(reserve / 16) >= taken + blocks,
            Need::Promised { blocks, promised } if promised >= blocks => above(reserve / 16) >= taken + blocks,
            Need::Promised { .. } | Need::Writeback { .. } => {
                let new = need.unpromised_blocks();
                let floor = reserve / 2 + growth(new).div_ceil(QUAD_BLOCKS);
                counts.free_quads >= reserve / 4 && above(floor) >= taken + standing.unwritten + new
            }
            Need::Metadata => {
                // Of the growth they leave a part: where data had taken all but the reserve before it was kept, names go on.
                let left = growth(0).div_ceil(QUAD_BLOCKS).min(reserve / 4);
                counts.quads_without(taken + standing.unwritten) >= reserve / 2 + left
            }
            Need::Data { blocks } | Need::Promise { blocks } => {
                let floor = reserve + growth(blocks).div_ceil(QUAD_BLOCKS);
                counts.free_quads >= reserve / 2 && above(floor) >= taken + standing.unwritten + blocks
            }
        }
    }

    /// Whether all that waits can be merged together with what these shares will bring. Half of the quads count: what a
    /// checkpoint releases comes back only with the next one. What gives space back may have all of them, and is tried in
    /// any case if it is merged by itself.
    fn can_merge(&self, need: Need, counts: &Counts, standing: &Standing, shares: Share) -> bool {
        // Names leave room for a write: a volume that is full of them can still be written.
        let shares = if need == Need::Metadata { shares.plus(Need::Data { blocks: 1 }.share()) } else { shares };
        let entries = standing.entries + shares.entries;
        let bytes = standing.record_bytes + shares.log_bytes;
        // A leaf and a neighbour for each entry or each node there is, and splits.
        let splits = (bytes / NODE_BYTES) as u64;
        let nodes = (entries * 2).min(self.nodes_in_use()) + splits + MERGE_BASE_NODES;
        let quads = counts.quads_without(standing.pages + shares.blocks) / self.node_quads();
        match need {
            Need::Release | Need::Edges { .. } | Need::Promised { .. } => standing.entries == 0 || nodes <= quads,
            _ => nodes <= quads / 2,
        }
    }

    /// Whether the merge of what waits should come before a merge that does more.
    pub(super) fn merge_is_tight(&self) -> bool {
        let standing = self.standing();
        let held = self.shares.lock().held.plus(Need::Metadata.share());
        !self.can_merge(Need::Metadata, &self.alloc.counts(), &standing, held)
    }

    fn node_quads(&self) -> u64 {
        (self.node_size as u64 / crate::types::BLOCK_SIZE_U64 / QUAD_BLOCKS).max(1)
    }

    fn checkpoint_would_help(&self) -> bool {
        let layers = self.layers.read();
        layers.stack().any(|layer| !layer.is_empty()) || self.alloc.counts().pending_blocks > 0
    }
}

impl Room<'_> {
    /// Does what gives blocks of the share their addresses. Nobody looks at what is free while they count twice, or not
    /// at all.
    pub(super) fn spend<T>(&mut self, blocks: u64, allocate: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut shares = self.store.shares.lock();
        let done = allocate()?;
        debug_assert!(blocks <= self.share.blocks, "an operation takes more blocks than it said");
        let spent = Share { blocks: blocks.min(self.share.blocks), ..Share::default() };
        self.share = self.share.minus(spent);
        shares.held = shares.held.minus(spent);
        Ok(done)
    }

    /// Whether what an operation brings is within its share.
    pub(super) fn covers(&self, log_bytes: usize, pages: u64) -> bool {
        log_bytes <= self.share.log_bytes && pages <= self.share.blocks
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut shares = self.store.shares.lock();
        shares.holders -= 1;
        shares.held = shares.held.minus(self.share);
        drop(shares);
        self.store.share_given_back.notify_all();
    }
}
