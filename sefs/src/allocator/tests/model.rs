//! Random steps, compared with plain sets of addresses: over checkpoints that succeed and fail, readers, and crashes.

use proptest::prelude::*;

use super::*;

/// What the allocator must do, on a small volume.
struct Model {
    geometry: Geometry,
    disk: Disk,
    allocator: Allocator,
    generation: u64,
    /// Blocks of the newest state, each with the interval in which it was taken.
    live: BTreeMap<u64, u64>,
    /// What each of the last two checkpoints names, and its root.
    slots: [(BTreeSet<u64>, AllocEntry, u64); 2],
    /// Roots and blocks of checkpoints, oldest first, with the readers that began with them.
    readers: Vec<(Pin, BTreeSet<u64>)>,
    /// Taken and not named; freed and not reusable.
    unnamed: BTreeSet<u64>,
    released: BTreeSet<u64>,
    /// Released by the checkpoint of that number.
    waiting: BTreeMap<u64, BTreeSet<u64>>,
}

#[derive(Clone, Debug)]
enum Step {
    Data(u64),
    Unwanted(u64),
    Node,
    Block,
    Release(usize, usize),
    Checkpoint { nodes: usize, drop: usize, fails: bool },
    Pin,
    Unpin(usize),
    Crash { slot_lost: bool },
}

impl Model {
    fn new() -> Model {
        // Two groups, the second one small; the ring leaves group 0 little, so that both are used.
        let geometry = Geometry::new(GROUP_BLOCKS + 700, 64, 32_000).unwrap();
        let free = geometry.free_blocks(&ABSENT);
        let allocator = Allocator::new(geometry, ABSENT, free, Generation(0)).unwrap();
        let slots = [(BTreeSet::new(), ABSENT, 0), (BTreeSet::new(), ABSENT, 0)];
        let disk = Disk::default();
        let mut model = Model {
            geometry,
            disk,
            allocator,
            generation: 0,
            live: BTreeMap::new(),
            slots,
            readers: Vec::new(),
            unnamed: BTreeSet::new(),
            released: BTreeSet::new(),
            waiting: BTreeMap::new(),
        };
        model.allocator.set_reserve(40);
        model.checkpoint(0, 0);
        model
    }

    fn unavailable(&self) -> BTreeSet<u64> {
        let mut all: BTreeSet<u64> = self.live.keys().copied().collect();
        all.extend(&self.unnamed);
        all.extend(&self.released);
        all.extend(self.waiting.values().flatten());
        all
    }

    fn free(&self) -> u64 {
        self.geometry.free_blocks(&ABSENT) - self.unavailable().len() as u64
    }

    fn free_quads(&self) -> u64 {
        let used = self.unavailable();
        let free = (0..self.geometry.total_blocks()).step_by(4).filter(|start| {
            let quad = Extent::new(BlockAddr(*start), 4);
            self.geometry.is_usable(quad) && used.range(*start..*start + 4).next().is_none()
        });
        free.count() as u64
    }

    fn demand_unused(&self, run: Extent) {
        assert!(self.geometry.is_usable(run), "{run:?} is no place for anything");
        let unavailable = self.unavailable();
        for addr in run.start()..run.end() {
            assert!(!unavailable.contains(&addr), "block {addr} was not free");
            assert!(self.slots.iter().all(|slot| !slot.0.contains(&addr)), "block {addr} belongs to a slot");
            assert!(self.readers.iter().all(|(_, view)| !view.contains(&addr)), "block {addr} is being read");
        }
    }

    fn took(&mut self, run: Extent) {
        self.demand_unused(run);
        self.live.extend((run.start()..run.end()).map(|addr| (addr, self.generation + 1)));
    }

    fn data(&mut self, blocks: u64) {
        let free = self.free();
        match self.allocator.allocate_data(&self.disk, blocks, false) {
            Ok(runs) => {
                assert_eq!(blocks_of(&runs), blocks);
                assert!(free - blocks >= 40, "the reserve was touched");
                for run in runs {
                    self.allocator.name(run).unwrap();
                    self.took(run);
                }
            }
            Err(error) => {
                assert_eq!(error, Posix::NoSpace.into());
                let quads = self.free_quads();
                let thrifty = free - quads * 4 + quads.saturating_sub(10) * 4;
                assert!(blocks > thrifty.min(free.saturating_sub(40)), "{blocks} of {free} blocks were refused");
            }
        }
    }

