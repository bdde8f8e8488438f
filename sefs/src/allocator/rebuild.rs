//! Allocation pages made anew in memory. Until a checkpoint has written them all they stand over the stored ones.
//!
//! An entry of such a page names epoch 0, which nothing is ever sealed with; that is how the walks tell it from a stored
//! one. Its home is chosen so that the next one, which a write takes, is named by neither slot.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::bits::Bits;
use super::geometry::{FreeBelow, Geometry, PAGE_CHILDREN};
use super::pages::{ABSENT, Summary, saturated, slot, sum};
use crate::format::AllocEntry;
use crate::types::{BLOCK_SIZE, EpochId};

/// The bitmap of a group: bit i of word w is block 64 w + i.
type Words = [u64; BLOCK_SIZE / 8];

/// Whole allocation pages of one state.
pub(crate) struct Made {
    /// The root's entry.
    pub(crate) root: AllocEntry,
    pages: BTreeMap<(u8, u64), Box<[u8; BLOCK_SIZE]>>,
}

/// Whether an entry names a page that was made and not written yet.
pub(crate) fn is_made(entry: &AllocEntry) -> bool {
    entry.present && entry.epoch == EpochId(0)
}

impl Made {
    /// Pages for what is in use, by group. `homes` has bit h set for home h of a page that a slot names.
    pub(crate) fn new(
        geometry: &Geometry,
        in_use: &BTreeMap<u64, Box<Words>>,
        homes: &BTreeMap<(u8, u64), u8>,
    ) -> Made {
        let mut made = Made { root: ABSENT, pages: BTreeMap::new() };
        let mut entries: BTreeMap<u64, AllocEntry> = BTreeMap::new();
        for (&group, words) in in_use.iter().filter(|(group, _)| **group < geometry.groups()) {
            let mut page = Box::new([0; BLOCK_SIZE]);
            for (bytes, word) in page.as_chunks_mut().0.iter_mut().zip(words.iter()) {
                *bytes = word.to_le_bytes();
            }
            let bits = Bits::from_page(&page).or(&geometry.reserved_bits(group));
            let free = FreeBelow { blocks: bits.free_blocks(), quads: bits.free_quads() };
            entries.insert(group, made.add(geometry, 0, group, bits.to_page(), free, homes));
        }
        for level in 1..=geometry.levels() {
            let mut summaries: BTreeMap<u64, Box<Summary>> = BTreeMap::new();
            for (child, entry) in entries {
                summaries.entry(child / PAGE_CHILDREN).or_insert_with(|| Box::new([ABSENT; 64]))[slot(child)] = entry;
            }
            entries = BTreeMap::new();
            for (index, summary) in summaries {
                let mut page = Box::new([0; BLOCK_SIZE]);
                for (bytes, child) in page.as_chunks_mut().0.iter_mut().zip(summary.iter()) {
                    *bytes = child.encode();
                }
                let free = sum(geometry, level, index, &summary);
                entries.insert(index, made.add(geometry, level, index, page, free, homes));
            }
        }
        made.root = entries.remove(&0).unwrap_or(ABSENT);
        made
    }

    fn add(
        &mut self,
        geometry: &Geometry,
        level: u8,
        index: u64,
        page: Box<[u8; BLOCK_SIZE]>,
        free: FreeBelow,
        homes: &BTreeMap<(u8, u64), u8>,
    ) -> AllocEntry {
        self.pages.insert((level, geometry.first_group(level, index)), page);
        let named = homes.get(&(level, index)).copied().unwrap_or(0);
        // Two slots name two homes at most.
        let next = (0..3).find(|home| named & (1 << home) == 0).unwrap_or(0);
        let (free_quads, free_blocks) = (saturated(free.quads), free.blocks);
        AllocEntry { present: true, home: (next + 2) % 3, free_quads, free_blocks, ..ABSENT }
    }

    /// The page of a level whose groups begin with `first_group`.
    pub(crate) fn page(&self, level: u8, first_group: u64) -> Option<&[u8; BLOCK_SIZE]> {
        self.pages.get(&(level, first_group)).map(|page| &**page)
    }
}
