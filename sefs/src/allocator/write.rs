//! Walks over the stored pages: writing a checkpoint's changes bottom-up, and comparing two states.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::bits::{Bits, set_runs};
use super::free::State;
use super::geometry::{FreeBelow, Geometry, PAGE_CHILDREN, span};
use super::intervals::IntervalSet;
use super::pages::{Summary, read_bitmap, read_summary, saturated, slot, sum};
use super::rebuild::is_made;
use super::sets::Phase;
use super::{Extent, PageIo, Renewal};
use crate::error::{Corrupt, Error, Result};
use crate::format::AllocEntry;
use crate::sync::Mutex;
use crate::types::{BLOCK_SIZE, BlockAddr, GROUP_BLOCKS};

/// A page as it must be after a write.
type Known = BTreeMap<(u8, u64), Arc<Summary>>;

/// Applies the sets of the checkpoint under construction to the stored pages. The state's lock is not held while pages are
/// read, sealed and written: until the end everybody else sees the old pages, and a view is the same either way.
pub(super) fn write_pages(
    geometry: &Geometry,
    state: &Mutex<State>,
    io: &dyn PageIo,
    renewal: Option<&Renewal<'_>>,
) -> Result<AllocEntry> {
    let (root, known, changes) = begin(state, io)?;
    let mut walk = Walk { geometry, io, set: changes.0, clear: changes.1, known, renewal };
    let root = walk.page(geometry.levels(), 0, &root);
    let mut state = state.lock();
    let Some(frozen) = state.sets.frozen.as_mut() else { return root };
    let Ok(entry) = root else {
        // Nothing was replaced, so that the pages can be written again, or the checkpoint abandoned.
        frozen.phase = Phase::Open;
        return root;
    };
    frozen.phase = Phase::Written;
    state.pages.replace(entry, walk.known.into_iter());
    Ok(entry)
}

/// Closes the interval; returns the old root, the cached summaries, and what to set and to clear.
fn begin(state: &Mutex<State>, io: &dyn PageIo) -> Result<(AllocEntry, Known, (IntervalSet, IntervalSet))> {
    let mut state = state.lock();
    state.know_quads(io)?;
    let root = state.pages.root;
    let known = state.pages.cached().collect();
    let frozen = state.sets.frozen.as_mut().filter(|frozen| frozen.phase == Phase::Open);
    let frozen = frozen.expect("pages are written once for each freeze");
    let mut set = frozen.taken.clone();
    set.absorb(&frozen.built).map_err(Corrupt::Allocation)?;
    let mut clear = frozen.released.clone();
    clear.absorb(&frozen.dropped).map_err(Corrupt::Allocation)?;
    frozen.phase = Phase::Closed;
    Ok((root, known, (set, clear)))
}

struct Walk<'a> {
    geometry: &'a Geometry,
    io: &'a dyn PageIo,
    set: IntervalSet,
    clear: IntervalSet,
    known: Known,
    renewal: Option<&'a Renewal<'a>>,
}

