//! Where groups, allocation pages and reserved areas lie: pure functions of the volume's size and its ring.

use alloc::boxed::Box;

use crate::error::Invalid;
use crate::format::{AllocEntry, PACKED_DATA_ADDR};
use crate::types::{BLOCK_SIZE_U64, BlockAddr, GROUP_BLOCKS};

use super::Extent;
use super::bits::{Bits, WORDS};

/// Children of a summary page.
pub(super) const PAGE_CHILDREN: u64 = 64;
/// Blocks of a quad, the unit that tree nodes need.
pub(crate) const QUAD_BLOCKS: u64 = 4;
/// The highest level of a summary page.
const MAX_LEVELS: u8 = 4;
/// Header, slots, group 0's homes, and the blocks up to the ring.
const HEAD_BLOCKS: u64 = 64;
const HOME_BLOCKS: u64 = 16;
const GROUP_0_HOMES: u64 = 18;
const HOMES_PER_PAGE: u64 = 3;
const REPLICA_BLOCKS: u64 = 16;
const MIN_TOTAL_BLOCKS: u64 = 1_024;
/// 64^4 groups.
const MAX_TOTAL_BLOCKS: u64 = 1 << 39;
const GROUP_FREE_BLOCKS: u64 = GROUP_BLOCKS - HOME_BLOCKS;

/// What is free below a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FreeBelow {
    pub(super) blocks: u64,
    pub(super) quads: u64,
}

impl FreeBelow {
    const NOTHING: FreeBelow = FreeBelow { blocks: 0, quads: 0 };
}

/// The shape of a volume, checked once so that no later sum overflows.
///
/// *Invariants*: the ring lies in group 0 behind the head and before the replica; the last group holds its own homes and
/// the whole replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    total_blocks: u64,
    ring_start: u64,
    ring_blocks: u64,
    /// What is free at mkfs in the first group and in the last: every entry of a summary page is compared with it.
    free_at_ends: [FreeBelow; 2],
}

impl Geometry {
    /// Checks a shape. See [`Geometry::usable_blocks`] for the sizes that are possible.
    pub(crate) fn new(total_blocks: u64, ring_start: u64, ring_blocks: u64) -> Result<Geometry, Invalid> {
        let size = Invalid::VolumeSize(total_blocks.saturating_mul(BLOCK_SIZE_U64));
        if !(MIN_TOTAL_BLOCKS..=MAX_TOTAL_BLOCKS).contains(&total_blocks)
            || Geometry::usable_blocks(total_blocks) != total_blocks
        {
            return Err(size);
        }
        let ring_limit = (total_blocks - REPLICA_BLOCKS).min(GROUP_BLOCKS);
        let ring_end = ring_start.checked_add(ring_blocks);
        if ring_start < HEAD_BLOCKS || ring_blocks == 0 || ring_end.is_none_or(|end| end > ring_limit) {
            return Err(Invalid::Option("ring"));
        }
        let mut geometry = Geometry { total_blocks, ring_start, ring_blocks, free_at_ends: [FreeBelow::NOTHING; 2] };
        geometry.free_at_ends = [0, geometry.groups() - 1].map(|group| {
            let bits = geometry.reserved_bits(group);
            FreeBelow { blocks: bits.free_blocks(), quads: bits.free_quads() }
        });
        Ok(geometry)
    }

    /// The shape of a packed image: nothing is ever allocated, and everything behind the root block may be referred to.
    pub(crate) fn packed(total_blocks: u64) -> Geometry {
        Geometry { total_blocks, ring_start: 0, ring_blocks: 0, free_at_ends: [FreeBelow::NOTHING; 2] }
    }

    /// No volume is without a ring.
    fn is_packed(&self) -> bool {
        self.ring_blocks == 0
    }

    /// The largest possible size that is not above `total_blocks`: a last group too short for its homes and the replica is
    /// cut off.
    pub(crate) fn usable_blocks(total_blocks: u64) -> u64 {
        let tail = total_blocks % GROUP_BLOCKS;
        if tail < HOME_BLOCKS + REPLICA_BLOCKS { total_blocks - tail } else { total_blocks }
    }

    /// Blocks of the volume.
    #[cfg(test)]
    pub(crate) fn total_blocks(&self) -> u64 {
        self.total_blocks
    }

    /// Number of groups.
    pub(crate) fn groups(&self) -> u64 {
        self.total_blocks.div_ceil(GROUP_BLOCKS)
    }