    fn node(&mut self, interval: Interval) -> Option<Extent> {
        match self.allocator.allocate_node(&self.disk, 4, interval) {
            Ok(addr) => {
                assert_eq!(addr.0 % 4, 0);
                Some(Extent::new(addr, 4))
            }
            Err(error) => {
                assert_eq!(error, Posix::NoSpace.into());
                assert_eq!(self.free_quads(), 0, "a quad was free");
                None
            }
        }
    }

    /// Live blocks from a place on, in neighbouring runs.
    fn pick(&self, at: usize, count: usize) -> Vec<u64> {
        let from = at % self.live.len().max(1);
        self.live.keys().skip(from).take(count).copied().collect()
    }

    fn release(&mut self, at: usize, count: usize) {
        for addr in self.pick(at, count) {
            self.allocator.release(Extent::new(BlockAddr(addr), 1)).unwrap();
            let again = self.allocator.release(Extent::new(BlockAddr(addr), 1));
            assert_eq!(again, Err(Corrupt::Allocation(BlockAddr(addr)).into()), "released twice");
            self.live.remove(&addr);
            self.released.insert(addr);
        }
    }

    /// A checkpoint that writes nodes, and drops blocks, of its own.
    fn checkpoint(&mut self, nodes: usize, drop: usize) {
        self.allocator.freeze();
        let frozen = core::mem::take(&mut self.released);
        self.waiting.insert(self.generation + 1, frozen);
        for _ in 0..nodes {
            let Some(run) = self.node(Interval::Frozen) else { break };
            self.took(run);
        }
        for addr in self.pick(drop, drop) {
            self.allocator.release_frozen(Extent::new(BlockAddr(addr), 1)).unwrap();
            self.live.remove(&addr);
            self.waiting.get_mut(&(self.generation + 1)).unwrap().insert(addr);
        }
        let root = self.allocator.write_pages(&self.disk, None).unwrap();
        let state = self.live.keys().copied().collect();
        let written = self.disk.demand_whole(&self.geometry, &root);
        let in_use: BTreeSet<u64> = (0..).zip(&written).filter(|(_, used)| **used).map(|(addr, _)| addr).collect();
        assert_eq!(in_use, state, "the bitmaps hold exactly the checkpoint's state");
        for slot in &self.slots {
            self.disk.demand_whole(&self.geometry, &slot.1);
        }
        self.generation += 1;
        self.allocator.finish(Generation(self.generation)).unwrap();
        self.slots.swap(0, 1);
        self.slots[1] = (state, root, self.generation);
        self.ripen();
    }

    /// A checkpoint that fails while its pages are written: nothing has happened.
    fn failing_checkpoint(&mut self, nodes: usize, drop: usize) {
        let before = self.allocator.counts();
        let mut abandoned = Vec::new();
        self.allocator.freeze();
        for _ in 0..nodes {
            let Some(run) = self.node(Interval::Frozen) else { break };
            self.demand_unused(run);
            self.unnamed.extend(run.start()..run.end());
            abandoned.push(run);
        }
        for addr in self.pick(drop, drop) {
            self.allocator.release_frozen(Extent::new(BlockAddr(addr), 1)).unwrap();
        }
        if drop.is_multiple_of(2) {
            *self.disk.failing.lock() = true;
            if let Ok(root) = self.allocator.write_pages(&self.disk, None) {
                assert_eq!(root, self.slots[1].1, "only a checkpoint without changes does without writing");
            }
            *self.disk.failing.lock() = false;
        } else {
            // The pages were written, but the slot was not.
            self.allocator.write_pages(&self.disk, None).unwrap();
        }
        self.allocator.unfreeze().unwrap();
        abandoned.iter().flat_map(|run| run.start()..run.end()).for_each(|addr| assert!(self.unnamed.remove(&addr)));
        assert_eq!(self.allocator.counts().free_blocks, before.free_blocks);
        assert_eq!(self.allocator.counts().pending_blocks, before.pending_blocks);
    }

    fn ripen(&mut self) {
        let oldest = self.readers.iter().map(|(pin, _)| pin.generation().0).min();
        let limit = oldest.map_or(self.generation, |oldest| self.generation.min(oldest + 1));
        self.waiting.retain(|generation, _| *generation >= limit);
    }

