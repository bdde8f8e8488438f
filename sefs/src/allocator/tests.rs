//! The allocator on a disk in memory. `model` compares it with sets of addresses over random steps, `hostile` forges its
//! pages; here stand the promises one by one.

mod hostile;
mod model;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use super::geometry::span;
use super::pages::ABSENT;
use super::*;
use crate::error::{Corrupt, Error, Posix, Tampered};
use crate::types::GROUP_BLOCKS;

/// A disk of pages. The nonce is a serial number, which has to be the one that stands at the address.
#[derive(Default)]
struct Disk {
    #[allow(clippy::type_complexity)]
    pages: Mutex<BTreeMap<BlockAddr, (u64, Box<[u8; BLOCK_SIZE]>)>>,
    serial: Mutex<u64>,
    reads: Mutex<u64>,
    failing: Mutex<bool>,
}

fn nonce(serial: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&serial.to_le_bytes());
    nonce
}

impl PageIo for Disk {
    fn read_page(&self, level: u8, group: u64, addr: BlockAddr, entry: &AllocEntry) -> Result<Box<[u8; BLOCK_SIZE]>> {
        *self.reads.lock() += 1;
        match self.pages.lock().get(&addr) {
            Some((serial, page)) if nonce(*serial) == entry.nonce => Ok(page.clone()),
            _ => Err(Tampered::AllocPage { group, level }.into()),
        }
    }

    fn write_page(
        &self,
        _: u8,
        addr: BlockAddr,
        page: &[u8; BLOCK_SIZE],
        _: &AllocEntry,
    ) -> Result<(EpochId, Nonce, Tag)> {
        if *self.failing.lock() {
            return Err(Error::Rng);
        }
        let mut serial = self.serial.lock();
        *serial += 1;
        self.pages.lock().insert(addr, (*serial, Box::new(*page)));
        Ok((EpochId(1), nonce(*serial), [0; 16]))
    }
}

impl Disk {
    fn reads(&self) -> u64 {
        *self.reads.lock()
    }

    /// Every page of a state can be read and is as its parent says.
    fn demand_whole(&self, geometry: &Geometry, root: &AllocEntry) -> Vec<bool> {
        let allocator = Allocator::new(*geometry, *root, geometry.free_blocks(root), Generation(1)).unwrap();
        let mut used = vec![false; geometry.total_blocks() as usize];
        for group in 0..geometry.groups() {
            for run in allocator.in_use(self, group).unwrap() {
                used[run.start() as usize..run.end() as usize].fill(true);
            }
        }
        used
    }
}

fn volume(total_blocks: u64) -> (Geometry, Allocator, Disk) {
    let geometry = Geometry::new(total_blocks, 64, 64).unwrap();
    let free = geometry.free_blocks(&ABSENT);
    (geometry, Allocator::new(geometry, ABSENT, free, Generation(0)).unwrap(), Disk::default())
}

/// Allocates and names in one step, as an operation and its log group do.
fn data(allocator: &Allocator, disk: &Disk, blocks: u64) -> Result<Vec<Extent>> {
    let runs = allocator.allocate_data(disk, blocks, false)?;
    runs.iter().try_for_each(|run| allocator.name(*run))?;
    Ok(runs)
}

fn checkpoint(allocator: &Allocator, disk: &Disk, generation: u64) -> AllocEntry {
    allocator.freeze();
    let root = allocator.write_pages(disk, None).unwrap();
    allocator.finish(Generation(generation)).unwrap();
    root
}

fn blocks_of(runs: &[Extent]) -> u64 {
    runs.iter().map(|run| run.blocks).sum()
}

fn no_space<T>(result: Result<T>) -> bool {
    result.map(drop) == Err(Error::Posix(Posix::NoSpace))
}

