//! What is free now: views of groups, the counters, and the steps that change both.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use lru::LruCache;

#[cfg(test)]
use super::bits::set_runs;
use super::bits::{View, within_group};
use super::geometry::{Geometry, QUAD_BLOCKS};
use super::intervals::IntervalSet;
use super::pages::{self, Pages};
use super::search::Cursors;
use super::sets::Sets;
use super::write::freed_between;
use super::{Counts, Extent, PageIo, Trees};
use crate::error::{Corrupt, Error, Result};
use crate::format::AllocEntry;
use crate::types::{BlockAddr, GROUP_BLOCKS, Generation};

const CACHED_VIEWS: NonZeroUsize = NonZeroUsize::new(24).unwrap();
/// Groups whose exact counts are remembered (1.5 MiB at most); all are forgotten when there are more.
const MAX_HINTS: usize = 32_768;
const GROUP_QUADS: u64 = GROUP_BLOCKS / QUAD_BLOCKS;
/// Runs from this length on (1 MiB) are worth discarding.
const MIN_DISCARD_BLOCKS: u64 = 256;
/// Blocks of such runs that stay as they are (64 MiB), so that a volume in steady use does not discard what it writes next.
const WARM_BLOCKS: u64 = 16_384;

/// A group's exact counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hint {
    pub(super) free_blocks: u64,
    pub(super) free_quads: u64,
}

/// All that the allocator's lock guards.
///
/// *Invariants*: `free_blocks` is the number of addresses that are free; `free_quads` that of the free quads without those
/// of `unresolved`; a quad of `unresolved` lies in a group without a cached view; a hint equals the view of its group.
pub(super) struct State {
    pub(super) geometry: Geometry,
    pub(super) pages: Pages,
    /// The root of the newest durable checkpoint.
    pub(super) durable_root: AllocEntry,
    pub(super) sets: Sets,
    pub(super) cursors: Cursors,
    pub(super) reserve_blocks: u64,
    pub(super) trees: Option<Trees>,
    /// Blocks that can be in use.
    usable_blocks: u64,
    views: LruCache<u64, View>,
    pub(super) hints: BTreeMap<u64, Hint>,
    pub(super) free_blocks: u64,
    pub(super) free_quads: u64,
    /// False while the root's saturated count stands in for the sum of its children.
    quads_known: bool,
    /// Quads of which a part became free while no view told about the rest.
    unresolved: BTreeSet<u64>,
    /// Long free runs that have not been discarded since they were released.
    warm: IntervalSet,
}

