//! The space allocator: which addresses are free, and from when on.
//!
//! The stored pages (format.md, section 8) hold exactly the state of the newest checkpoint. Everything newer lies in
//! memory as sets of addresses:
//!
//! ```text
//! allocate ─► unnamed ──name (a log group)──►
//!             taken ──freeze──► frozen taken ─┐ write_pages     finish
//!                               built        ─┴─► bits set ─────────────► (in use)
//! release ─► released ──freeze─► frozen released ┐ write_pages    finish           next finish, no older pin
//!                                dropped        ─┴─► bits clear ─────► waiting(N) ─────────► free
//! ```
//! A view of a group is its bitmap joined with all the sets. Freezing, writing and finishing move addresses between
//! bitmap and sets but never change a view; so a view, once built, changes only when blocks are taken or become free.
//!
//! *Invariants*
//! 1. An address is handed out only if its bit is clear and it is in none of the sets.
//! 2. What checkpoint N releases becomes free only when N + 1 is durable and no reader is pinned before N. Both checkpoint
//!    slots therefore name whole states.
//! 3. A page goes to the home after the one that the newest checkpoint names; of three, the one that neither slot names.
//! 4. Data never break the last free quads while the reserve is not met: metadata find a place on a full volume.
//!
//! *Security*: pages are authenticated, yet their author may be hostile: counts are compared with what they count, sums
//! are checked, and no address outside [`Geometry::is_usable`] ever leaves or enters.
//!
//! *Locks*: one, over everything here; pages are read under it, therefore a [`PageIo`] never calls back. Pages are written
//! without it. Pins have their own, so that readers never wait for I/O.

mod bits;
mod free;
mod geometry;
mod growth;
mod intervals;
mod pages;
mod rebuild;
mod search;
mod sets;
#[cfg(test)]
mod tests;
mod write;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

use crate::error::Result;
use crate::format::AllocEntry;
use crate::suite::{Nonce, Tag};
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, BlockAddr, EpochId, GROUP_BLOCKS, Generation};

pub(crate) use geometry::{Geometry, QUAD_BLOCKS};
pub(crate) use growth::Trees;
pub(crate) use rebuild::{Made, is_made};
pub(crate) use sets::Pin;

use sets::Pins;

/// Blocks of broken quads that data leave to the epoch page: one for the new one, while the old one is held back. It would
/// break another quad with each checkpoint, and data take the rest of it.
pub(crate) const EPOCH_PAGE_BLOCKS: u64 = 2;

/// Opens and seals allocation pages, and moves them.
pub(crate) trait PageIo {
    /// The verified page that `entry` proves, from `addr`. `first_group` and `level` say which page, for errors.
    fn read_page(
        &self,
        level: u8,
        first_group: u64,
        addr: BlockAddr,
        entry: &AllocEntry,
    ) -> Result<Box<[u8; BLOCK_SIZE]>>;
    /// Seals the page and writes it to `addr`; returns its proof.
    /// `old` is the entry of the version that this one replaces.
    fn write_page(
        &self,
        level: u8,
        addr: BlockAddr,
        page: &[u8; BLOCK_SIZE],
        old: &AllocEntry,
    ) -> Result<(EpochId, Nonce, Tag)>;
}

/// Neighbouring blocks. One that the allocator hands out or takes back never leaves its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Extent {
    /// The first block.
    pub(crate) addr: BlockAddr,
    /// How many.
    pub(crate) blocks: u64,
}

impl Extent {
    /// `blocks` blocks from `addr` on.
    #[cfg(test)]
    pub(crate) fn new(addr: BlockAddr, blocks: u64) -> Extent {
        Extent { addr, blocks }
    }

    /// Blocks as runs, as few as their order allows; none leaves its group.
    pub(crate) fn runs(addrs: impl IntoIterator<Item = BlockAddr>) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for addr in addrs {
            match runs.last_mut() {
                Some(run) if run.end() == addr.0 && !addr.0.is_multiple_of(GROUP_BLOCKS) => run.blocks += 1,
                _ => runs.push(Extent { addr, blocks: 1 }),
            }
        }
        runs
    }

    fn start(self) -> u64 {
        self.addr.0
    }

    fn end(self) -> u64 {
        self.addr.0.saturating_add(self.blocks)
    }
}

/// Which checkpoint an allocation belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Interval {
    /// The next one.
    Active,
    /// The one that is being built.
    Frozen,
}

/// Pages that are to be sealed anew: those of the groups, and those above them, that an old epoch sealed.
pub(crate) struct Renewal<'a> {
    /// Groups whose pages are looked at.
    pub(crate) groups: Range<u64>,
    /// Which epochs are old.
    pub(crate) is_old: &'a dyn Fn(EpochId) -> bool,
    /// A page that does not open stays as it is; then this is set.
    pub(crate) left_one: Cell<bool>,
}