    /// Levels of summary pages above the bitmaps; the root is the only page of the highest.
    pub(crate) fn levels(&self) -> u8 {
        let mut levels = 1;
        while levels < MAX_LEVELS && span(levels) < self.groups() {
            levels += 1;
        }
        levels
    }

    /// The first group below page `index` of `level`.
    pub(super) fn first_group(&self, level: u8, index: u64) -> u64 {
        index * span(level)
    }

    /// Where version `home` (0–2) of a page stands.
    pub(crate) fn home(&self, level: u8, first_group: u64, home: u8) -> BlockAddr {
        let base = if first_group == 0 { GROUP_0_HOMES } else { 0 };
        BlockAddr(first_group * GROUP_BLOCKS + base + HOMES_PER_PAGE * u64::from(level) + u64::from(home))
    }

    /// The addresses of a group that exist.
    pub(super) fn group(&self, group: u64) -> Extent {
        let start = group * GROUP_BLOCKS;
        Extent { addr: BlockAddr(start), blocks: self.total_blocks.saturating_sub(start).min(GROUP_BLOCKS) }
    }

    /// The blocks of a group that may never be used, as the bits of a bitmap.
    pub(crate) fn reserved(&self, group: u64) -> Box<[u64; WORDS]> {
        self.reserved_bits(group).into_words()
    }

    /// The group's bitmap at mkfs: reserved areas and what lies past the end of the volume.
    pub(super) fn reserved_bits(&self, group: u64) -> Bits {
        let mut bits = Bits::clear();
        let start = group * GROUP_BLOCKS;
        let mut reserve = |from: u64, to: u64| {
            let from = from.max(start);
            let to = to.min(start + GROUP_BLOCKS);
            if from < to {
                bits.set(from - start, to - from);
            }
        };
        if group == 0 {
            reserve(0, HEAD_BLOCKS);
            reserve(self.ring_start, self.ring_start + self.ring_blocks);
        } else {
            reserve(start, start + HOME_BLOCKS);
        }
        reserve(self.total_blocks - REPLICA_BLOCKS, start + GROUP_BLOCKS);
        bits
    }

    /// True if every block of the range may hold data or nodes.
    pub(crate) fn is_usable(&self, range: Extent) -> bool {
        let Some(end) = range.addr.0.checked_add(range.blocks) else { return false };
        if self.is_packed() {
            return range.blocks > 0 && range.start() >= PACKED_DATA_ADDR.0 && end <= self.total_blocks;
        }
        if range.blocks == 0 || range.start() < HEAD_BLOCKS || end > self.total_blocks - REPLICA_BLOCKS {
            return false;
        }
        let in_ring = range.start() < self.ring_start + self.ring_blocks && end > self.ring_start;
        let (group, last_group) = (range.start() / GROUP_BLOCKS, (end - 1) / GROUP_BLOCKS);
        let in_homes = group > 0 && range.start() % GROUP_BLOCKS < HOME_BLOCKS;
        // Between two groups lie the homes of the second.
        !in_ring && !in_homes && group == last_group
    }

    /// What is free below a page that was never written.
    pub(super) fn free_at_mkfs(&self, level: u8, index: u64) -> FreeBelow {
        let first = self.first_group(level, index).min(self.groups());
        let end = (first + span(level)).min(self.groups());
        let last = self.groups() - 1;
        let mut free = FreeBelow::NOTHING;
        let mut plain = end - first;
        for ((exists, group), at_end) in [(true, 0), (last != 0, last)].into_iter().zip(self.free_at_ends) {
            if !exists || !(first..end).contains(&group) {
                continue;
            }
            free.blocks += at_end.blocks;
            free.quads += at_end.quads;
            plain -= 1;
        }
        free.blocks += plain * GROUP_FREE_BLOCKS;
        free.quads += plain * (GROUP_FREE_BLOCKS / QUAD_BLOCKS);
        free
    }

    /// What an entry says is free below it.
    pub(super) fn free_below(&self, level: u8, index: u64, entry: &AllocEntry) -> FreeBelow {
        if self.is_packed() {
            return FreeBelow::NOTHING;
        }
        if entry.present {
            FreeBelow { blocks: entry.free_blocks, quads: u64::from(entry.free_quads) }
        } else {
            self.free_at_mkfs(level, index)
        }
    }

    /// Clear bits of the whole volume in the state that the root entry names.
    pub(crate) fn free_blocks(&self, root: &AllocEntry) -> u64 {
        self.free_below(self.levels(), 0, root).blocks
    }
}

