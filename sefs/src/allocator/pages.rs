//! Allocation pages: found through their parents, verified against the counts there.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::num::NonZeroUsize;

use lru::LruCache;

use super::PageIo;
use super::bits::Bits;
use super::geometry::{FreeBelow, Geometry, PAGE_CHILDREN};
use crate::error::{Corrupt, Result};
use crate::format::AllocEntry;
use crate::types::{BLOCK_SIZE, EpochId};

const CHILDREN: usize = 64;
/// 24 summary pages: the paths to all groups that are worked on.
const CACHED_SUMMARIES: NonZeroUsize = NonZeroUsize::new(24).unwrap();

/// The entries of a summary page.
pub(super) type Summary = [AllocEntry; CHILDREN];

/// A page that was never written.
pub(super) const ABSENT: AllocEntry = AllocEntry {
    present: false,
    home: 0,
    state: 0,
    epoch: EpochId(0),
    nonce: [0; 12],
    tag: [0; 16],
    free_quads: 0,
    free_blocks: 0,
};

/// The pages of one state of the volume.
pub(super) struct Pages {
    pub(super) geometry: Geometry,
    pub(super) root: AllocEntry,
    cache: LruCache<(u8, u64), Arc<Summary>>,
}

impl Pages {
    pub(super) fn new(geometry: Geometry, root: AllocEntry) -> Pages {
        Pages { geometry, root, cache: LruCache::new(CACHED_SUMMARIES) }
    }

    /// Goes over to another state, of which these summary pages are known.
    pub(super) fn replace(&mut self, root: AllocEntry, known: impl Iterator<Item = ((u8, u64), Arc<Summary>)>) {
        self.root = root;
        self.cache.clear();
        known.for_each(|(page, summary)| {
            self.cache.put(page, summary);
        });
    }

    /// The cached pages, for [`Pages::replace`].
    pub(super) fn cached(&self) -> impl Iterator<Item = ((u8, u64), Arc<Summary>)> + '_ {
        // The least used first, so that putting them into a cache in this order keeps their order.
        self.cache.iter().rev().map(|(page, summary)| (*page, summary.clone()))
    }

    /// The entry of a page.
    pub(super) fn entry(&mut self, io: &dyn PageIo, level: u8, index: u64) -> Result<AllocEntry> {
        if level >= self.geometry.levels() {
            return Ok(self.root);
        }
        let parent = self.summary(io, level + 1, index / PAGE_CHILDREN)?;
        Ok(parent[slot(index)])
    }

    /// A summary page.
    pub(super) fn summary(&mut self, io: &dyn PageIo, level: u8, index: u64) -> Result<Arc<Summary>> {
        if let Some(summary) = self.cache.get(&(level, index)) {
            return Ok(summary.clone());
        }
        let entry = self.entry(io, level, index)?;
        let summary: Arc<Summary> = Arc::from(read_summary(&self.geometry, io, level, index, &entry)?);
        self.cache.put((level, index), summary.clone());
        Ok(summary)
    }

    /// A group's bitmap as stored.
    pub(super) fn bitmap(&mut self, io: &dyn PageIo, group: u64) -> Result<Bits> {
        let entry = self.entry(io, 0, group)?;
        read_bitmap(&self.geometry, io, group, &entry)
    }
}

/// A child's place in its parent.
pub(super) fn slot(index: u64) -> usize {
    // The remainder is below 64.
    usize::try_from(index % PAGE_CHILDREN).unwrap_or(0)
}

/// Reads and verifies a group's bitmap.
pub(super) fn read_bitmap(geometry: &Geometry, io: &dyn PageIo, group: u64, entry: &AllocEntry) -> Result<Bits> {
    let reserved = geometry.reserved_bits(group);
    if !entry.present {
        return Ok(reserved);
    }
    let bits = Bits::from_page(&*read(geometry, io, 0, group, entry)?);
    if !bits.covers(&reserved) {
        return Err(Corrupt::AllocPage(group, "a reserved block is marked free").into());
    }
    if bits.free_blocks() != entry.free_blocks || bits.free_quads() != u64::from(entry.free_quads) {
        return Err(Corrupt::AllocPage(group, "a bitmap contradicts its counts").into());
    }
    Ok(bits)
}

/// Reads and verifies a summary page. A page that was never written is made up.
pub(super) fn read_summary(
    geometry: &Geometry,
    io: &dyn PageIo,
    level: u8,
    index: u64,
    entry: &AllocEntry,
) -> Result<Box<Summary>> {
    let mut summary = Box::new([ABSENT; CHILDREN]);
    if !entry.present {
        return Ok(summary);
    }
    let first_group = geometry.first_group(level, index);
    let corrupt = |why| Corrupt::AllocPage(first_group, why);
    let page = read(geometry, io, level, first_group, entry)?;
    for (child, bytes) in summary.iter_mut().zip(page.as_chunks().0) {
        *child = AllocEntry::decode(bytes).map_err(corrupt)?;
    }
    for (child, at) in summary.iter().zip(index * PAGE_CHILDREN..) {
        check_counts(geometry, level - 1, at, child)?;
    }
    if !entry_says(entry, sum(geometry, level, index, &summary)) {
        return Err(corrupt("a summary contradicts its counts").into());
    }
    Ok(summary)
}

/// Refuses counts that the range below the page cannot have.
pub(super) fn check_counts(geometry: &Geometry, level: u8, index: u64, entry: &AllocEntry) -> Result<()> {
    let most = geometry.free_at_mkfs(level, index);
    let first_group = geometry.first_group(level, index);
    if entry.present && (first_group >= geometry.groups() || entry.home > 2) {
        return Err(Corrupt::AllocPage(first_group, "a page for groups that do not exist, or without a home").into());
    }
    let quads_fit = u64::from(entry.free_quads) <= entry.free_blocks / super::geometry::QUAD_BLOCKS;
    if entry.present && (entry.free_blocks > most.blocks || !quads_fit) {
        return Err(Corrupt::AllocPage(first_group, "counts above what fits").into());
    }
    Ok(())
}

/// What is free below a summary page. Each child's counts are checked, so that the sum fits.
pub(super) fn sum(geometry: &Geometry, level: u8, index: u64, summary: &Summary) -> FreeBelow {
    let children = summary.iter().zip(index * PAGE_CHILDREN..);
    children.fold(FreeBelow { blocks: 0, quads: 0 }, |sum, (child, at)| {
        let free = geometry.free_below(level - 1, at, child);
        FreeBelow { blocks: sum.blocks + free.blocks, quads: sum.quads + free.quads }
    })
}

/// The quads that an entry can name.
pub(super) fn saturated(quads: u64) -> u32 {
    u32::try_from(quads).unwrap_or(u32::MAX)
}

fn entry_says(entry: &AllocEntry, free: FreeBelow) -> bool {
    entry.free_blocks == free.blocks && entry.free_quads == saturated(free.quads)
}

fn read(
    geometry: &Geometry,
    io: &dyn PageIo,
    level: u8,
    first_group: u64,
    entry: &AllocEntry,
) -> Result<Box<[u8; BLOCK_SIZE]>> {
    io.read_page(level, first_group, geometry.home(level, first_group, entry.home), entry)
}