impl State {
    pub(super) fn new(geometry: Geometry, root: AllocEntry, free_blocks: u64) -> Result<State> {
        let top = geometry.levels();
        pages::check_counts(&geometry, top, 0, &root)?;
        let free = geometry.free_below(top, 0, &root);
        if free.blocks != free_blocks {
            return Err(Corrupt::AllocPage(0, "the checkpoint contradicts its allocation root").into());
        }
        let quads_known = !root.present || root.free_quads != u32::MAX;
        Ok(State {
            geometry,
            pages: Pages::new(geometry, root),
            durable_root: root,
            sets: Sets::default(),
            cursors: Cursors::default(),
            reserve_blocks: 0,
            trees: None,
            usable_blocks: geometry.free_blocks(&AllocEntry::default()),
            views: LruCache::new(CACHED_VIEWS),
            hints: BTreeMap::new(),
            free_blocks,
            free_quads: if quads_known { free.quads } else { 0 },
            quads_known,
            unresolved: BTreeSet::new(),
            warm: IntervalSet::new(),
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let pending_blocks = self.sets.pending_blocks();
        let node_blocks = self.trees.map_or(0, |trees| trees.node_blocks);
        let others = self.free_blocks.saturating_add(pending_blocks).saturating_add(node_blocks);
        Counts {
            free_blocks: self.free_blocks,
            pending_blocks,
            free_quads: self.free_quads,
            reserve_blocks: self.reserve_blocks,
            data_blocks: self.usable_blocks.saturating_sub(others),
            trees: self.trees,
        }
    }

    /// Replaces a saturated count by the true one. Before anything else changes the counter.
    pub(super) fn know_quads(&mut self, io: &dyn PageIo) -> Result<()> {
        if !self.quads_known {
            let top = self.geometry.levels();
            let summary = self.pages.summary(io, top, 0)?;
            self.free_quads = pages::sum(&self.geometry, top, 0, &summary).quads;
            self.quads_known = true;
        }
        Ok(())
    }

    /// The view of a group, built when it is not there.
    pub(super) fn view(&mut self, io: &dyn PageIo, group: u64) -> Result<&View> {
        if !self.views.contains(&group) {
            let mut bits = self.pages.bitmap(io, group)?;
            let range = self.geometry.group(group);
            self.sets.unavailable().for_each(|set| {
                set.within(range).for_each(|run| bits.set(run.start() - range.start(), run.blocks));
            });
            let view = View::new(bits);
            self.views.put(group, view);
            self.resolve_group(group);
            self.remember(group);
        }
        self.views.get(&group).ok_or(LOST_VIEW)
    }

    /// Counts the free ones of a group's unresolved quads. The group's view is cached.
    fn resolve_group(&mut self, group: u64) {
        let quads = group * GROUP_QUADS..(group + 1) * GROUP_QUADS;
        let unresolved: Vec<u64> = self.unresolved.range(quads).copied().collect();
        let Some(view) = self.views.peek(&group) else { return };
        for quad in unresolved {
            self.unresolved.remove(&quad);
            self.free_quads += u64::from(view.bits().quad_is_free(quad % GROUP_QUADS));
        }
    }

    /// Makes `free_quads` exact.
    pub(super) fn resolve_all(&mut self, io: &dyn PageIo) -> Result<()> {
        while let Some(quad) = self.unresolved.first() {
            self.view(io, quad / GROUP_QUADS)?;
        }
        Ok(())
    }

    fn remember(&mut self, group: u64) {
        if self.hints.len() >= MAX_HINTS {
            self.hints.clear();
        }
        if let Some(view) = self.views.peek(&group) {
            self.hints.insert(group, Hint { free_blocks: view.free_blocks(), free_quads: view.free_quads() });
        }
    }

    /// Takes free blocks out. They go into no set: that is the caller's part.
    pub(super) fn take(&mut self, io: &dyn PageIo, run: Extent) -> Result<()> {
        let (group, start, blocks) = within_group(run);
        self.view(io, group)?;
        let view = self.views.get_mut(&group).ok_or(LOST_VIEW)?;
        let broken = view.take(start, blocks);
        let contradiction = Corrupt::AllocPage(group, "more free blocks than the root counts");
        self.free_blocks = self.free_blocks.checked_sub(blocks).ok_or(contradiction)?;
        self.free_quads = self.free_quads.checked_sub(broken).ok_or(contradiction)?;
        self.warm.remove(run);
        self.remember(group);
        Ok(())
    }

    /// Makes blocks free that are in no set any more, and whose bits are clear.
    pub(super) fn make_free(&mut self, run: Extent) {
        let (group, start, blocks) = within_group(run);
        self.free_blocks += blocks;
        if let Some(view) = self.views.peek_mut(&group) {
            self.free_quads += view.give(start, blocks);
            self.remember(group);
        } else {
            let whole = run.start().div_ceil(QUAD_BLOCKS)..run.end() / QUAD_BLOCKS;
            self.free_quads += whole.end.saturating_sub(whole.start);
            for edge in [run.start() / QUAD_BLOCKS, (run.end() - 1) / QUAD_BLOCKS] {
                if !whole.contains(&edge) {
                    self.unresolved.insert(edge);
                }
            }
            self.hints.remove(&group);
        }
        self.cursors.became_free(run);
    }

    /// As [`State::make_free`], for what a checkpoint released: long runs become worth discarding.
    pub(super) fn make_free_after_use(&mut self, run: Extent) {
        self.make_free(run);
        if run.blocks >= MIN_DISCARD_BLOCKS {
            // What just became free was in use, so it cannot be in the set; the set is a wish list in any case.
            let _ = self.warm.insert(run);
        }
    }

    /// If the group's view is at hand: the first block of the range that is neither in use nor waiting.
    pub(super) fn first_free(&self, run: Extent) -> Option<BlockAddr> {
        let (group, start, blocks) = within_group(run);
        let free = self.views.peek(&group)?.bits().first(false, start, blocks)?;
        Some(BlockAddr(group * GROUP_BLOCKS + free))
    }

    pub(super) fn discardable(&mut self) -> Vec<Extent> {
        let mut excess = self.warm.blocks().saturating_sub(WARM_BLOCKS);
        let candidates: Vec<Extent> = self.warm.iter().filter(|run| run.blocks >= MIN_DISCARD_BLOCKS).collect();
        let mut held = Vec::new();
        for run in candidates {
            let start = run.start().next_multiple_of(QUAD_BLOCKS);
            let blocks = run.end().saturating_sub(start).min(excess) / QUAD_BLOCKS * QUAD_BLOCKS;
            if blocks < MIN_DISCARD_BLOCKS {
                continue;
            }
            let part = Extent { addr: BlockAddr(start), blocks };
            if self.sets.held.insert(part).is_ok() {
                self.hold(part);
                excess -= blocks;
                held.push(part);
            }
        }
        held
    }

    /// Takes a free run of whole quads out without reading its page.
    fn hold(&mut self, run: Extent) {
        let (group, start, blocks) = within_group(run);
        self.warm.remove(run);
        self.free_blocks -= blocks;
        if let Some(view) = self.views.peek_mut(&group) {
            self.free_quads -= view.take(start, blocks);
            self.remember(group);
            return;
        }
        for quad in run.start() / QUAD_BLOCKS..run.end() / QUAD_BLOCKS {
            if !self.unresolved.remove(&quad) {
                self.free_quads -= 1;
            }
        }
        self.hints.remove(&group);
    }

    pub(super) fn discard_done(&mut self, runs: &[Extent]) -> Result<()> {
        for run in runs {
            if self.sets.held.remove(*run) != run.blocks {
                return Err(Corrupt::Allocation(run.addr).into());
            }
            self.make_free(*run);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn in_use(&mut self, io: &dyn PageIo, group: u64) -> Result<Vec<Extent>> {
        let range = self.geometry.group(group);
        let mut bits = self.pages.bitmap(io, group)?.minus(&self.geometry.reserved_bits(group));
        for set in self.sets.in_use() {
            set.within(range).for_each(|run| bits.set(run.start() - range.start(), run.blocks));
        }
        for set in self.sets.released() {
            set.within(range).for_each(|run| bits.unset(run.start() - range.start(), run.blocks));
        }
        Ok(set_runs(bits, group).collect())
    }

    /// Puts into `waiting` what the newest checkpoint, `generation`, released since the one that `previous` names.
    pub(super) fn hold_released(
        &mut self,
        io: &dyn PageIo,
        previous: &AllocEntry,
        generation: Generation,
    ) -> Result<()> {
        self.know_quads(io)?;
        let top = self.geometry.levels();
        pages::check_counts(&self.geometry, top, 0, previous)?;
        for run in freed_between(&self.geometry, io, previous, &self.pages.root)? {
            self.demand_free(io, run)?;
            self.take(io, run)?;
            self.sets.wait(generation, run)?;
        }
        Ok(())
    }

    /// Refuses a range that is not free as a whole, or that nothing may ever use.
    pub(super) fn demand_free(&mut self, io: &dyn PageIo, run: Extent) -> Result<()> {
        if !self.geometry.is_usable(run) {
            return Err(Corrupt::Allocation(run.addr).into());
        }
        let (group, start, blocks) = within_group(run);
        match self.view(io, group)?.bits().first(true, start, blocks) {
            Some(at) => Err(Corrupt::Allocation(BlockAddr(group * GROUP_BLOCKS + at)).into()),
            None => Ok(()),
        }
    }
}

const LOST_VIEW: Error = Error::Corrupt(Corrupt::AllocPage(0, "a cached view is gone"));
