//! Space: every block that something refers to, against the bitmaps, the counts, and the epochs' counts.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use super::image::{Image, is_born};
use super::log::Replay;
use super::{Finding, Loss, Report};
use crate::allocator::Extent;
use crate::format::{
    ALLOC_ENTRY_LEN, ALLOC_FANOUT, AllocEntry, BlockRef, BlockState, Chunk, Key, LIVE_UNKNOWN, SpaceRecord,
};
use crate::sealer::OpenFailure;
use crate::types::{BLOCK_SIZE, BlockAddr, EpochId, GROUP_BLOCKS, ObjectId};

const WORDS: usize = BLOCK_SIZE / 8;
const FANOUT: u64 = 64;
/// Homes that every group but the first starts with.
const HOME_BLOCKS: u64 = 16;
const QUAD_BLOCKS: u64 = 4;

/// One group's bits; bit i is its block i.
pub(crate) type Bits = [u64; WORDS];

/// A set of blocks, with memory for those groups only that have some.
#[derive(Default)]
pub(super) struct Seen(BTreeMap<u64, Box<Bits>>);

impl Seen {
    /// Adds a block; false if it was there.
    pub(super) fn add(&mut self, addr: BlockAddr) -> bool {
        let (group, word, bit) = place(addr);
        let bits = self.0.entry(group).or_insert_with(|| Box::new([0; WORDS]));
        let new = bits[word] & bit == 0;
        bits[word] |= bit;
        new
    }

    /// The first block from `from` up to `end` that is in the set, or that is not.
    pub(super) fn next(&self, from: u64, end: u64, wanted: bool) -> u64 {
        let mut at = from;
        while at < end && self.has(BlockAddr(at)) != wanted {
            // A group without memory is skipped at once: an image may claim to be far longer than it is.
            at = match self.0.contains_key(&(at / GROUP_BLOCKS)) {
                true => at + 1,
                false => (at / GROUP_BLOCKS + 1) * GROUP_BLOCKS,
            };
        }
        at.min(end)
    }

    pub(super) fn has(&self, addr: BlockAddr) -> bool {
        let (group, word, bit) = place(addr);
        self.0.get(&group).is_some_and(|bits| bits[word] & bit != 0)
    }
}

fn place(addr: BlockAddr) -> (u64, usize, u64) {
    let within = addr.0 % GROUP_BLOCKS;
    // Below 512, for a group has 32,768 blocks.
    let word = usize::try_from(within / 64).unwrap_or(0);
    (addr.0 / GROUP_BLOCKS, word, 1 << (within % 64))
}

/// What the trees and the log refer to.
pub(super) struct Space {
    /// Blocks that the newest checkpoint reaches.
    stored: Seen,
    /// Data blocks that the log gives to files since.
    logged: Seen,
    /// What is sealed with each epoch, and one place of it.
    live: BTreeMap<EpochId, (u64, BlockAddr)>,
    /// How much of that is allocation pages.
    live_pages: BTreeMap<EpochId, u64>,
    nodes: u64,
    unwritten: u64,
    /// The object whose chunks are being seen, and its blocks so far.
    object: Option<(ObjectId, u64)>,
    truth: Truth,
}

/// What allocation pages, counts and space records should say, as far as it is known; complete if the walk was.
#[derive(Default)]
pub(crate) struct Truth {
    /// Tree nodes and data blocks sealed with each epoch.
    pub(crate) live: BTreeMap<EpochId, u64>,
    /// Allocation pages sealed with each epoch.
    pub(crate) live_pages: BTreeMap<EpochId, u64>,
    /// Tree nodes.
    pub(crate) nodes: u64,
    /// Unwritten blocks of the stored chunks.
    pub(crate) unwritten: u64,
    /// Blocks of objects whose stored space record says something else.
    pub(crate) spaces: BTreeMap<ObjectId, u64>,
    /// By group, what is in use or leaked, but not what only the log names.
    pub(crate) in_use: BTreeMap<u64, Box<Bits>>,
    /// What is marked in use and nothing refers to.
    pub(crate) leaked: alloc::vec::Vec<Extent>,
}

/// Free blocks and quads.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Free {
    blocks: u64,
    quads: u64,
}