#[test]
fn a_sparse_petabyte_costs_nothing() {
    let (geometry, allocator, disk) = volume(1 << 39);
    assert_eq!(allocator.counts().free_blocks, geometry.free_blocks(&ABSENT));
    data(&allocator, &disk, 1_000).unwrap();
    allocator.freeze();
    allocator.allocate_node(&disk, 4, Interval::Frozen).unwrap();
    let root = allocator.write_pages(&disk, None).unwrap();
    assert_eq!(disk.reads(), 0, "what was never written is not read");
    assert_eq!(disk.pages.lock().len(), 5, "one path of pages");
    allocator.finish(Generation(1)).unwrap();
    assert_eq!((root.free_quads, root.free_blocks), (u32::MAX, geometry.free_blocks(&ABSENT) - 1_004));
    // The count of quads does not fit its field; it is added up from what stands below.
    let before = allocator.counts();
    let again = Allocator::new(geometry, root, root.free_blocks, Generation(1)).unwrap();
    data(&again, &disk, 4).unwrap();
    assert_eq!(again.counts().free_quads, before.free_quads - 1);
}

#[test]
fn fill_delete_and_refill_end_where_they_began() {
    let (_, allocator, disk) = volume(3 * GROUP_BLOCKS + 5_000);
    let empty = allocator.counts();
    for round in 0..3 {
        let mut runs = Vec::new();
        while let Ok(more) = data(&allocator, &disk, 777) {
            runs.extend(more);
        }
        let rest = allocator.counts().free_blocks;
        assert!(rest < 777);
        runs.extend(data(&allocator, &disk, rest).unwrap());
        let full = Counts { free_blocks: 0, free_quads: 0, data_blocks: empty.free_blocks, ..empty };
        assert_eq!(allocator.counts(), full);
        assert!(no_space(data(&allocator, &disk, 1)));
        assert!(no_space(allocator.allocate_node(&disk, 4, Interval::Active)));
        assert!(no_space(allocator.allocate_block(&disk, Interval::Active)));
        checkpoint(&allocator, &disk, 4 * round + 1);
        runs.iter().for_each(|run| allocator.release(*run).unwrap());
        let root = checkpoint(&allocator, &disk, 4 * round + 2);
        assert_eq!(allocator.counts().free_blocks, 0, "not before the next checkpoint");
        assert_eq!(allocator.counts().pending_blocks, empty.free_blocks);
        assert_eq!((root.free_blocks, u64::from(root.free_quads)), (empty.free_blocks, empty.free_quads));
        checkpoint(&allocator, &disk, 4 * round + 3);
        assert_eq!(allocator.counts(), empty);
    }
}

#[test]
fn a_full_volume_is_not_searched_again_and_again() {
    let (_, allocator, disk) = volume(200 * GROUP_BLOCKS);
    while data(&allocator, &disk, 20_000).is_ok() {}
    let rest = allocator.counts().free_blocks;
    let mut runs = data(&allocator, &disk, rest).unwrap();
    checkpoint(&allocator, &disk, 1);
    let before = disk.reads();
    for _ in 0..100 {
        assert!(no_space(data(&allocator, &disk, 1)));
        assert!(no_space(allocator.allocate_node(&disk, 4, Interval::Active)));
    }
    assert_eq!(disk.reads(), before, "counters say so");
    // A little free space somewhere is found, and what was looked at is remembered.
    let run = runs.pop().unwrap();
    let place = Extent::new(BlockAddr(run.addr.0 & !3), 4);
    allocator.release(place).unwrap();
    checkpoint(&allocator, &disk, 2);
    checkpoint(&allocator, &disk, 3);
    let before = disk.reads();
    assert_eq!(data(&allocator, &disk, 1).unwrap(), [Extent::new(place.addr, 1)]);
    assert!(disk.reads() - before <= 8, "{} pages for one block", disk.reads() - before);
    let before = disk.reads();
    assert!(no_space(allocator.allocate_node(&disk, 4, Interval::Active)));
    assert_eq!(data(&allocator, &disk, 3).unwrap(), [Extent::new(BlockAddr(place.addr.0 + 1), 3)]);
    assert_eq!(disk.reads(), before);
}

