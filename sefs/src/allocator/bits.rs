//! The bits of one group: set means not free. Counting, changing and searching.

use alloc::boxed::Box;

use super::Extent;
use super::geometry::QUAD_BLOCKS;
use crate::types::{BLOCK_SIZE, BlockAddr, GROUP_BLOCKS};

pub(super) const WORDS: usize = 512;
const WORD_BITS: u64 = 64;
/// Blocks of a region (2 MiB), the unit in which the emptiest place is sought.
pub(super) const REGION_BLOCKS: u64 = 512;
/// Regions of a group.
pub(super) const REGIONS: usize = 64;
const REGION_WORDS: usize = 8;

/// Which free blocks a search may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// All.
    Any,
    /// Only those whose quad is broken already.
    Broken,
}

/// One bit for each block of a group. Positions and lengths stay within the group; callers check addresses first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bits(Box<[u64; WORDS]>);

impl Bits {
    /// All clear.
    pub(super) fn clear() -> Bits {
        Bits(Box::new([0; WORDS]))
    }

    /// From a stored page.
    pub(super) fn from_page(page: &[u8; BLOCK_SIZE]) -> Bits {
        let mut bits = Bits::clear();
        for (word, bytes) in bits.0.iter_mut().zip(page.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        bits
    }

    /// As it is, bit i of a group at bit i modulo 64 of word i / 64.
    pub(super) fn into_words(self) -> Box<[u64; WORDS]> {
        self.0
    }

    /// To a stored page.
    pub(super) fn to_page(&self) -> Box<[u8; BLOCK_SIZE]> {
        let mut page = Box::new([0; BLOCK_SIZE]);
        for (word, bytes) in self.0.iter().zip(page.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes();
        }
        page
    }

    #[cfg(test)]
    pub(super) fn get(&self, at: u64) -> bool {
        self.0[index(at)] & (1 << (at % WORD_BITS)) != 0
    }

    pub(super) fn set(&mut self, start: u64, len: u64) {
        for_words(start, len, |word, mask| self.0[word] |= mask);
    }

    pub(super) fn unset(&mut self, start: u64, len: u64) {
        for_words(start, len, |word, mask| self.0[word] &= !mask);
    }

    /// The first position of the range whose bit is `wanted`.
    pub(super) fn first(&self, wanted: bool, start: u64, len: u64) -> Option<u64> {
        let mut found = None;
        for_words(start, len, |word, mask| {
            let bits = if wanted { self.0[word] } else { !self.0[word] } & mask;
            if bits != 0 && found.is_none() {
                found = Some(position(word) + u64::from(bits.trailing_zeros()));
            }
        });
        found
    }

    /// The bits that are set here or there.
    pub(super) fn or(mut self, other: &Bits) -> Bits {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, more)| *word |= more);
        self
    }

    /// True if every bit of `other` is set here too.
    pub(super) fn covers(&self, other: &Bits) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// Bits that are set here and clear in `other`.
    pub(super) fn minus(&self, other: &Bits) -> Bits {
        let mut out = self.clone();
        for (word, theirs) in out.0.iter_mut().zip(other.0.iter()) {
            *word &= !theirs;
        }
        out
    }

    /// All bits turned over.
    pub(super) fn inverted(mut self) -> Bits {
        self.0.iter_mut().for_each(|word| *word = !*word);
        self
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_zeros())).sum()
    }

    pub(super) fn free_quads(&self) -> u64 {
        self.0.iter().map(|word| u64::from(quads(*word).count_ones())).sum()
    }

    /// Free quads of the words that a range touches.
    fn quads_around(&self, start: u64, len: u64) -> u64 {
        let words = index(start)..=index(start + len - 1);
        self.0[words].iter().map(|word| u64::from(quads(*word).count_ones())).sum()
    }

    pub(super) fn quad_is_free(&self, quad: u64) -> bool {
        let at = quad * QUAD_BLOCKS;
        quads(self.0[index(at)]) & (1 << (at % WORD_BITS)) != 0
    }

    pub(super) fn region_free_blocks(&self, region: usize) -> u64 {
        self.region(region).iter().map(|word| u64::from(word.count_zeros())).sum()
    }

    pub(super) fn region_free_quads(&self, region: usize) -> u64 {
        self.region(region).iter().map(|word| u64::from(quads(*word).count_ones())).sum()
    }

    fn region(&self, region: usize) -> &[u64] {
        &self.0[region * REGION_WORDS..(region + 1) * REGION_WORDS]
    }

    /// The next run of free blocks in `from..end`.
    pub(super) fn next_run(&self, pick: Pick, from: u64, end: u64) -> Option<(u64, u64)> {
        let start = self.next_picked(pick, true, from, end)?;
        let stop = self.next_picked(pick, false, start, end).unwrap_or(end);
        Some((start, stop - start))
    }

    fn next_picked(&self, pick: Pick, picked: bool, from: u64, end: u64) -> Option<u64> {
        let mut at = from;
        while at < end {
            let used = self.0[index(at)];
            let mut free = !used;
            if pick == Pick::Broken {
                free &= !(quads(used) * 0xf);
            }
            let bits = (if picked { free } else { !free }) >> (at % WORD_BITS);
            if bits != 0 {
                return Some(at + u64::from(bits.trailing_zeros())).filter(|at| *at < end);
            }
            at = (at / WORD_BITS + 1) * WORD_BITS;
        }
        None
    }

    /// The first `blocks` free blocks of a region that start at a multiple of `blocks` (a power of two up to 64).
    pub(super) fn aligned_run(&self, blocks: u64, region: usize) -> Option<u64> {
        let first = region * REGION_WORDS;
        (first..first + REGION_WORDS).find_map(|word| {
            let starts = aligned(self.0[word], blocks);
            (starts != 0).then(|| position(word) + u64::from(starts.trailing_zeros()))
        })
    }
}