impl Walk<'_> {
    /// Brings a page and all below it up to date; returns its entry. A page without changes is not written.
    fn page(&mut self, level: u8, index: u64, entry: &AllocEntry) -> Result<AllocEntry> {
        if level == 0 {
            return self.bitmap(index, entry);
        }
        let mut summary = match self.known.get(&(level, index)) {
            Some(known) => Box::new(**known),
            None => read_summary(self.geometry, self.io, level, index, entry)?,
        };
        let mut changed = false;
        let end = (index + 1) * PAGE_CHILDREN;
        let mut child = index * PAGE_CHILDREN;
        while let Some(next) = self.next_to_write(level - 1, child, &summary).filter(|next| *next < end) {
            let old = summary[slot(next)];
            let touched = self.next_touched(level - 1, next) == Some(next) || is_made(&old);
            child = next + 1;
            if !touched && !old.present {
                continue;
            }
            let new = match self.page(level - 1, next, &old) {
                // A page that only its age brought us to need not open for the checkpoint.
                Err(Error::Tampered(_) | Error::Backend(_)) if !touched => {
                    self.leave_one();
                    old
                }
                new => new?,
            };
            changed |= new != old;
            summary[slot(next)] = new;
        }
        if !changed && !is_made(entry) && !self.is_old(level, index, entry) {
            return Ok(*entry);
        }
        let mut page = Box::new([0; BLOCK_SIZE]);
        for (bytes, child) in page.as_chunks_mut().0.iter_mut().zip(summary.iter()) {
            *bytes = child.encode();
        }
        let free = sum(self.geometry, level, index, &summary);
        if let Some(known) = self.known.get_mut(&(level, index)) {
            *known = Arc::from(summary);
        }
        self.write(level, index, entry, &page, free)
    }

    /// As [`Walk::next_visited`], or the next child of `summary` that was made and never written.
    fn next_to_write(&self, level: u8, child: u64, summary: &Summary) -> Option<u64> {
        let made = summary.iter().skip(slot(child)).position(is_made);
        // A page has 64 children. At its end there is none left to look at, whatever the slot says.
        let made = made.and_then(|ahead| u64::try_from(ahead).ok()).map(|ahead| child + ahead);
        self.next_visited(level, child).into_iter().chain(made).min()
    }

    /// The first page of a level, from `index` on, whose blocks change.
    fn next_touched(&self, level: u8, index: u64) -> Option<u64> {
        let blocks = span(level) * GROUP_BLOCKS;
        let from = index * blocks;
        let next = [&self.set, &self.clear].into_iter().filter_map(|set| set.next_from(from)).min()?;
        Some(next / blocks)
    }

    /// As [`Walk::next_touched`], or the next page that has to be looked at for its age.
    fn next_visited(&self, level: u8, index: u64) -> Option<u64> {
        let touched = self.next_touched(level, index);
        let Some(renewal) = self.renewal else { return touched };
        let old = index.max(renewal.groups.start / span(level));
        let old = (old < renewal.groups.end.div_ceil(span(level))).then_some(old);
        touched.into_iter().chain(old).min()
    }

    fn is_old(&self, level: u8, index: u64, entry: &AllocEntry) -> bool {
        self.renewal.is_some_and(|renewal| {
            let groups = index * span(level)..(index + 1) * span(level);
            let within = groups.start < renewal.groups.end && renewal.groups.start < groups.end;
            within && entry.present && (renewal.is_old)(entry.epoch)
        })
    }

    fn leave_one(&self) {
        if let Some(renewal) = self.renewal {
            renewal.left_one.set(true);
        }
    }

    fn bitmap(&mut self, group: u64, entry: &AllocEntry) -> Result<AllocEntry> {
        let old = read_bitmap(self.geometry, self.io, group, entry)?;
        let range = self.geometry.group(group);
        let mut bits = old.clone();
        for run in self.set.within(range) {
            demand(&bits, range, run, true)?;
            bits.set(run.start() - range.start(), run.blocks);
        }
        for run in self.clear.within(range) {
            demand(&bits, range, run, false)?;
            bits.unset(run.start() - range.start(), run.blocks);
        }
        if bits == old && !is_made(entry) && !self.is_old(0, group, entry) {
            return Ok(*entry);
        }
        let free = FreeBelow { blocks: bits.free_blocks(), quads: bits.free_quads() };
        self.write(0, group, entry, &bits.to_page(), free)
    }

    fn write(
        &self,
        level: u8,
        index: u64,
        old: &AllocEntry,
        page: &[u8; BLOCK_SIZE],
        free: FreeBelow,
    ) -> Result<AllocEntry> {
        let home = if old.present { (old.home + 1) % 3 } else { 0 };
        let addr = self.geometry.home(level, self.geometry.first_group(level, index), home);
        let (epoch, nonce, tag) = self.io.write_page(level, addr, page, old)?;
        let free_quads = saturated(free.quads);
        Ok(AllocEntry { present: true, home, state: 0, epoch, nonce, tag, free_quads, free_blocks: free.blocks })
    }
}

/// Every bit that is to be set must be clear, and the other way round.
fn demand(bits: &Bits, range: Extent, run: Extent, setting: bool) -> Result<()> {
    match bits.first(setting, run.start() - range.start(), run.blocks) {
        Some(at) => Err(Corrupt::Allocation(BlockAddr(range.start() + at)).into()),
        None => Ok(()),
    }
}

/// Blocks that are in use in the state `old` and free in the state `new`. Reads only what differs.
pub(super) fn freed_between(
    geometry: &Geometry,
    io: &dyn PageIo,
    old: &AllocEntry,
    new: &AllocEntry,
) -> Result<Vec<Extent>> {
    let mut freed = Vec::new();
    let mut compare = Compare { geometry, io, freed: &mut freed };
    compare.page(geometry.levels(), 0, old, new)?;
    Ok(freed)
}

struct Compare<'a> {
    geometry: &'a Geometry,
    io: &'a dyn PageIo,
    freed: &'a mut Vec<Extent>,
}

impl Compare<'_> {
    fn page(&mut self, level: u8, index: u64, old: &AllocEntry, new: &AllocEntry) -> Result<()> {
        // A page that was never written has nothing in use that could have been freed.
        if old == new || !old.present {
            return Ok(());
        }
        if level == 0 {
            let old = read_bitmap(self.geometry, self.io, index, old)?;
            let new = read_bitmap(self.geometry, self.io, index, new)?;
            self.freed.extend(set_runs(old.minus(&new), index));
            return Ok(());
        }
        let old = read_summary(self.geometry, self.io, level, index, old)?;
        let new = read_summary(self.geometry, self.io, level, index, new)?;
        let children = index * PAGE_CHILDREN..;
        old.iter().zip(new.iter()).zip(children).try_for_each(|((old, new), at)| self.page(level - 1, at, old, new))
    }
}