    /// The volume is opened again: from the newest slot, or from the one before when that is lost.
    fn crash(&mut self, slot_lost: bool) {
        self.readers.clear();
        let usable = slot_lost && self.slots[0].1.present;
        let at = if usable { 0 } else { 1 };
        let (state, root, generation) = self.slots[at].clone();
        let free = self.geometry.free_blocks(&root);
        self.allocator = Allocator::new(self.geometry, root, free, Generation(generation)).unwrap();
        self.allocator.set_reserve(40);
        self.waiting.clear();
        self.unnamed.clear();
        self.released.clear();
        self.generation = generation;
        if at == 1 {
            self.allocator.hold_released(&self.disk, &self.slots[0].1).unwrap();
            let gone = self.slots[0].0.difference(&state).copied().collect();
            self.waiting.insert(generation, gone);
        } else {
            // The lost slot names nothing any more.
            self.slots[1] = self.slots[0].clone();
        }
        // The log tells about half of what was taken since, and about what was released.
        let newer: Vec<u64> = self.live.keys().filter(|addr| !state.contains(*addr)).copied().collect();
        let waiting: BTreeSet<u64> = self.waiting.values().flatten().copied().collect();
        let newer: Vec<u64> = newer.into_iter().filter(|addr| addr % 2 == 0 && !waiting.contains(addr)).collect();
        let dead: Vec<u64> = state.iter().filter(|addr| !self.live.contains_key(addr)).copied().collect();
        self.live = state.iter().map(|addr| (*addr, generation)).collect();
        for addr in newer {
            self.allocator.mark_taken(&self.disk, Extent::new(BlockAddr(addr), 1)).unwrap();
            let again = self.allocator.mark_taken(&self.disk, Extent::new(BlockAddr(addr), 1));
            assert_eq!(again, Err(Corrupt::Allocation(BlockAddr(addr)).into()), "taken twice");
            self.took(Extent::new(BlockAddr(addr), 1));
        }
        for addr in dead {
            self.allocator.release(Extent::new(BlockAddr(addr), 1)).unwrap();
            self.live.remove(&addr);
            self.released.insert(addr);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Data(blocks) => self.data(blocks),
            Step::Unwanted(blocks) => {
                for run in self.allocator.allocate_data(&self.disk, blocks, true).unwrap_or_default() {
                    self.demand_unused(run);
                    self.unnamed.extend(run.start()..run.end());
                    if run.blocks % 2 == 0 {
                        self.allocator.give_back(run).unwrap();
                        (run.start()..run.end()).for_each(|addr| assert!(self.unnamed.remove(&addr)));
                    }
                }
            }
            Step::Node => {
                if let Some(run) = self.node(Interval::Active) {
                    self.allocator.name(run).unwrap();
                    self.took(run);
                }
            }
            Step::Block => {
                if let Ok(addr) = self.allocator.allocate_block(&self.disk, Interval::Active) {
                    self.allocator.name(Extent::new(addr, 1)).unwrap();
                    self.took(Extent::new(addr, 1));
                } else {
                    assert_eq!(self.free(), 0);
                }
            }
            Step::Release(at, count) => self.release(at, count),
            Step::Checkpoint { nodes, drop, fails: false } => self.checkpoint(nodes, drop),
            Step::Checkpoint { nodes, drop, fails: true } => self.failing_checkpoint(nodes, drop),
            Step::Pin => {
                // A reader sees its checkpoint and what came since.
                let view = self.live.keys().copied().collect();
                self.readers.push((self.allocator.pin(), view));
            }
            Step::Unpin(at) => {
                if !self.readers.is_empty() {
                    self.readers.swap_remove(at % self.readers.len());
                }
                self.ripen();
            }
            Step::Crash { slot_lost } => self.crash(slot_lost),
        }
        self.demand_counts();
    }

    fn demand_counts(&self) {
        let counts = self.allocator.counts();
        assert_eq!(counts.free_blocks, self.free(), "free blocks");
        let pending = self.released.len() + self.waiting.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(counts.pending_blocks, pending as u64, "pending blocks");
        let quads = self.free_quads();
        assert!(counts.free_quads <= quads, "more quads than there are");
        let mut state = self.allocator.state.lock();
        state.resolve_all(&self.disk).unwrap();
        assert_eq!(state.counts().free_quads, quads, "free quads");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..300).prop_map(Step::Data),
        2 => (1_u64..40).prop_map(Step::Data),
        1 => (1_u64..40).prop_map(Step::Unwanted),
        4 => Just(Step::Node),
        2 => Just(Step::Block),
        6 => (0_usize..2000, 1_usize..300).prop_map(|(at, count)| Step::Release(at, count)),
        5 => (0_usize..6, 0_usize..8, prop::bool::weighted(0.2))
            .prop_map(|(nodes, drop, fails)| Step::Checkpoint { nodes, drop, fails }),
        1 => Just(Step::Pin),
        1 => (0_usize..4).prop_map(Step::Unpin),
        1 => any::<bool>().prop_map(|slot_lost| Step::Crash { slot_lost }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model_over_checkpoints_readers_and_crashes(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        steps.iter().for_each(|step| model.step(step));
    }
}