impl Space {
    pub(super) fn new(image: &Image) -> Space {
        let mut space = Space {
            stored: Seen::default(),
            logged: Seen::default(),
            live: BTreeMap::new(),
            live_pages: BTreeMap::new(),
            truth: Truth::default(),
            nodes: 0,
            unwritten: 0,
            object: None,
        };
        for page in &image.checkpoint.epoch_pages {
            space.stored.add(page.addr);
        }
        space
    }

    /// A node is referred to; false if it must not be looked at.
    pub(super) fn node(&mut self, image: &Image, reference: &BlockRef, report: &mut Report<'_>) -> bool {
        let (first, blocks) = (reference.addr, image.node_blocks());
        if !image.is_usable(first, blocks) {
            report.found(Finding::Address { addr: first });
            return false;
        }
        let twice = (first.0..first.0 + blocks).map(BlockAddr).filter(|addr| !self.stored.add(*addr)).min();
        if let Some(addr) = twice {
            report.found(Finding::ReferredTwice { addr });
            return false;
        }
        self.nodes += 1;
        self.lives(reference.epoch, first);
        true
    }

    /// A stored chunk, and what it is together with what images below have.
    pub(super) fn chunk(
        &mut self,
        image: &Image,
        key: Key,
        (chunk, content): (&Chunk, &Chunk),
        incomplete: bool,
        report: &mut Report<'_>,
    ) {
        let object = ObjectId(key.object);
        if self.object.is_none_or(|(current, _)| current != object) {
            self.end_object(incomplete, report);
            self.object = Some((object, 0));
        }
        for (_, state) in chunk.iter() {
            match state {
                BlockState::Absent => {}
                BlockState::Unwritten => self.unwritten += 1,
                BlockState::Data(loc) => {
                    self.lives(loc.epoch, loc.addr);
                    if !image.is_usable(loc.addr, 1) {
                        report.found(Finding::Address { addr: loc.addr });
                    } else if !self.stored.add(loc.addr) {
                        report.found(Finding::ReferredTwice { addr: loc.addr });
                    }
                    if !is_born(loc.birth, image.checkpoint.generation, false) {
                        report.found(Finding::Birth { addr: loc.addr, birth: loc.birth });
                    }
                }
            }
        }
        if let Some((_, used)) = &mut self.object {
            *used += u64::from(content.data_blocks() + content.unwritten_blocks());
        }
    }

    /// An object's stored space record.
    pub(super) fn record(&mut self, key: Key, record: SpaceRecord, incomplete: bool, report: &mut Report<'_>) {
        let object = ObjectId(key.object);
        let found = match self.object {
            Some((current, used)) if current == object => {
                self.object = None;
                used
            }
            _ => 0,
        };
        if record.data_blocks != found && !incomplete {
            self.truth.spaces.insert(object, found);
            report.found(Finding::Space { object, stored: record.data_blocks, found });
        }
    }

    /// No more chunks of the object follow, nor its space record.
    pub(super) fn end_object(&mut self, incomplete: bool, report: &mut Report<'_>) {
        if let Some((object, found)) = self.object.take()
            && found > 0
            && !incomplete
        {
            self.truth.spaces.insert(object, found);
            report.found(Finding::Space { object, stored: 0, found });
        }
    }

    /// Compares everything with what the checkpoint and the allocation pages say; returns what they should.
    pub(super) fn finish(mut self, image: &Image, replay: &Replay, scope: Scope, report: &mut Report<'_>) -> Truth {
        self.compare_all(image, replay, scope, report);
        let Space { stored, live, live_pages, nodes, unwritten, mut truth, .. } = self;
        for (group, bits) in stored.0 {
            truth.in_use.entry(group).or_insert(bits);
        }
        let pages = |epoch: &EpochId| live_pages.get(epoch).copied().unwrap_or(0);
        truth.live = live.iter().map(|(epoch, (count, _))| (*epoch, count - pages(epoch))).collect();
        Truth { live_pages, nodes, unwritten, ..truth }
    }

