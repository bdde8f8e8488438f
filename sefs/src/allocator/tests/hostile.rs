//! Authentic pages whose author lies, and callers that give back what is not theirs.

use super::*;

/// Puts a page under the entry that `change` makes of the true one, and opens the volume with it.
fn forged(change: impl Fn(&mut AllocEntry, &mut [u8; BLOCK_SIZE])) -> Result<Vec<Extent>> {
    forged_and_asked_for(u64::MAX, change)
}

/// As `forged`, and allocates so many blocks, or all.
fn forged_and_asked_for(blocks: u64, change: impl Fn(&mut AllocEntry, &mut [u8; BLOCK_SIZE])) -> Result<Vec<Extent>> {
    let (geometry, allocator, disk) = volume(2 * GROUP_BLOCKS);
    data(&allocator, &disk, 10).unwrap();
    let mut root = checkpoint(&allocator, &disk, 1);
    {
        let mut pages = disk.pages.lock();
        let (_, page) = pages.get_mut(&geometry.home(1, 0, root.home)).unwrap();
        change(&mut root, page);
    }
    let allocator = Allocator::new(geometry, root, geometry.free_blocks(&root), Generation(1))?;
    let blocks = allocator.counts().free_blocks.min(blocks);
    allocator.allocate_data(&disk, blocks, true)
}

#[test]
fn counts_that_contradict_their_pages_are_corrupt() {
    let corrupt = |result: Result<Vec<Extent>>| matches!(result, Err(Error::Corrupt(Corrupt::AllocPage(..))));
    let child = |page: &mut [u8; BLOCK_SIZE], change: &dyn Fn(&mut AllocEntry)| {
        let bytes: &mut [u8; 64] = (&mut page[..64]).try_into().unwrap();
        let mut entry = AllocEntry::decode(bytes).unwrap();
        change(&mut entry);
        *bytes = entry.encode();
    };
    assert!(forged(|_, _| ()).is_ok());
    assert!(corrupt(forged(|root, _| root.free_blocks += 1)));
    assert!(corrupt(forged(|root, _| root.free_blocks = u64::MAX)));
    assert!(corrupt(forged(|root, _| root.free_quads = u32::MAX)));
    assert!(corrupt(forged(|root, _| root.free_quads -= 1)));
    for (blocks, quads) in [(1, 0), (0, 1), (u64::MAX - 1, 0), (u64::MAX / 2, u32::MAX / 2)] {
        assert!(corrupt(forged(|_, page| child(page, &|entry| {
            entry.free_blocks = entry.free_blocks.wrapping_add(blocks);
            entry.free_quads = entry.free_quads.wrapping_add(quads);
        }))));
    }
    // Parent and root agree on counts that the bitmap does not have.
    for (blocks, quads) in [(1, 0), (4, 1), (u64::MAX, 0), (0, u32::MAX)] {
        assert!(corrupt(forged(|root, page| {
            child(page, &|entry| {
                entry.free_blocks = entry.free_blocks.wrapping_add(blocks);
                entry.free_quads = entry.free_quads.wrapping_add(quads);
            });
            root.free_blocks = root.free_blocks.wrapping_add(blocks);
            root.free_quads = root.free_quads.wrapping_add(quads);
        })));
    }
    // A page for a group that does not exist.
    assert!(corrupt(forged(|_, page| page.copy_within(..64, 1024))));
    assert!(corrupt(forged(|_, page| page[130] = 9)), "an entry that does not decode");
}

#[test]
fn counts_are_refused_where_they_are_first_seen() {
    let why = |blocks, change: &dyn Fn(&mut AllocEntry)| match forged_and_asked_for(blocks, |root, _| change(root)) {
        Err(Error::Corrupt(Corrupt::AllocPage(0, why))) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(0, &|root| root.free_blocks = u64::MAX), "counts above what fits");
    assert_eq!(why(0, &|root| root.free_quads = u32::MAX - 1), "counts above what fits");
    assert_eq!(why(1, &|root| root.free_blocks -= 1), "a summary contradicts its counts");
    assert_eq!(why(1, &|root| root.free_quads -= 1), "a summary contradicts its counts");
}

