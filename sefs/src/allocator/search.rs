//! Where the next blocks come from.
//!
//! Data go to the emptiest regions (2 MiB), one after the other, so that files lie in one piece; nodes go to regions that
//! hold nodes already, so that metadata lie together. A search over groups asks the summary pages and, for groups that were
//! looked at, the exact counts; a search that found nothing is not repeated before something became free.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::bits::{Bits, Pick, REGION_BLOCKS, REGIONS};
use super::free::State;
use super::geometry::{PAGE_CHILDREN, QUAD_BLOCKS, span};
use super::pages::slot;
use super::{Extent, Interval, PageIo};
use crate::error::{Corrupt, Error, Posix, Result};
use crate::types::{BlockAddr, GROUP_BLOCKS};

/// Regions of nodes that are remembered (64 KiB or so); more are forgotten, which costs only their grouping.
const MAX_NODE_REGIONS: usize = 4_096;

/// How much a group and a region must have to be chosen. What is emptier is sought first.
#[derive(Clone, Copy)]
struct Tier {
    group: u64,
    region: u64,
    /// Whether data and nodes may share a region.
    mixed: bool,
}

const BLOCK_TIERS: [Tier; 3] = [
    Tier { group: 8_192, region: 128, mixed: false },
    Tier { group: 512, region: 8, mixed: false },
    Tier { group: 1, region: 1, mixed: true },
];
const QUAD_TIERS: [Tier; 3] = [
    Tier { group: 2_048, region: 32, mixed: false },
    Tier { group: 128, region: 2, mixed: false },
    Tier { group: 1, region: 1, mixed: true },
];

/// Where the last search ended.
#[derive(Default)]
pub(super) struct Cursors {
    /// The region that data fill, and where to go on in it.
    data: Option<(u64, u64)>,
    /// The region that nodes fill.
    node: Option<u64>,
    /// The group that gave the last block of a broken quad.
    broken: u64,
    /// Regions that nodes were put into.
    node_regions: BTreeSet<u64>,
    /// Those of them where something became free since.
    node_ready: BTreeSet<u64>,
    /// Tiers of which no group is left, for data, and for each node size as a bit mask.
    dry_data: [bool; 3],
    dry_nodes: [u64; 3],
}

impl Cursors {
    /// Forgets that there was nothing.
    pub(super) fn became_free(&mut self, run: Extent) {
        self.dry_data = [false; 3];
        self.dry_nodes = [0; 3];
        let regions = run.start() / REGION_BLOCKS..=(run.end() - 1) / REGION_BLOCKS;
        self.node_ready.extend(self.node_regions.range(regions));
    }

    fn entered_by_nodes(&mut self, region: u64) {
        if self.node_regions.len() >= MAX_NODE_REGIONS {
            self.node_regions.clear();
            self.node_ready.clear();
        }
        self.node_regions.insert(region);
        self.node = Some(region);
    }
}

/// What a group must have.
#[derive(Clone, Copy)]
enum Need {
    Blocks(u64),
    Quads(u64),
    Broken,
}

impl Need {
    /// Whether counts that may be too high leave the group in question.
    fn allows(self, blocks: u64, quads: u64) -> bool {
        match self {
            Need::Blocks(least) => blocks >= least,
            Need::Quads(least) => quads >= least,
            Need::Broken => blocks > 0,
        }
    }

    /// Whether exact counts meet it.
    fn is_met(self, blocks: u64, quads: u64) -> bool {
        match self {
            Need::Broken => blocks > quads * QUAD_BLOCKS,
            need => need.allows(blocks, quads),
        }
    }
}