    fn compare_all(&mut self, image: &Image, replay: &Replay, scope: Scope, report: &mut Report<'_>) {
        let Scope { incomplete, .. } = scope;
        self.logged_data(image, replay, report);
        let checkpoint = &image.checkpoint;
        let levels = image.geometry.levels();
        let mut pages = Pages { image, space: self, scope, unopened: false };
        let free = pages.page(levels, 0, &checkpoint.alloc_root, report);
        let unopened = pages.unopened;
        if free.blocks != checkpoint.free_blocks && !unopened {
            report.found(Finding::FreeBlocks { stored: checkpoint.free_blocks, found: free.blocks });
        }
        if incomplete {
            return;
        }
        if checkpoint.nodes != self.nodes {
            report.found(Finding::NodeCount { stored: checkpoint.nodes, found: self.nodes });
        }
        if checkpoint.unwritten_blocks != self.unwritten {
            report.found(Finding::Unwritten { stored: checkpoint.unwritten_blocks, found: self.unwritten });
        }
        if !unopened {
            self.check_epochs(image, report);
        }
    }

    /// Data blocks that only the log names: at places that were free.
    fn logged_data(&mut self, image: &Image, replay: &Replay, report: &mut Report<'_>) {
        let known: BTreeMap<EpochId, u64> = image.sealer.epochs().into_iter().collect();
        for (_, loc) in replay.data() {
            if !image.is_usable(loc.addr, 1) {
                report.found(Finding::Address { addr: loc.addr });
            } else if self.stored.has(loc.addr) || !self.logged.add(loc.addr) {
                report.found(Finding::ReferredTwice { addr: loc.addr });
            }
            if !known.contains_key(&loc.epoch) {
                report.found(Finding::UnknownEpoch { epoch: loc.epoch, addr: loc.addr });
            }
            if !is_born(loc.birth, image.checkpoint.generation, true) {
                report.found(Finding::Birth { addr: loc.addr, birth: loc.birth });
            }
        }
    }

    fn check_epochs(&self, image: &Image, report: &mut Report<'_>) {
        for (&epoch, &(_, addr)) in &self.live {
            if !image.epochs.contains_key(&epoch) {
                report.found(Finding::UnknownEpoch { epoch, addr });
            }
        }
        for (&epoch, &stored) in image.epochs.iter().filter(|(_, stored)| **stored != LIVE_UNKNOWN) {
            let found = self.live.get(&epoch).map_or(0, |(count, _)| *count);
            if stored < found {
                report.found(Finding::EpochLiveLow { epoch, stored, found });
            }
            if stored > found {
                report.found(Finding::EpochLiveHigh { epoch, stored, found });
            }
        }
    }

    fn lives(&mut self, epoch: EpochId, addr: BlockAddr) {
        self.live.entry(epoch).or_insert((0, addr)).0 += 1;
    }
}

/// What can be said of allocation.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// Not everything that refers to blocks was seen.
    pub(super) incomplete: bool,
    /// Pages that do not authenticate are no error.
    pub(super) pages_given_up: bool,
}

/// The walk over the allocation pages.
struct Pages<'a> {
    image: &'a Image,
    space: &'a mut Space,
    scope: Scope,
    /// A page did not open, so sums and epochs' counts are not known.
    unopened: bool,
}