#[test]
fn metadata_find_quads_on_a_fragmented_volume() {
    let (_, allocator, disk) = volume(GROUP_BLOCKS);
    allocator.set_reserve(400);
    let mut runs = Vec::new();
    while let Ok(more) = data(&allocator, &disk, 64) {
        runs.extend(more);
    }
    let counts = allocator.counts();
    assert!((400..464).contains(&counts.free_blocks) && counts.free_quads >= 100, "{counts:?}");
    assert!(no_space(data(&allocator, &disk, 64)));
    // Every other block becomes free: half the volume, and not one quad of it.
    for run in &runs {
        (run.start()..run.end())
            .step_by(2)
            .try_for_each(|addr| allocator.release(Extent::new(BlockAddr(addr), 1)))
            .unwrap();
    }
    checkpoint(&allocator, &disk, 1);
    checkpoint(&allocator, &disk, 2);
    let before = allocator.counts();
    assert!(before.free_blocks > 15_000 && before.free_quads >= 100);
    let fragments = data(&allocator, &disk, 10_000).unwrap();
    assert_eq!(blocks_of(&fragments), 10_000);
    assert_eq!(allocator.counts().free_quads, before.free_quads, "data take what is broken already");
    let nodes = (0..before.free_quads).map(|_| allocator.allocate_node(&disk, 4, Interval::Active).unwrap());
    assert_eq!(nodes.collect::<BTreeSet<_>>().len() as u64, before.free_quads);
    assert!(no_space(allocator.allocate_node(&disk, 4, Interval::Active)));
    allocator.allocate_block(&disk, Interval::Active).unwrap();
}

#[test]
fn the_last_of_the_reserve_is_for_metadata() {
    let (_, allocator, disk) = volume(1_024);
    allocator.set_reserve(320);
    let free = allocator.counts().free_blocks;
    assert!(no_space(allocator.allocate_data(&disk, free - 319, false)));
    allocator.allocate_data(&disk, free - 320, false).unwrap();
    assert!(no_space(allocator.allocate_data(&disk, 1, false)));
    // A sixteenth stays: 20 blocks.
    assert!(no_space(allocator.allocate_data(&disk, 301, true)));
    allocator.allocate_data(&disk, 300, true).unwrap();
    assert!(no_space(allocator.allocate_data(&disk, 1, true)));
    (0..5).for_each(|_| {
        allocator.allocate_node(&disk, 4, Interval::Active).unwrap();
    });
    assert!(no_space(allocator.allocate_node(&disk, 4, Interval::Active)));
}

/// Nodes need whole quads, so data take what is broken already as long as there is some.
#[test]
fn data_break_no_quad_of_the_reserve_while_there_are_other_blocks() {
    let (_, allocator, disk) = volume(1_024);
    let runs = data(&allocator, &disk, allocator.counts().free_blocks).unwrap();
    checkpoint(&allocator, &disk, 1);
    // Whole quads come first, where a search would begin; behind them one block of each quad.
    let quads: Vec<u64> = runs.iter().flat_map(|run| run.start()..run.end()).filter(|block| block % 4 == 0).collect();
    let (whole, broken) = quads[1..quads.len() - 1].split_at(40);
    whole.iter().for_each(|block| allocator.release(Extent::new(BlockAddr(*block), 4)).unwrap());
    broken.iter().for_each(|block| allocator.release(Extent::new(BlockAddr(*block), 1)).unwrap());
    for generation in 2..5 {
        checkpoint(&allocator, &disk, generation);
    }
    allocator.set_reserve(320);
    let before = allocator.counts();
    assert!(before.free_quads >= 40 && before.free_blocks >= before.free_quads * 4 + 100, "{before:?}");
    for taken in 0..100 {
        allocator.allocate_data(&disk, 1, true).unwrap();
        assert_eq!(allocator.counts().free_quads, before.free_quads, "after {taken} blocks");
    }
}