/// The free blocks of a group with their counts kept.
#[derive(Clone)]
pub(super) struct View {
    bits: Bits,
    free_blocks: u64,
    free_quads: u64,
}

impl View {
    pub(super) fn new(bits: Bits) -> View {
        View { free_blocks: bits.free_blocks(), free_quads: bits.free_quads(), bits }
    }

    pub(super) fn bits(&self) -> &Bits {
        &self.bits
    }

    pub(super) fn free_blocks(&self) -> u64 {
        self.free_blocks
    }

    pub(super) fn free_quads(&self) -> u64 {
        self.free_quads
    }

    /// Takes free blocks; returns how many free quads that breaks.
    pub(super) fn take(&mut self, start: u64, len: u64) -> u64 {
        debug_assert!(self.bits.first(true, start, len).is_none());
        let before = self.bits.quads_around(start, len);
        self.bits.set(start, len);
        let broken = before - self.bits.quads_around(start, len);
        self.free_blocks -= len;
        self.free_quads -= broken;
        broken
    }

    /// Gives taken blocks back; returns how many quads become free by that.
    pub(super) fn give(&mut self, start: u64, len: u64) -> u64 {
        debug_assert!(self.bits.first(false, start, len).is_none());
        let before = self.bits.quads_around(start, len);
        self.bits.unset(start, len);
        let made = self.bits.quads_around(start, len) - before;
        self.free_blocks += len;
        self.free_quads += made;
        made
    }

    /// The region with the most of what `measure` counts (more than nothing); of equals the first after region `after`.
    pub(super) fn best_region(&self, after: usize, measure: impl Fn(&Bits, usize) -> u64) -> Option<(usize, u64)> {
        let mut best: Option<(usize, u64)> = None;
        for step in 1..=REGIONS {
            let region = (after + step) % REGIONS;
            let size = measure(&self.bits, region);
            if size > best.map_or(0, |(_, size)| size) {
                best = Some((region, size));
            }
        }
        best
    }
}

/// The part of a group's range within the group.
pub(super) fn within_group(range: Extent) -> (u64, u64, u64) {
    (range.addr.0 / GROUP_BLOCKS, range.addr.0 % GROUP_BLOCKS, range.blocks)
}

/// The runs of set bits of a group, as addresses.
pub(super) fn set_runs(bits: Bits, group: u64) -> impl Iterator<Item = Extent> {
    let clear = bits.inverted();
    let mut from = 0;
    core::iter::from_fn(move || {
        let (start, blocks) = clear.next_run(Pick::Any, from, GROUP_BLOCKS)?;
        from = start + blocks;
        Some(Extent { addr: BlockAddr(group * GROUP_BLOCKS + start), blocks })
    })
}

/// Quads of a word that are all free, each marked at its lowest bit.
fn quads(used: u64) -> u64 {
    aligned(used, QUAD_BLOCKS)
}