impl Pages<'_> {
    /// Checks a page and all below it. No deeper than the levels of the volume's size, 4 at most.
    fn page(&mut self, level: u8, index: u64, entry: &AllocEntry, report: &mut Report<'_>) -> Free {
        let group = index.saturating_mul(span(level));
        if group >= self.image.geometry.groups() {
            if entry.present {
                report.found(Finding::AllocPageCorrupt { group, level, why: "it covers groups that do not exist" });
            }
            return Free::default();
        }
        if level == 0 {
            report.progress(1);
        }
        if !entry.present {
            return self.absent(level, index, report);
        }
        let stated = Free { blocks: entry.free_blocks, quads: u64::from(entry.free_quads) };
        let Some(bytes) = self.open(level, group, entry, report) else {
            self.unopened = true;
            return stated;
        };
        let found = if level == 0 {
            self.bitmap(group, &words(&bytes), report)
        } else {
            self.summary(level, index, &bytes, report)
        };
        let quads = u64::from(u32::try_from(found.quads).unwrap_or(u32::MAX));
        if stated != (Free { quads, ..found }) {
            report.found(Finding::AllocCounts { group, level, stored: stated.blocks, found: found.blocks });
        }
        stated
    }

    fn open(
        &mut self,
        level: u8,
        group: u64,
        entry: &AllocEntry,
        report: &mut Report<'_>,
    ) -> Option<alloc::vec::Vec<u8>> {
        let addr = self.image.geometry.home(level, group, entry.home);
        self.space.lives(entry.epoch, addr);
        *self.space.live_pages.entry(entry.epoch).or_default() += 1;
        let mut bytes = match self.image.read_bytes(addr, BLOCK_SIZE) {
            Ok(bytes) => bytes,
            Err(failure) => {
                if !self.scope.pages_given_up {
                    report.found(Finding::Unreadable { addr, errno: failure.errno, loss: Some(Loss::Allocation) });
                }
                return None;
            }
        };
        match self.image.sealer.open_alloc_page(level, entry, &mut bytes) {
            Ok(()) => Some(bytes),
            Err(OpenFailure::Auth) => {
                if !self.scope.pages_given_up {
                    report.found(Finding::AllocPageTampered { group, level });
                }
                None
            }
            Err(OpenFailure::UnknownEpoch(epoch)) => {
                report.found(Finding::UnknownEpoch { epoch, addr });
                None
            }
        }
    }

    fn summary(&mut self, level: u8, index: u64, bytes: &[u8], report: &mut Report<'_>) -> Free {
        let group = index.saturating_mul(span(level));
        let mut sum = Free::default();
        let (entries, _) = bytes.as_chunks::<ALLOC_ENTRY_LEN>();
        for (child, bytes) in (index * FANOUT..).zip(entries.iter().take(ALLOC_FANOUT)) {
            match AllocEntry::decode(bytes) {
                Ok(entry) => {
                    let below = self.page(level - 1, child, &entry, report);
                    sum.blocks = sum.blocks.saturating_add(below.blocks);
                    sum.quads = sum.quads.saturating_add(below.quads);
                }
                Err(why) => {
                    self.unopened = true;
                    report.found(Finding::AllocPageCorrupt { group, level, why });
                }
            }
        }
        sum
    }

    /// A page that was never written: nothing below it may be in use.
    fn absent(&mut self, level: u8, index: u64, report: &mut Report<'_>) -> Free {
        let groups = self.image.geometry.groups();
        let first = index.saturating_mul(span(level));
        let end = first.saturating_add(span(level)).min(groups);
        if level > 0 {
            report.progress(end - first);
        }
        let used: alloc::vec::Vec<u64> = self.space.stored.0.range(first..end).map(|(group, _)| *group).collect();
        for group in used {
            let reserved = self.reserved(group);
            self.compare(group, &reserved, &reserved, report);
        }
        let mut free = Free::default();
        let mut plain = end - first;
        for group in [Some(0), (groups > 1).then(|| groups - 1)].into_iter().flatten() {
            if (first..end).contains(&group) {
                let special = free_in(&self.reserved(group));
                free.blocks += special.blocks;
                free.quads += special.quads;
                plain -= 1;
            }
        }
        free.blocks += plain * (GROUP_BLOCKS - HOME_BLOCKS);
        free.quads += plain * ((GROUP_BLOCKS - HOME_BLOCKS) / QUAD_BLOCKS);
        free
    }

    fn bitmap(&mut self, group: u64, bits: &Bits, report: &mut Report<'_>) -> Free {
        let reserved = self.reserved(group);
        if reserved.iter().zip(bits).any(|(reserved, bits)| reserved & !bits != 0) {
            report.found(Finding::AllocPageCorrupt { group, level: 0, why: "a reserved block is marked free" });
        }
        self.compare(group, bits, &reserved, report);
        free_in(bits)
    }

    /// Compares a group's bitmap with what refers to its blocks.
    fn compare(&mut self, group: u64, bits: &Bits, reserved: &Bits, report: &mut Report<'_>) {
        let none = [0; WORDS];
        let stored = self.space.stored.0.get(&group).map_or(&none, |bits| bits);
        let logged = self.space.logged.0.get(&group).map_or(&none, |bits| bits);
        let combine = |f: fn([u64; 4]) -> u64| {
            let mut out = Box::new([0; WORDS]);
            for (i, out) in out.iter_mut().enumerate() {
                *out = f([bits[i], reserved[i], stored[i], logged[i]]);
            }
            out
        };
        runs(&combine(|[bits, _, stored, _]| stored & !bits), group, |addr, blocks| {
            report.found(Finding::NotAllocated { addr, blocks });
        });
        if self.scope.incomplete {
            return;
        }
        let in_use = combine(|[bits, reserved, stored, logged]| stored | reserved | bits & !logged);
        runs(
            &combine(|[bits, reserved, stored, logged]| bits & logged & !reserved & !stored),
            group,
            |addr, blocks| {
                report.found(Finding::LogTookUsed { addr, blocks });
            },
        );
        let leaked = combine(|[bits, reserved, stored, logged]| bits & !reserved & !stored & !logged);
        let truth = &mut self.space.truth;
        runs(&leaked, group, |addr, blocks| {
            truth.leaked.push(Extent { addr, blocks });
            report.found(Finding::Leaked { addr, blocks });
        });
        truth.in_use.insert(group, in_use);
    }

    /// The blocks of a group that may never be used.
    fn reserved(&self, group: u64) -> Box<Bits> {
        self.image.geometry.reserved(group)
    }
}