#[test]
fn a_bitmap_that_frees_reserved_blocks_is_corrupt() {
    let (geometry, allocator, disk) = volume(GROUP_BLOCKS);
    data(&allocator, &disk, 1).unwrap();
    let root = checkpoint(&allocator, &disk, 1);
    {
        // Block 3, of the header, is free in place of one that was.
        let mut pages = disk.pages.lock();
        let (_, page) = pages.get_mut(&geometry.home(0, 0, 0)).unwrap();
        page[0] &= !8;
        page[1_000] |= 1;
    }
    let allocator = Allocator::new(geometry, root, root.free_blocks, Generation(1)).unwrap();
    let failure = allocator.allocate_data(&disk, 1, false);
    assert_eq!(failure, Err(Corrupt::AllocPage(0, "a reserved block is marked free").into()));
}

#[test]
fn what_is_not_in_use_cannot_be_released_nor_taken_twice() {
    let (geometry, allocator, disk) = volume(2 * GROUP_BLOCKS);
    let corrupt = |addr: u64| Err(Corrupt::Allocation(BlockAddr(addr)).into());
    for addr in [3, 70, 127, GROUP_BLOCKS, geometry.total_blocks() - 16, geometry.total_blocks(), 1 << 47, u64::MAX] {
        assert_eq!(allocator.release(Extent::new(BlockAddr(addr), 1)), corrupt(addr));
        assert_eq!(allocator.mark_taken(&disk, Extent::new(BlockAddr(addr), 1)).map(drop), corrupt(addr));
    }
    let run = data(&allocator, &disk, 8).unwrap()[0];
    assert_eq!(
        allocator.mark_taken(&disk, Extent::new(BlockAddr(run.start() + 5), 9)).map(drop),
        corrupt(run.start() + 5)
    );
    assert_eq!(
        allocator.release(Extent::new(BlockAddr(run.start() + 5), 9)),
        corrupt(run.start() + 8),
        "the first free one"
    );
    assert_eq!(allocator.name(run), corrupt(run.start()), "named twice");
    assert_eq!(allocator.give_back(run), corrupt(run.start()), "named is not unwanted");
    // Of a group that was never looked at, the checkpoint finds it; until then nobody gets the block.
    let stray = Extent::new(BlockAddr(GROUP_BLOCKS + 700), 1);
    let fresh = Allocator::new(geometry, ABSENT, geometry.free_blocks(&ABSENT), Generation(0)).unwrap();
    fresh.release(stray).unwrap();
    let free = fresh.counts().free_blocks;
    let taken = fresh.allocate_data(&disk, free - 1, false).unwrap();
    assert!(taken.iter().all(|run| run.end() <= stray.start() || run.start() > stray.start()));
    fresh.freeze();
    assert_eq!(fresh.write_pages(&disk, None).map(drop), corrupt(stray.start()));
}

#[test]
fn what_waits_or_is_being_discarded_cannot_be_released_again() {
    let (_, allocator, disk) = volume(2 * GROUP_BLOCKS);
    let runs = data(&allocator, &disk, 30_000).unwrap();
    checkpoint(&allocator, &disk, 1);
    let again = |run: Extent| assert_eq!(allocator.release(run), Err(Corrupt::Allocation(run.addr).into()));
    runs.iter().for_each(|run| allocator.release(*run).unwrap());
    runs.iter().copied().for_each(again);
    allocator.freeze();
    runs.iter().copied().for_each(again);
    allocator.write_pages(&disk, None).unwrap();
    runs.iter().copied().for_each(again);
    allocator.finish(Generation(2)).unwrap();
    runs.iter().copied().for_each(again);
    checkpoint(&allocator, &disk, 3);
    let held = allocator.discardable();
    assert!(!held.is_empty());
    held.iter().copied().for_each(again);
    allocator.discard_done(&held).unwrap();
    runs.iter().copied().for_each(again);
}

#[test]
fn a_checkpoint_takes_no_block_that_its_pages_say_is_in_use() {
    let (_, allocator, disk) = volume(GROUP_BLOCKS);
    let run = data(&allocator, &disk, 1).unwrap()[0];
    checkpoint(&allocator, &disk, 1);
    allocator.freeze();
    // No call leads here; the pages are the last to notice a mistake of ours.
    allocator.state.lock().sets.frozen.as_mut().unwrap().taken.insert(run).unwrap();
    assert_eq!(allocator.write_pages(&disk, None), Err(Corrupt::Allocation(run.addr).into()));
}