impl State {
    pub(super) fn allocate_data(
        &mut self,
        io: &dyn PageIo,
        blocks: u64,
        use_reserve: bool,
        interval: Interval,
    ) -> Result<Vec<Extent>> {
        self.know_quads(io)?;
        let floor = if use_reserve { self.reserve_blocks / 16 } else { self.reserve_blocks };
        if self.free_blocks.saturating_sub(floor) < blocks {
            return Err(Posix::NoSpace.into());
        }
        let floor_quads = floor.div_ceil(QUAD_BLOCKS);
        let mut runs = Vec::new();
        // Who may use the reserve still breaks none of its quads while there are other blocks. Nor are the quads broken that
        // two checkpoints take: with fewer, merges wait for what the one before gave back, and checkpoints come early.
        let counts = self.counts();
        let spared = counts.reserve_blocks.saturating_add(counts.growth(blocks)).saturating_add(counts.rewriting());
        let plenty = spared.div_ceil(QUAD_BLOCKS).saturating_add(blocks);
        let done = if self.free_quads >= plenty {
            self.take_any(io, blocks, &mut runs)
        } else {
            self.take_thriftily(io, blocks, floor_quads, &mut runs)
        };
        self.settle(done, runs, interval)
    }

    pub(super) fn allocate_block(&mut self, io: &dyn PageIo, interval: Interval) -> Result<BlockAddr> {
        self.know_quads(io)?;
        if self.free_blocks == 0 {
            return Err(Posix::NoSpace.into());
        }
        let mut runs = Vec::new();
        let done = match self.take_broken(io, 1, &mut runs) {
            Ok(0) => self.take_any(io, 1, &mut runs),
            done => done.map(drop),
        };
        let runs = self.settle(done, runs, interval)?;
        runs.first().map(|run| run.addr).ok_or(NOTHING_THERE)
    }

    pub(super) fn allocate_node(&mut self, io: &dyn PageIo, blocks: u64, interval: Interval) -> Result<BlockAddr> {
        assert!(blocks.is_power_of_two() && (QUAD_BLOCKS..=64).contains(&blocks), "a node has 4 to 64 blocks");
        self.know_quads(io)?;
        if self.free_quads == 0 {
            self.resolve_all(io)?;
        }
        if self.free_quads == 0 {
            return Err(Posix::NoSpace.into());
        }
        let region = self.node_region(io, blocks)?.ok_or(Error::Posix(Posix::NoSpace))?;
        let addr = self.node_in(io, region, blocks)?.ok_or(NOTHING_THERE)?;
        self.cursors.entered_by_nodes(region);
        let run = Extent { addr, blocks };
        let done = self.take(io, run);
        self.settle(done, alloc::vec![run], interval)?;
        Ok(addr)
    }

    /// Puts what was taken into its set, or gives it back if the search failed.
    fn settle(&mut self, done: Result<()>, runs: Vec<Extent>, interval: Interval) -> Result<Vec<Extent>> {
        match done {
            Ok(()) => {
                runs.iter().try_for_each(|run| self.sets.add_taken(*run, interval))?;
                Ok(runs)
            }
            Err(error) => {
                runs.iter().for_each(|run| self.make_free(*run));
                Err(error)
            }
        }
    }

    /// Quads are scarce: blocks of broken ones first, then as few whole ones as possible, `floor_quads` staying.
    fn take_thriftily(&mut self, io: &dyn PageIo, blocks: u64, floor_quads: u64, runs: &mut Vec<Extent>) -> Result<()> {
        self.resolve_all(io)?;
        let broken = self.free_blocks.saturating_sub(self.free_quads * QUAD_BLOCKS);
        let breakable = self.free_quads.saturating_sub(floor_quads);
        if blocks > broken + breakable * QUAD_BLOCKS {
            return Err(Posix::NoSpace.into());
        }
        let from_broken = blocks.min(broken);
        if self.take_broken(io, from_broken, runs)? != from_broken {
            return Err(NOTHING_THERE);
        }
        self.take_any(io, blocks - from_broken, runs)
    }

    /// Takes blocks of broken quads, and fewer than wanted if there are no more.
    fn take_broken(&mut self, io: &dyn PageIo, want: u64, runs: &mut Vec<Extent>) -> Result<u64> {
        let mut taken = 0;
        let mut from = self.cursors.broken;
        let mut wrapped = false;
        while taken < want && self.free_blocks > self.free_quads * QUAD_BLOCKS {
            let Some(group) = self.find_group(io, from, Need::Broken)? else {
                if wrapped {
                    break;
                }
                wrapped = true;
                from = 0;
                continue;
            };
            taken += self.take_in(io, group, Pick::Broken, (0, GROUP_BLOCKS), want - taken, runs)?;
            self.cursors.broken = group;
            from = group + 1;
        }
        Ok(taken)
    }