/// How much space there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    /// Blocks that can be allocated now, the reserve included.
    pub(crate) free_blocks: u64,
    /// Blocks that become free with the next checkpoints, or are being discarded.
    pub(crate) pending_blocks: u64,
    /// Free quads. Quads that became free in parts are counted when their page is next looked at.
    pub(crate) free_quads: u64,
    /// Blocks that plain data leave to others, whatever there is.
    pub(crate) reserve_blocks: u64,
    /// Blocks in use by data, and by what little else is not in the trees.
    pub(crate) data_blocks: u64,
    /// The trees of the newest checkpoint, if that was said.
    pub(crate) trees: Option<Trees>,
}

impl Counts {
    /// Blocks that the trees may still grow by for the data there are and so many blocks more.
    pub(crate) fn growth(&self, more_blocks: u64) -> u64 {
        self.trees.map_or(0, |trees| trees.growth(self.data_blocks.saturating_add(more_blocks)))
    }

    /// Blocks of all nodes written anew by two checkpoints in a row: what the first gives back comes back after the second.
    /// No more than twice the reserve, for checkpoints of large trees write a part of them only.
    fn rewriting(&self) -> u64 {
        self.trees.map_or(0, |trees| trees.node_blocks.min(self.reserve_blocks).saturating_mul(2))
    }

    /// Blocks that data can still have when so many of the free ones are promised.
    pub(crate) fn available_blocks(&self, promised_blocks: u64) -> u64 {
        let whole_quads = |blocks: u64| blocks.next_multiple_of(QUAD_BLOCKS);
        let kept = whole_quads(self.reserve_blocks) + whole_quads(self.growth(promised_blocks)) + EPOCH_PAGE_BLOCKS;
        growth::with_growth((self.free_blocks + self.pending_blocks).saturating_sub(kept + promised_blocks))
    }

    /// Free blocks whose quad is not free as a whole.
    pub(crate) fn broken_blocks(&self) -> u64 {
        self.free_blocks.saturating_sub(self.free_quads * QUAD_BLOCKS)
    }

    /// Free quads that are left when so many blocks more are taken for data while quads are scarce.
    pub(crate) fn quads_without(&self, blocks: u64) -> u64 {
        self.free_quads.saturating_sub(blocks.saturating_sub(self.broken_blocks()).div_ceil(QUAD_BLOCKS))
    }
}

/// The allocator of one volume. All methods take `&self`.
pub(crate) struct Allocator {
    geometry: Geometry,
    state: Mutex<free::State>,
    pins: Arc<Pins>,
}

impl Allocator {
    /// An allocator for the state that `root` names, which is checkpoint `generation` and durable. `free_blocks` is what
    /// the checkpoint says; a root that says otherwise is corrupt. At mkfs: an absent root, generation 0 and
    /// [`Geometry::free_blocks`] of that root.
    pub(crate) fn new(
        geometry: Geometry,
        root: AllocEntry,
        free_blocks: u64,
        generation: Generation,
    ) -> Result<Allocator> {
        let state = free::State::new(geometry, root, free_blocks)?;
        Ok(Allocator { geometry, state: Mutex::new(state), pins: Arc::new(Pins::new(generation)) })
    }

    /// Holds back what the newest checkpoint released, given the root that the other slot names (the checkpoint before).
    /// Without it a mount could overwrite what that slot needs before the next checkpoint is durable.
    pub(crate) fn hold_released(&self, io: &dyn PageIo, previous: &AllocEntry) -> Result<()> {
        let generation = self.pins.current();
        self.state.lock().hold_released(io, previous, generation)
    }

