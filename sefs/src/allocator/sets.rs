//! The sets of addresses that lie between the stored bitmaps and the truth, and how checkpoints move them.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use super::free::State;
use super::intervals::IntervalSet;
use super::{Extent, Interval, PageIo};
use crate::error::{Corrupt, Error, Result};
use crate::sync::Mutex;
use crate::types::{BlockAddr, Generation};

/// How far the checkpoint under construction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// It still takes and drops blocks.
    Open,
    /// Its bits are being or have been set.
    Closed,
    /// Its pages are written.
    Written,
}

/// The interval of the checkpoint under construction.
pub(super) struct Frozen {
    /// Taken and released by operations before the freeze.
    pub(super) taken: IntervalSet,
    pub(super) released: IntervalSet,
    /// Taken and released by the checkpoint itself.
    pub(super) built: IntervalSet,
    pub(super) dropped: IntervalSet,
    pub(super) phase: Phase,
}

/// All sets.
#[derive(Default)]
pub(super) struct Sets {
    /// Allocated, and not named by any log group yet.
    unnamed: IntervalSet,
    taken: IntervalSet,
    released: IntervalSet,
    pub(super) frozen: Option<Frozen>,
    /// Released by the durable checkpoint of that number.
    waiting: BTreeMap<Generation, IntervalSet>,
    /// Being discarded.
    pub(super) held: IntervalSet,
}

impl Sets {
    /// Whatever is not free though its bit may be clear.
    pub(super) fn unavailable(&self) -> impl Iterator<Item = &IntervalSet> {
        self.in_use().chain(self.released()).chain(self.waiting.values()).chain([&self.held])
    }

    /// Taken and not yet in the bitmaps.
    pub(super) fn in_use(&self) -> impl Iterator<Item = &IntervalSet> {
        let frozen = self.frozen.iter().flat_map(|frozen| [&frozen.taken, &frozen.built]);
        frozen.chain([&self.taken, &self.unnamed])
    }

    /// Released and not yet in the bitmaps.
    pub(super) fn released(&self) -> impl Iterator<Item = &IntervalSet> {
        let frozen = self.frozen.iter().flat_map(|frozen| [&frozen.released, &frozen.dropped]);
        frozen.chain([&self.released])
    }

    pub(super) fn pending_blocks(&self) -> u64 {
        let gone = self.released().chain(self.waiting.values()).chain([&self.held]);
        gone.map(IntervalSet::blocks).sum()
    }

    pub(super) fn add_taken(&mut self, run: Extent, interval: Interval) -> Result<()> {
        let set = match interval {
            Interval::Active => &mut self.unnamed,
            Interval::Frozen => &mut self.open().built,
        };
        set.insert(run).map_err(twice)
    }

    pub(super) fn wait(&mut self, generation: Generation, run: Extent) -> Result<()> {
        self.waiting.entry(generation).or_default().insert(run).map_err(twice)
    }

    fn open(&mut self) -> &mut Frozen {
        let frozen = self.frozen.as_mut().filter(|frozen| frozen.phase == Phase::Open);
        frozen.expect("a checkpoint takes and drops blocks only between freeze and write_pages")
    }
}

impl State {
    pub(super) fn mark_taken(&mut self, io: &dyn PageIo, run: Extent) -> Result<()> {
        self.know_quads(io)?;
        self.demand_free(io, run)?;
        self.take(io, run)?;
        self.sets.taken.insert(run).map_err(twice)
    }

    /// Whether a block is held back by [`State::hold_released`]; from now on it is not, but in use.
    pub(super) fn take_held_back(&mut self, run: Extent) -> Result<bool> {
        let waits = |set: &IntervalSet| set.within(run).map(|part| part.blocks).sum::<u64>() == run.blocks;
        let Some(set) = self.sets.waiting.values_mut().find(|set| waits(set)) else { return Ok(false) };
        set.remove(run);
        self.sets.taken.insert(run).map_err(twice)?;
        Ok(true)
    }

    /// A log group names these blocks: they belong to the interval that its layer belongs to.
    pub(super) fn name(&mut self, run: Extent) -> Result<()> {
        let unnamed: u64 = self.sets.unnamed.within(run).map(|part| part.blocks).sum();
        if unnamed != run.blocks {
            return Err(twice(run.addr));
        }
        self.sets.unnamed.remove(run);
        self.sets.taken.insert(run).map_err(twice)
    }