    fn take_any(&mut self, io: &dyn PageIo, want: u64, runs: &mut Vec<Extent>) -> Result<()> {
        let mut left = want;
        while left > 0 {
            let (region, from) = self.data_place(io)?;
            let group = region * REGION_BLOCKS / GROUP_BLOCKS;
            let end = (region + 1) * REGION_BLOCKS - group * GROUP_BLOCKS;
            let taken = self.take_in(io, group, Pick::Any, (from % GROUP_BLOCKS, end), left, runs)?;
            if taken == 0 {
                return Err(NOTHING_THERE);
            }
            left -= taken;
            self.cursors.data = runs.last().map(|run| (region, run.end()));
        }
        Ok(())
    }

    /// Takes up to `want` blocks in a part of a group, rising.
    fn take_in(
        &mut self,
        io: &dyn PageIo,
        group: u64,
        pick: Pick,
        (from, end): (u64, u64),
        want: u64,
        runs: &mut Vec<Extent>,
    ) -> Result<u64> {
        let mut taken = 0;
        let mut at = from;
        while taken < want {
            let Some((start, len)) = self.view(io, group)?.bits().next_run(pick, at, end) else { break };
            let run = Extent { addr: BlockAddr(group * GROUP_BLOCKS + start), blocks: len.min(want - taken) };
            self.take(io, run)?;
            taken += run.blocks;
            at = start + run.blocks;
            match runs.last_mut() {
                Some(last) if last.end() == run.start() => last.blocks += run.blocks,
                _ => runs.push(run),
            }
        }
        Ok(taken)
    }

    /// The region where data go on, and from where.
    fn data_place(&mut self, io: &dyn PageIo) -> Result<(u64, u64)> {
        let current = self.cursors.data;
        if let Some((region, at)) = current {
            let group = region * REGION_BLOCKS / GROUP_BLOCKS;
            let end = (region + 1) * REGION_BLOCKS;
            let inside = (at - group * GROUP_BLOCKS, end - group * GROUP_BLOCKS);
            if at < end && self.view(io, group)?.bits().next_run(Pick::Any, inside.0, inside.1).is_some() {
                return Ok((region, at));
            }
        }
        for (at, tier) in BLOCK_TIERS.iter().enumerate() {
            let nodes = core::mem::take(&mut self.cursors.node_regions);
            let measure = |group: u64, bits: &Bits, region: usize| {
                let avoided = !tier.mixed && nodes.contains(&global(group, region));
                if avoided { 0 } else { bits.region_free_blocks(region) }
            };
            let dry = self.cursors.dry_data[at];
            let region = self.emptiest(io, current.map(|(region, _)| region), tier, Need::Blocks, dry, measure);
            self.cursors.node_regions = nodes;
            if let Some(region) = region? {
                return Ok((region, region * REGION_BLOCKS));
            }
            self.cursors.dry_data[at] = true;
        }
        Err(NOTHING_THERE)
    }

    /// A region with room for a node.
    fn node_region(&mut self, io: &dyn PageIo, blocks: u64) -> Result<Option<u64>> {
        let current = self.cursors.node;
        if let Some(region) = current
            && self.node_in(io, region, blocks)?.is_some()
        {
            return Ok(Some(region));
        }
        while let Some(region) = self.cursors.node_ready.pop_first() {
            if self.node_in(io, region, blocks)?.is_some() {
                return Ok(Some(region));
            }
        }
        let data = self.cursors.data.map(|(region, _)| region);
        for (at, tier) in QUAD_TIERS.iter().enumerate() {
            let measure = |group: u64, bits: &Bits, region: usize| {
                let avoided = !tier.mixed && data == Some(global(group, region));
                if avoided || bits.aligned_run(blocks, region).is_none() { 0 } else { bits.region_free_quads(region) }
            };
            let dry = self.cursors.dry_nodes[at] & blocks != 0;
            if let Some(region) = self.emptiest(io, current, tier, Need::Quads, dry, measure)? {
                return Ok(Some(region));
            }
            self.cursors.dry_nodes[at] |= blocks;
        }
        Ok(None)
    }