/// Starts of aligned runs of `blocks` free blocks in a word; `blocks` is a power of two up to 64.
fn aligned(used: u64, blocks: u64) -> u64 {
    let mut free = !used;
    let mut step = 1;
    while step < blocks {
        free &= free >> step;
        step *= 2;
    }
    free & match blocks {
        1 => u64::MAX,
        2 => 0x5555_5555_5555_5555,
        4 => 0x1111_1111_1111_1111,
        8 => 0x0101_0101_0101_0101,
        16 => 0x0001_0001_0001_0001,
        32 => 0x0000_0001_0000_0001,
        _ => 1,
    }
}

fn for_words(start: u64, len: u64, mut visit: impl FnMut(usize, u64)) {
    let end = start + len;
    let mut at = start;
    while at < end {
        let in_word = at % WORD_BITS;
        let count = (WORD_BITS - in_word).min(end - at);
        let mask = if count == WORD_BITS { u64::MAX } else { ((1 << count) - 1) << in_word };
        visit(index(at), mask);
        at += count;
    }
}

/// The word of a position within a group: far below any `usize`.
fn index(at: u64) -> usize {
    index_of(at / WORD_BITS)
}

fn index_of(small: u64) -> usize {
    usize::try_from(small).unwrap_or(usize::MAX)
}

fn position(word: usize) -> u64 {
    // A word's number is below 512.
    u64::try_from(word).unwrap_or(u64::MAX) * WORD_BITS
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn bits_with(used: &[(u64, u64)]) -> Bits {
        let mut bits = Bits::clear();
        used.iter().for_each(|(start, len)| bits.set(*start, *len));
        bits
    }

    #[test]
    fn bit_i_stands_in_byte_i_over_8() {
        let bits = bits_with(&[(0, 1), (11, 2), (32_767, 1)]);
        let page = bits.to_page();
        assert_eq!((page[0], page[1], page[2], page[4095]), (1, 0b0001_1000, 0, 0x80));
        assert_eq!(Bits::from_page(&page), bits);
    }

    #[test]
    fn only_aligned_runs_hold_nodes() {
        let bits = bits_with(&[(0, 1), (9, 1), (24, 40)]);
        assert_eq!(bits.aligned_run(4, 0), Some(4));
        assert_eq!(bits.aligned_run(8, 0), Some(16));
        assert_eq!(bits.aligned_run(16, 0), Some(64));
        assert_eq!(bits.aligned_run(1, 0), Some(1));
        assert_eq!(bits_with(&[(0, 64)]).aligned_run(64, 0), Some(64));
        assert_eq!(bits_with(&[(512, 512)]).aligned_run(4, 1), None);
    }

    proptest! {
        #[test]
        fn counts_and_searches_equal_an_array(
            changes in prop::collection::vec((any::<bool>(), 0_u64..700, 1_u64..150), 1..40),
            from in 0_u64..700,
            len in 1_u64..300,
        ) {
            let mut bits = Bits::clear();
            let mut model = [false; 1024];
            for (set, start, len) in changes {
                if set { bits.set(start, len) } else { bits.unset(start, len) }
                model[start as usize..(start + len) as usize].fill(set);
            }
            let quad_free = |at: u64| model[(at / 4 * 4) as usize..][..4].iter().all(|used| !used);
            let free = model.iter().filter(|used| !**used).count() as u64;
            prop_assert_eq!(bits.free_blocks(), GROUP_BLOCKS - 1024 + free);
            let free_quads = (0..256).filter(|quad| quad_free(quad * 4)).count() as u64;
            prop_assert_eq!(bits.free_quads(), (GROUP_BLOCKS - 1024) / 4 + free_quads);
            for wanted in [false, true] {
                let first = (from..from + len).find(|at| model[*at as usize] == wanted);
                prop_assert_eq!(bits.first(wanted, from, len), first);
            }
            for pick in [Pick::Any, Pick::Broken] {
                let fits = |at: &u64| !model[*at as usize] && (pick == Pick::Any || !quad_free(*at));
                let start = (from..from + len).find(fits);
                let run = start.map(|start| (start, (start..from + len).take_while(|at| fits(at)).count() as u64));
                prop_assert_eq!(bits.next_run(pick, from, from + len), run);
            }
            let runs: Vec<u64> = set_runs(bits.clone(), 3).flat_map(|run| run.start()..run.end()).collect();
            let used: Vec<u64> = (0..1024).filter(|at| model[*at as usize]).map(|at| at + 3 * GROUP_BLOCKS).collect();
            prop_assert_eq!(runs, used);
        }
    }
}