#[test]
fn a_large_file_lies_in_one_piece_and_nodes_lie_together() {
    let (_, allocator, disk) = volume(40 * GROUP_BLOCKS);
    let mut runs: Vec<Extent> = Vec::new();
    let mut nodes = BTreeSet::new();
    for _ in 0..200 {
        for run in data(&allocator, &disk, 256).unwrap() {
            match runs.last_mut() {
                Some(last) if last.end() == run.start() => last.blocks += run.blocks,
                _ => runs.push(run),
            }
        }
        nodes.insert(allocator.allocate_node(&disk, 4, Interval::Active).unwrap().0 / 512);
    }
    assert!(runs.len() <= 6, "50 MiB in {} runs", runs.len());
    assert!(nodes.len() <= 3, "200 nodes in {} regions", nodes.len());
    // Larger nodes are aligned to their size.
    for blocks in [4, 8, 16] {
        assert_eq!(allocator.allocate_node(&disk, blocks, Interval::Active).unwrap().0 % blocks, 0);
    }
}

#[test]
fn a_request_that_fails_changes_nothing() {
    let (geometry, allocator, disk) = volume(2 * GROUP_BLOCKS);
    data(&allocator, &disk, 40_000).unwrap();
    checkpoint(&allocator, &disk, 1);
    allocator.release(Extent::new(BlockAddr(4_096), 1_000)).unwrap();
    let root = checkpoint(&allocator, &disk, 2);
    let again = Allocator::new(geometry, root, root.free_blocks, Generation(2)).unwrap();
    let before = again.counts();
    // What group 0 has left is taken first; then the page of group 1 cannot be read.
    let lost = disk.pages.lock().remove(&geometry.home(0, 1, 0)).unwrap();
    let failure = again.allocate_data(&disk, before.free_blocks, true);
    assert_eq!(failure, Err(Tampered::AllocPage { group: 1, level: 0 }.into()));
    assert_eq!(again.counts(), before);
    disk.pages.lock().insert(geometry.home(0, 1, 0), lost);
    let all = again.allocate_data(&disk, before.free_blocks, true).unwrap();
    assert!(all.iter().any(|run| run.start() < GROUP_BLOCKS), "what was given back is found again");
    assert_eq!(again.counts().free_blocks, 0);
}

#[test]
fn a_search_in_vain_is_not_repeated() {
    let (_, allocator, disk) = volume(60 * GROUP_BLOCKS);
    let free = allocator.counts().free_blocks;
    data(&allocator, &disk, free).unwrap();
    checkpoint(&allocator, &disk, 1);
    let quads = (0..60).map(|group| Extent::new(BlockAddr(group * GROUP_BLOCKS + 4_096), 4));
    quads.for_each(|quad| allocator.release(quad).unwrap());
    checkpoint(&allocator, &disk, 2);
    checkpoint(&allocator, &disk, 3);
    // There are quads, but no two beside each other.
    assert!(no_space(allocator.allocate_node(&disk, 8, Interval::Active)));
    let before = disk.reads();
    (0..10).for_each(|_| assert!(no_space(allocator.allocate_node(&disk, 8, Interval::Active))));
    assert!(disk.reads() - before <= 10, "{} pages read in vain", disk.reads() - before);
    let node = allocator.allocate_node(&disk, 4, Interval::Active).unwrap();
    assert_eq!(node.0 % GROUP_BLOCKS, 4_096);
}

#[test]
fn the_versions_of_both_slots_stay_when_checkpoints_fail() {
    let (geometry, allocator, disk) = volume(70 * GROUP_BLOCKS);
    let mut roots = vec![];
    for generation in 1..=2 {
        data(&allocator, &disk, 100).unwrap();
        roots.push(checkpoint(&allocator, &disk, generation));
    }
    for _ in 0..4 {
        data(&allocator, &disk, 100).unwrap();
        allocator.freeze();
        allocator.write_pages(&disk, None).unwrap();
        allocator.unfreeze().unwrap();
        let used = roots.iter().map(|root| disk.demand_whole(&geometry, root).iter().filter(|used| **used).count());
        assert_eq!(used.collect::<Vec<_>>(), [100, 200]);
    }
    let root = checkpoint(&allocator, &disk, 3);
    assert_eq!(disk.demand_whole(&geometry, &root).iter().filter(|used| **used).count(), 600);
    disk.demand_whole(&geometry, &roots[1]);
}