/// Groups below one page of a level.
fn span(level: u8) -> u64 {
    FANOUT.saturating_pow(u32::from(level))
}

fn words(bytes: &[u8]) -> Box<Bits> {
    let mut bits = Box::new([0; WORDS]);
    for (word, bytes) in bits.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    bits
}

fn free_in(bits: &Bits) -> Free {
    let mut free = Free::default();
    for word in bits {
        free.blocks += u64::from(word.count_zeros());
        // After this, the lowest bit of each four tells whether one of them is set.
        let pairs = word | word >> 1;
        let quads = pairs | pairs >> 2;
        free.quads += u64::from((!quads & 0x1111_1111_1111_1111).count_ones());
    }
    free
}

/// Runs of set bits, as blocks.
fn runs(bits: &Bits, group: u64, mut found: impl FnMut(BlockAddr, u64)) {
    let mut start = None;
    for (word, first) in bits.iter().zip((group * GROUP_BLOCKS..).step_by(64)) {
        // As many steps as there are borders between set and clear bits.
        let mut done = 0;
        while done < 64 {
            let rest = word >> done;
            let same = if start.is_some() { rest.trailing_ones() } else { rest.trailing_zeros() };
            done = (done + same).min(64);
            if done < 64 {
                let at = first + u64::from(done);
                start = match start {
                    Some(from) => {
                        found(BlockAddr(from), at - from);
                        None
                    }
                    None => Some(at),
                };
            }
        }
    }
    if let Some(from) = start {
        found(BlockAddr(from), (group + 1) * GROUP_BLOCKS - from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quads_are_aligned_fours_of_clear_bits() {
        let mut bits = [0; WORDS];
        assert!(free_in(&bits) == Free { blocks: 32_768, quads: 8_192 });
        bits[0] = 0b1000_0000_0001_1000;
        assert!(free_in(&bits) == Free { blocks: 32_765, quads: 8_189 });
        bits = [u64::MAX; WORDS];
        assert!(free_in(&bits) == Free::default());
    }

    #[test]
    fn runs_cross_words_and_end_with_the_group() {
        let mut bits = [0; WORDS];
        bits[0] = 1 << 63 | 1;
        bits[1] = 1;
        bits[2] = u64::MAX;
        bits[4] = 0b1011 << 20;
        bits[WORDS - 1] = 1 << 63;
        assert_eq!(runs_of(&bits), [(0, 1), (63, 2), (128, 64), (276, 2), (279, 1), (32_767, 1)]);
        assert_eq!(runs_of(&[u64::MAX; WORDS]), [(0, 32_768)]);
        assert_eq!(runs_of(&[0; WORDS]), []);
    }

    fn runs_of(bits: &Bits) -> alloc::vec::Vec<(u64, u64)> {
        let mut found = alloc::vec::Vec::new();
        runs(bits, 1, |addr, blocks| found.push((addr.0 - GROUP_BLOCKS, blocks)));
        found
    }
}