    pub(super) fn release(&mut self, run: Extent, interval: Interval) -> Result<()> {
        if !self.geometry.is_usable(run) {
            return Err(twice(run.addr));
        }
        let gone = self.sets.released().chain(self.sets.waiting.values()).chain([&self.sets.held]);
        if let Some(common) = gone.filter_map(|set| set.first_common(run)).next() {
            return Err(twice(common));
        }
        if let Some(free) = self.first_free(run) {
            return Err(twice(free));
        }
        let set = match interval {
            Interval::Active => &mut self.sets.released,
            Interval::Frozen => &mut self.sets.open().dropped,
        };
        set.insert(run).map_err(twice)
    }

    pub(super) fn give_back(&mut self, run: Extent) -> Result<()> {
        let unnamed: u64 = self.sets.unnamed.within(run).map(|part| part.blocks).sum();
        if unnamed != run.blocks {
            return Err(twice(run.addr));
        }
        self.sets.unnamed.remove(run);
        self.make_free(run);
        Ok(())
    }

    pub(super) fn freeze(&mut self) {
        assert!(self.sets.frozen.is_none(), "one checkpoint at a time");
        self.sets.frozen = Some(Frozen {
            taken: core::mem::take(&mut self.sets.taken),
            released: core::mem::take(&mut self.sets.released),
            built: IntervalSet::new(),
            dropped: IntervalSet::new(),
            phase: Phase::Open,
        });
    }

    pub(super) fn unfreeze(&mut self) -> Result<()> {
        let Some(frozen) = self.sets.frozen.take() else { return Ok(()) };
        if frozen.phase == Phase::Written {
            self.pages.replace(self.durable_root, core::iter::empty());
        }
        self.sets.taken.absorb(&frozen.taken).map_err(twice)?;
        self.sets.released.absorb(&frozen.released).map_err(twice)?;
        frozen.built.iter().for_each(|run| self.make_free(run));
        Ok(())
    }

    pub(super) fn finish(&mut self, generation: Generation) -> Result<()> {
        let frozen = self.sets.frozen.take().filter(|frozen| frozen.phase == Phase::Written);
        let frozen = frozen.expect("a checkpoint is finished once, after write_pages");
        self.durable_root = self.pages.root;
        let waiting = self.sets.waiting.entry(generation).or_default();
        waiting.absorb(&frozen.released).map_err(twice)?;
        waiting.absorb(&frozen.dropped).map_err(twice)
    }

    /// Frees what no slot and no reader needs any more.
    pub(super) fn ripen(&mut self, pins: &Pins) {
        let limit = pins.oldest_needed();
        while let Some(entry) = self.sets.waiting.first_entry()
            && *entry.key() < limit
        {
            let ripe = entry.remove();
            ripe.iter().for_each(|run| self.make_free_after_use(run));
        }
    }
}

fn twice(addr: BlockAddr) -> Error {
    Corrupt::Allocation(addr).into()
}

/// The newest durable checkpoint, and which ones readers hold.
pub(super) struct Pins(Mutex<Pinned>);

struct Pinned {
    current: Generation,
    readers: BTreeMap<Generation, u64>,
}

/// A reader's hold on the state it began with.
pub(crate) struct Pin {
    pins: Arc<Pins>,
    generation: Generation,
}

impl Pins {
    pub(super) fn new(current: Generation) -> Pins {
        Pins(Mutex::new(Pinned { current, readers: BTreeMap::new() }))
    }

    pub(super) fn current(&self) -> Generation {
        self.0.lock().current
    }

    pub(super) fn advance(&self, generation: Generation) {
        self.0.lock().current = generation;
    }

    pub(super) fn pin(pins: &Arc<Pins>) -> Pin {
        let mut pinned = pins.0.lock();
        let generation = pinned.current;
        *pinned.readers.entry(generation).or_default() += 1;
        Pin { pins: pins.clone(), generation }
    }

    /// What checkpoints below this number released is needed by nobody: they have a durable successor, and every reader
    /// began with one of them or later.
    pub(super) fn oldest_needed(&self) -> Generation {
        let pinned = self.0.lock();
        let reader = pinned.readers.keys().next().map(|oldest| Generation(oldest.0.saturating_add(1)));
        reader.map_or(pinned.current, |reader| reader.min(pinned.current))
    }
}

impl Pin {
    /// The checkpoint that was the newest durable one when the reader began.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.pins.0.lock();
        if let Some(count) = pinned.readers.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                pinned.readers.remove(&self.generation);
            }
        }
    }
}