/// Groups below one page of a level.
pub(super) fn span(level: u8) -> u64 {
    PAGE_CHILDREN.pow(u32::from(level))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(total_blocks: u64) -> Geometry {
        Geometry::new(total_blocks, 64, 64).unwrap()
    }

    #[test]
    fn levels_are_the_fewest_that_cover_all_groups() {
        for (groups, levels) in
            [(1, 1), (64, 1), (65, 2), (4_096, 2), (4_097, 3), (262_144, 3), (262_145, 4), (1 << 24, 4)]
        {
            assert_eq!(geometry(groups * GROUP_BLOCKS).levels(), levels, "{groups} groups");
        }
        assert!(Geometry::new((1 << 39) + 32_768, 64, 64).is_err());
    }

    #[test]
    fn homes_lie_in_reserved_blocks_and_never_meet() {
        let geometry = geometry(70 * GROUP_BLOCKS);
        assert_eq!(geometry.home(0, 0, 0), BlockAddr(18));
        assert_eq!(geometry.home(2, 0, 2), BlockAddr(26));
        assert_eq!(geometry.home(4, 0, 2), BlockAddr(32));
        assert_eq!(geometry.home(1, 64, 1), BlockAddr(64 * GROUP_BLOCKS + 4));
        let mut seen = alloc::collections::BTreeSet::new();
        for level in 0..=2 {
            for index in 0..geometry.groups().div_ceil(span(level)) {
                for home in 0..3 {
                    let addr = geometry.home(level, geometry.first_group(level, index), home);
                    assert!(seen.insert(addr));
                    assert!(geometry.reserved_bits(addr.0 / GROUP_BLOCKS).get(addr.0 % GROUP_BLOCKS));
                }
            }
        }
    }

    #[test]
    fn a_last_group_too_short_for_homes_and_replica_is_refused() {
        for tail in [1, 31] {
            let total = 3 * GROUP_BLOCKS + tail;
            assert_eq!(Geometry::new(total, 64, 64), Err(Invalid::VolumeSize(total * 4096)));
            assert_eq!(Geometry::usable_blocks(total), 3 * GROUP_BLOCKS);
        }
        assert_eq!(Geometry::usable_blocks(GROUP_BLOCKS + 32), GROUP_BLOCKS + 32);
        assert!(Geometry::new(1_023, 64, 64).is_err());
        assert!(Geometry::new(1_024, 64, 945).is_err());
        assert!(Geometry::new(1_024, 63, 64).is_err());
        assert!(Geometry::new(1_024, u64::MAX, 2).is_err());
    }

    #[test]
    fn counts_at_mkfs_are_those_of_the_reserved_bits() {
        for total in [1_024, 1_027, GROUP_BLOCKS, GROUP_BLOCKS + 33, 66 * GROUP_BLOCKS + 901] {
            let geometry = geometry(total);
            let mut sum = FreeBelow { blocks: 0, quads: 0 };
            for group in 0..geometry.groups() {
                let bits = geometry.reserved_bits(group);
                let free = geometry.free_at_mkfs(0, group);
                assert_eq!(free, FreeBelow { blocks: bits.free_blocks(), quads: bits.free_quads() });
                sum = FreeBelow { blocks: sum.blocks + free.blocks, quads: sum.quads + free.quads };
            }
            assert_eq!(geometry.free_at_mkfs(geometry.levels(), 0), sum);
            assert_eq!(geometry.free_at_mkfs(0, geometry.groups() + 5), FreeBelow { blocks: 0, quads: 0 });
        }
    }

    #[test]
    fn usable_is_what_the_reserved_bits_leave() {
        for total in [1_024, GROUP_BLOCKS, 2 * GROUP_BLOCKS + 40] {
            let geometry = geometry(total);
            for addr in (0..total).chain([u64::MAX - 1]) {
                let group = addr / GROUP_BLOCKS;
                let reserved = group >= geometry.groups() || geometry.reserved_bits(group).get(addr % GROUP_BLOCKS);
                let one = Extent { addr: BlockAddr(addr), blocks: 1 };
                assert_eq!(geometry.is_usable(one), !reserved, "block {addr} of {total}");
            }
        }
        let two = geometry(2 * GROUP_BLOCKS);
        assert!(!two.is_usable(Extent { addr: BlockAddr(200), blocks: 0 }));
        assert!(!two.is_usable(Extent { addr: BlockAddr(60), blocks: 200 }));
        assert!(!two.is_usable(Extent { addr: BlockAddr(GROUP_BLOCKS - 1), blocks: 30 }));
        assert!(!two.is_usable(Extent { addr: BlockAddr(200), blocks: u64::MAX }));
    }
}