    /// Takes `blocks` blocks for data, in as few runs as possible. With `use_reserve` all of the reserve but a
    /// sixteenth may be used too. `NoSpace`, and every other error, changes nothing.
    pub(crate) fn allocate_data(&self, io: &dyn PageIo, blocks: u64, use_reserve: bool) -> Result<Vec<Extent>> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.allocate_data(io, blocks, use_reserve, Interval::Active)
    }

    /// As [`Allocator::allocate_data`], with the reserve, for blocks that the checkpoint under construction moves.
    pub(crate) fn allocate_moved(&self, io: &dyn PageIo, blocks: u64) -> Result<Vec<Extent>> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.allocate_data(io, blocks, true, Interval::Frozen)
    }

    /// Takes one node: `blocks_per_node` (a power of two from 4 to 64) neighbouring blocks at a multiple of it. May use all
    /// of the reserve.
    pub(crate) fn allocate_node(&self, io: &dyn PageIo, blocks_per_node: u64, interval: Interval) -> Result<BlockAddr> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.allocate_node(io, blocks_per_node, interval)
    }

    /// Takes one block for metadata, rather from a broken quad. May use all of the reserve.
    pub(crate) fn allocate_block(&self, io: &dyn PageIo, interval: Interval) -> Result<BlockAddr> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.allocate_block(io, interval)
    }

    /// Takes given blocks: replay of the log. Blocks that are not free, or reserved, are `Corrupt::Allocation`; those that
    /// [`Allocator::hold_released`] holds back are free for it: a checkpoint that is gone had set them free.
    pub(crate) fn mark_taken(&self, io: &dyn PageIo, extent: Extent) -> Result<()> {
        let mut state = self.state.lock();
        if state.take_held_back(extent)? { Ok(()) } else { state.mark_taken(io, extent) }
    }

    /// Gives back blocks that the active interval no longer needs. Blocks that are not in use are `Corrupt::Allocation`,
    /// now or at the latest when the checkpoint writes their page.
    pub(crate) fn release(&self, extent: Extent) -> Result<()> {
        self.state.lock().release(extent, Interval::Active)
    }

    /// As [`Allocator::release`], for what the checkpoint under construction no longer needs.
    pub(crate) fn release_frozen(&self, extent: Extent) -> Result<()> {
        self.state.lock().release(extent, Interval::Frozen)
    }

    /// A log group names blocks that [`Allocator::allocate_data`] gave out: from now on they belong to the interval, and the
    /// next freeze takes them along. Blocks that were not given out are `Corrupt::Allocation`.
    pub(crate) fn name(&self, extent: Extent) -> Result<()> {
        self.state.lock().name(extent)
    }

    /// Undoes an allocation that no log group ever named, with no write to it under way.
    pub(crate) fn give_back(&self, extent: Extent) -> Result<()> {
        self.state.lock().give_back(extent)
    }

    /// Begins a checkpoint: what was taken and released until now belongs to it.
    ///
    /// # Panics
    /// If a checkpoint is under construction already.
    pub(crate) fn freeze(&self) {
        self.state.lock().freeze();
    }

    /// Abandons the checkpoint under construction: what it took for itself is free, what it released is in use, and the
    /// interval is joined with the active one. Only as long as its slot's write has not been attempted.
    pub(crate) fn unfreeze(&self) -> Result<()> {
        self.state.lock().unfreeze()
    }

    /// Writes the pages of the checkpoint under construction, each to its next home, and returns the root's entry. After
    /// it nothing is allocated or released for this checkpoint.
    ///
    /// `renewal` names pages that are written though nothing in them changes.
    pub(crate) fn write_pages(&self, io: &dyn PageIo, renewal: Option<&Renewal<'_>>) -> Result<AllocEntry> {
        write::write_pages(&self.geometry, &self.state, io, renewal)
    }

    /// The checkpoint under construction is durable, as `generation`. Called after readers that pin from now on find the
    /// new root.
    pub(crate) fn finish(&self, generation: Generation) -> Result<()> {
        let mut state = self.state.lock();
        state.finish(generation)?;
        self.pins.advance(generation);
        state.ripen(&self.pins);
        Ok(())
    }

    /// Keeps all that the newest durable checkpoint and everything since name, until the pin is dropped. Taken before the
    /// reader looks at the root.
    pub(crate) fn pin(&self) -> Pin {
        Pins::pin(&self.pins)
    }

    /// Readers need nothing of checkpoints before this one, which is durable.
    pub(crate) fn oldest_read(&self) -> Generation {
        self.pins.oldest_needed()
    }

    /// Sets what plain data leave to others, in blocks.
    pub(crate) fn set_reserve(&self, blocks: u64) {
        self.state.lock().reserve_blocks = blocks;
    }

    /// Says what the trees have, from which follows what they may grow by. Without it they do not grow.
    pub(crate) fn set_trees(&self, trees: Trees) {
        self.state.lock().trees = Some(trees);
    }

    /// How much space there is.
    pub(crate) fn counts(&self) -> Counts {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.counts()
    }

    /// As [`Allocator::counts`], with every free quad counted, for which pages may have to be read.
    pub(crate) fn exact_counts(&self, io: &dyn PageIo) -> Result<Counts> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.know_quads(io)?;
        state.resolve_all(io)?;
        Ok(state.counts())
    }

    /// Takes out runs of at least 1 MiB that became free, for the caller to discard and then to report with
    /// [`Allocator::discard_done`], done or not. At least 64 MiB of such runs stay as they are.
    pub(crate) fn discardable(&self) -> Vec<Extent> {
        let mut state = self.state.lock();
        state.ripen(&self.pins);
        state.discardable()
    }

    /// Makes runs from [`Allocator::discardable`] free again.
    pub(crate) fn discard_done(&self, runs: &[Extent]) -> Result<()> {
        self.state.lock().discard_done(runs)
    }

    /// The runs of blocks of a group that are in use by the newest state, reserved areas not counted: for checking.
    #[cfg(test)]
    pub(crate) fn in_use(&self, io: &dyn PageIo, group: u64) -> Result<Vec<Extent>> {
        self.state.lock().in_use(io, group)
    }
}