#[test]
fn a_checkpoint_without_changes_writes_no_page() {
    let (_, allocator, disk) = volume(GROUP_BLOCKS);
    data(&allocator, &disk, 9).unwrap();
    let root = checkpoint(&allocator, &disk, 1);
    let written = *disk.serial.lock();
    assert_eq!(checkpoint(&allocator, &disk, 2), root);
    // What was taken and released in between leaves no trace either, but it waits like everything else.
    let run = data(&allocator, &disk, 5).unwrap()[0];
    allocator.release(run).unwrap();
    assert_eq!(checkpoint(&allocator, &disk, 3), root);
    assert_eq!(allocator.counts().pending_blocks, 5);
    assert_eq!(checkpoint(&allocator, &disk, 4), root);
    assert_eq!(allocator.counts().pending_blocks, 0);
    assert_eq!(*disk.serial.lock(), written);
}

#[test]
fn allocation_goes_on_while_pages_are_written() {
    /// Allocates, and looks at the counts, in the middle of a write.
    struct Busy<'a>(&'a Disk, &'a Allocator, Mutex<Vec<Extent>>);
    impl PageIo for Busy<'_> {
        fn read_page(&self, level: u8, group: u64, at: BlockAddr, entry: &AllocEntry) -> Result<Box<[u8; BLOCK_SIZE]>> {
            self.0.read_page(level, group, at, entry)
        }
        fn write_page(
            &self,
            level: u8,
            addr: BlockAddr,
            page: &[u8; BLOCK_SIZE],
            old: &AllocEntry,
        ) -> Result<(EpochId, Nonce, Tag)> {
            self.2.lock().extend(data(self.1, self.0, 3_000)?);
            self.0.write_page(level, addr, page, old)
        }
    }
    let (geometry, allocator, disk) = volume(5 * GROUP_BLOCKS);
    let mut all = Vec::new();
    for generation in 1..=4 {
        all.extend(data(&allocator, &disk, 10_000).unwrap());
        let busy = Busy(&disk, &allocator, Mutex::new(Vec::new()));
        allocator.freeze();
        let root = allocator.write_pages(&busy, None).unwrap();
        let used = disk.demand_whole(&geometry, &root).iter().filter(|used| **used).count();
        assert_eq!(used as u64, blocks_of(&all), "the checkpoint holds what was taken before its freeze");
        allocator.finish(Generation(generation)).unwrap();
        all.extend(busy.2.into_inner());
    }
    let distinct: BTreeSet<u64> = all.iter().flat_map(|run| run.start()..run.end()).collect();
    assert_eq!(distinct.len() as u64, blocks_of(&all), "nothing twice");
}

#[test]
fn what_became_free_in_long_runs_is_discarded_once_and_not_while_it_is_needed() {
    let (_, allocator, disk) = volume(4 * GROUP_BLOCKS);
    let runs = data(&allocator, &disk, 60_000).unwrap();
    checkpoint(&allocator, &disk, 1);
    runs.iter().for_each(|run| allocator.release(*run).unwrap());
    checkpoint(&allocator, &disk, 2);
    assert_eq!(allocator.discardable(), [], "still needed");
    checkpoint(&allocator, &disk, 3);
    // Some of it is in use again.
    let used: BTreeSet<u64> = loop {
        let again = data(&allocator, &disk, 500).unwrap();
        if again.iter().any(|run| runs.iter().any(|old| old.start() <= run.start() && run.start() < old.end())) {
            break again.iter().flat_map(|run| run.start()..run.end()).collect();
        }
    };
    let before = allocator.counts();
    let held = allocator.discardable();
    assert!(held.iter().all(|run| run.blocks >= 256 && (run.start()..run.end()).all(|addr| !used.contains(&addr))));
    assert!(blocks_of(&held) > 30_000 && blocks_of(&held) <= 60_000 - 16_384, "{}", blocks_of(&held));
    assert_eq!(allocator.discardable(), [], "each run once");
    let during = allocator.counts();
    assert_eq!(during.free_blocks, before.free_blocks - blocks_of(&held));
    assert_eq!(during.pending_blocks, blocks_of(&held));
    let rest = data(&allocator, &disk, during.free_blocks).unwrap();
    let disjoint = |run: &Extent| held.iter().all(|held| run.end() <= held.start() || held.end() <= run.start());
    assert!(rest.iter().all(disjoint), "held runs are nobody's");
    allocator.discard_done(&held).unwrap();
    assert_eq!(allocator.discard_done(&held), Err(Corrupt::Allocation(held[0].addr).into()));
    assert_eq!(allocator.counts().free_blocks, blocks_of(&held));
    assert_eq!(allocator.counts().free_quads, blocks_of(&held) / 4);
    data(&allocator, &disk, blocks_of(&held)).unwrap();
}