    /// The first place for a node in a region.
    fn node_in(&mut self, io: &dyn PageIo, region: u64, blocks: u64) -> Result<Option<BlockAddr>> {
        let group = region * REGION_BLOCKS / GROUP_BLOCKS;
        let found = self.view(io, group)?.bits().aligned_run(blocks, region_in_group(region));
        Ok(found.map(|at| BlockAddr(group * GROUP_BLOCKS + at)))
    }

    /// The emptiest region of the group of `current`, or else of the next group that has enough.
    fn emptiest(
        &mut self,
        io: &dyn PageIo,
        current: Option<u64>,
        tier: &Tier,
        need: fn(u64) -> Need,
        dry: bool,
        measure: impl Fn(u64, &Bits, usize) -> u64,
    ) -> Result<Option<u64>> {
        let (here, after) =
            current.map_or((0, REGIONS - 1), |region| (region * REGION_BLOCKS / GROUP_BLOCKS, region_in_group(region)));
        let enough = |size: &(usize, u64)| size.1 >= tier.region;
        let best = self.view(io, here)?.best_region(after, |bits, region| measure(here, bits, region));
        if let Some((region, _)) = best.filter(enough) {
            return Ok(Some(global(here, region)));
        }
        if dry {
            return Ok(None);
        }
        for (from, end) in [(here + 1, u64::MAX), (0, here)] {
            let mut from = from;
            while let Some(group) = self.find_group(io, from, need(tier.group))?.filter(|group| *group < end) {
                let best = self.view(io, group)?.best_region(REGIONS - 1, |bits, region| measure(group, bits, region));
                if let Some((region, _)) = best.filter(enough) {
                    return Ok(Some(global(group, region)));
                }
                from = group + 1;
            }
        }
        Ok(None)
    }

    /// The first group from `from` on that has what is needed, or of which it is not known.
    fn find_group(&mut self, io: &dyn PageIo, from: u64, need: Need) -> Result<Option<u64>> {
        if from >= self.geometry.groups() {
            return Ok(None);
        }
        let mut from = from;
        loop {
            let top = self.geometry.levels();
            let Some(group) = self.find_below(io, top, 0, from, need)? else { return Ok(None) };
            let view = self.view(io, group)?;
            if need.is_met(view.free_blocks(), view.free_quads()) {
                return Ok(Some(group));
            }
            from = group + 1;
        }
    }

    fn find_below(&mut self, io: &dyn PageIo, level: u8, index: u64, from: u64, need: Need) -> Result<Option<u64>> {
        let summary = self.pages.summary(io, level, index)?;
        let below = span(level - 1);
        let first = (from / below).max(index * PAGE_CHILDREN);
        for child in first..(index + 1) * PAGE_CHILDREN {
            if child * below >= self.geometry.groups() {
                break;
            }
            let hint = if level == 1 { self.hints.get(&child).copied() } else { None };
            let possible = match hint {
                Some(hint) => need.is_met(hint.free_blocks, hint.free_quads),
                None => {
                    let bound = self.geometry.free_below(level - 1, child, &summary[slot(child)]);
                    need.allows(bound.blocks, bound.quads)
                }
            };
            if !possible {
                continue;
            }
            if level == 1 {
                return Ok(Some(child));
            }
            if let Some(group) = self.find_below(io, level - 1, child, from, need)? {
                return Ok(Some(group));
            }
        }
        Ok(None)
    }
}

/// The counters, which every page that was read agrees with, promise blocks that no page has.
const NOTHING_THERE: Error = Error::Corrupt(Corrupt::AllocPage(0, "counts promise blocks that no page has"));

fn global(group: u64, region: usize) -> u64 {
    // A region's number within its group is below 64.
    group * (GROUP_BLOCKS / REGION_BLOCKS) + u64::try_from(region).unwrap_or(0)
}

fn region_in_group(region: u64) -> usize {
    // The remainder is below 64.
    usize::try_from(region % (GROUP_BLOCKS / REGION_BLOCKS)).unwrap_or(0)
}
