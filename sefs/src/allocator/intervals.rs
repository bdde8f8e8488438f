//! Sets of addresses as disjoint, coalesced runs.

use alloc::collections::BTreeMap;

use super::Extent;
use crate::types::BlockAddr;

/// A set of addresses: start → length, never empty, never touching.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct IntervalSet {
    runs: BTreeMap<u64, u64>,
    blocks: u64,
}

impl IntervalSet {
    pub(super) const fn new() -> IntervalSet {
        IntervalSet { runs: BTreeMap::new(), blocks: 0 }
    }

    /// Number of addresses in the set.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The first address of the range that is in the set.
    pub(super) fn first_common(&self, range: Extent) -> Option<BlockAddr> {
        self.within(range).next().map(|run| run.addr)
    }

    /// Adds a range. An address that is there already makes it fail, and nothing is added.
    pub(super) fn insert(&mut self, range: Extent) -> Result<(), BlockAddr> {
        if range.blocks == 0 {
            return Ok(());
        }
        if let Some(common) = self.first_common(range) {
            return Err(common);
        }
        let blocks = range.blocks + self.runs.remove(&range.end()).unwrap_or(0);
        match self.runs.range_mut(..range.start()).next_back() {
            Some((before, len)) if before + *len == range.start() => *len += blocks,
            _ => {
                self.runs.insert(range.start(), blocks);
            }
        }
        self.blocks += range.blocks;
        Ok(())
    }

    /// Removes what the set has of a range; returns how many addresses that were.
    pub(super) fn remove(&mut self, range: Extent) -> u64 {
        if range.blocks == 0 {
            return 0;
        }
        let mut removed = 0;
        if let Some((&before, len)) = self.runs.range_mut(..range.start()).next_back()
            && before + *len > range.start()
        {
            let end = before + core::mem::replace(len, range.start() - before);
            removed += end.min(range.end()) - range.start();
            if end > range.end() {
                self.runs.insert(range.end(), end - range.end());
            }
        }
        while let Some((&start, &len)) = self.runs.range(range.start()..range.end()).next() {
            self.runs.remove(&start);
            removed += (start + len).min(range.end()) - start;
            if start + len > range.end() {
                self.runs.insert(range.end(), start + len - range.end());
            }
        }
        self.blocks -= removed;
        removed
    }

    /// The runs, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.runs.iter().map(|(&start, &blocks)| Extent { addr: BlockAddr(start), blocks })
    }

    /// The parts of runs that lie in a range, rising.
    pub(super) fn within(&self, range: Extent) -> impl Iterator<Item = Extent> + '_ {
        let before = self.runs.range(..range.start()).next_back();
        let rest = self.runs.range(range.start()..range.end().max(range.start()));
        before.into_iter().chain(rest).filter_map(move |(&start, &len)| {
            let from = start.max(range.start());
            let to = (start + len).min(range.end());
            (from < to).then(|| Extent { addr: BlockAddr(from), blocks: to - from })
        })
    }

    /// The first address at or after `from`.
    pub(super) fn next_from(&self, from: u64) -> Option<u64> {
        self.within(Extent { addr: BlockAddr(from), blocks: u64::MAX - from }).next().map(|run| run.start())
    }

    /// Adds all of another set; an address in both makes it fail half-way.
    pub(super) fn absorb(&mut self, other: &IntervalSet) -> Result<(), BlockAddr> {
        other.iter().try_for_each(|run| self.insert(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn extent(start: u64, blocks: u64) -> Extent {
        Extent { addr: BlockAddr(start), blocks }
    }

    fn runs_of(model: &[bool]) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for (addr, _) in (0_u64..).zip(model).filter(|(_, set)| **set) {
            match runs.last_mut() {
                Some(last) if last.end() == addr => last.blocks += 1,
                _ => runs.push(extent(addr, 1)),
            }
        }
        runs
    }

    proptest! {
        #[test]
        fn behaves_as_an_array_of_booleans(steps in prop::collection::vec((any::<bool>(), 0_usize..60, 0_usize..20), 1..80)) {
            let mut set = IntervalSet::new();
            let mut model = [false; 80];
            for (add, start, len) in steps {
                let range = extent(start as u64, len as u64);
                let part = &mut model[start..start + len];
                let common = part.iter().position(|set| *set).map(|at| BlockAddr((start + at) as u64));
                prop_assert_eq!(set.first_common(range), common);
                if add {
                    prop_assert_eq!(set.insert(range), common.map_or(Ok(()), Err));
                    if common.is_none() {
                        part.fill(true);
                    }
                } else {
                    let there = part.iter().filter(|set| **set).count();
                    prop_assert_eq!(set.remove(range), there as u64);
                    part.fill(false);
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs_of(&model));
                prop_assert_eq!(set.blocks(), model.iter().filter(|set| **set).count() as u64);
                prop_assert_eq!(set.next_from(17), (17..80).find(|at| model[*at]).map(|at| at as u64));
            }
        }
    }
}