#[test]
fn readers_keep_what_they_began_with() {
    let (_, allocator, disk) = volume(GROUP_BLOCKS);
    let run = data(&allocator, &disk, 100).unwrap()[0];
    checkpoint(&allocator, &disk, 1);
    let pin = allocator.pin();
    let second = allocator.pin();
    allocator.release(run).unwrap();
    (2..6).for_each(|generation| {
        checkpoint(&allocator, &disk, generation);
    });
    assert_eq!(allocator.counts().pending_blocks, 100);
    drop(pin);
    assert_eq!(allocator.counts().pending_blocks, 100, "one reader is left");
    let later = allocator.pin();
    drop(second);
    assert_eq!(allocator.counts().pending_blocks, 0, "a reader that began later needs none of it");
    drop(later);
}

#[test]
fn spans_and_groups_agree() {
    assert_eq!([span(0), span(1), span(4)], [1, 64, 1 << 24]);
}

/// Pages that were made anew are all written by the first checkpoint, also those of groups in which nothing changes.
#[test]
fn made_pages_are_all_written() {
    struct Over<'a>(&'a Disk, &'a Made);
    impl PageIo for Over<'_> {
        fn read_page(&self, level: u8, group: u64, at: BlockAddr, entry: &AllocEntry) -> Result<Box<[u8; BLOCK_SIZE]>> {
            match self.1.page(level, group).filter(|_| is_made(entry)) {
                Some(page) => Ok(Box::new(*page)),
                None => self.0.read_page(level, group, at, entry),
            }
        }
        fn write_page(
            &self,
            level: u8,
            addr: BlockAddr,
            page: &[u8; BLOCK_SIZE],
            old: &AllocEntry,
        ) -> Result<(EpochId, Nonce, Tag)> {
            self.0.write_page(level, addr, page, old)
        }
    }
    let (geometry, _, disk) = volume(70 * GROUP_BLOCKS);
    let groups = [0, 3, 69];
    let in_use = groups.iter().map(|group| (*group, Box::new([1 << 63; BLOCK_SIZE / 8]))).collect();
    let made = Made::new(&geometry, &in_use, &BTreeMap::new());
    let allocator = Allocator::new(geometry, made.root, geometry.free_blocks(&made.root), Generation(1)).unwrap();
    allocator.freeze();
    let root = allocator.write_pages(&Over(&disk, &made), None).unwrap();
    assert!(!is_made(&root));
    let used = disk.demand_whole(&geometry, &root);
    for group in groups {
        assert!(used[(group * GROUP_BLOCKS + 64 * 100 + 63) as usize], "group {group}");
    }
}

#[test]
fn blocks_make_as_few_runs_as_their_order_allows() {
    let runs = |addrs: &[u64]| -> Vec<(u64, u64)> {
        Extent::runs(addrs.iter().map(|addr| BlockAddr(*addr))).iter().map(|run| (run.addr.0, run.blocks)).collect()
    };
    assert_eq!(runs(&[]), []);
    assert_eq!(runs(&[5, 6, 7]), [(5, 3)]);
    assert_eq!(runs(&[5, 6, 8]), [(5, 2), (8, 1)]);
    assert_eq!(runs(&[7, 6]), [(7, 1), (6, 1)]);
    assert_eq!(runs(&[5, 5]), [(5, 1), (5, 1)], "twice stays twice");
    assert_eq!(runs(&[GROUP_BLOCKS - 1, GROUP_BLOCKS, GROUP_BLOCKS + 1]), [(GROUP_BLOCKS - 1, 1), (GROUP_BLOCKS, 2)]);
}
